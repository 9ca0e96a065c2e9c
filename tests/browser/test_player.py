"""Time travel: the player over long episodes, errors, rewards and differences."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.browser.pages import InteractPage

_FILL = """
async (count) => {
  const player = document.querySelector("episode-player");
  const { EpisodeLog } = await import(new URL("episode.js", document.baseURI).href);
  const log = new EpisodeLog();
  player.log = log;
  const timings = { queueNs: 2e4, environmentNs: 5e4, encodeNs: 0, roundTripNs: 2e5 };
  const own = { at: 0, terminated: false, truncated: false, dropped: 0, timings };
  for (let seq = 1; seq <= count; seq += 1) {
    const failed = seq === 5000 || seq === 15000;
    log.append({ ...own, seq, kind: failed ? "error" : seq === 1 ? "reset" : "step",
      request: failed || seq > 1 ? { move: seq } : { seed: 1 },
      payload: failed ? { code: "invalid_action", message: "no" } : { at: seq },
      reward: failed || seq === 1 ? null : seq === 12000 ? 50 : Math.sin(seq),
      requestBytes: 12, payloadBytes: 10 });
  }
}
"""


def _player(page: Page) -> Locator:
    return page.locator("episode-player")


async def _fill(page: Page, pane_url: str, count: int) -> Locator:
    await InteractPage(page, pane_url).open()
    await page.evaluate(_FILL, count)
    player = _player(page)
    await expect(player).to_contain_text(f"{count:,} of {count:,}")
    return player


async def test_a_long_episode_stays_smooth(page: Page, pane_url: str) -> None:
    """Twenty thousand steps are moved through without a long task."""
    player = await _fill(page, pane_url, 20_000)
    scrubber = player.get_by_role("slider", name="Step")
    await page.evaluate(
        """() => {
          window.longest = 0;
          new PerformanceObserver((list) => {
            for (const { duration } of list.getEntries())
              window.longest = Math.max(window.longest, duration);
          }).observe({ type: "longtask" });
        }"""
    )
    for _ in range(20):
        await scrubber.press("ArrowLeft")
    await expect(player).to_contain_text("19,980 of 20,000")
    await scrubber.press("Home")
    await expect(player).to_contain_text("1 of 20,000")
    await expect(player.get_by_role("row", selected=True)).to_contain_text("reset")
    assert await player.get_by_role("row").count() < 60
    longest = await page.evaluate("window.longest")
    # None was seen, which means none of 50 ms; the bound is for a busy machine.
    assert longest < 500


async def test_jumps_to_errors_and_large_rewards(page: Page, pane_url: str) -> None:
    """Buttons and keys find them, forwards, backwards and around."""
    player = await _fill(page, pane_url, 20_000)
    await player.get_by_role("slider", name="Step").press("Home")
    for place in ("5,000", "15,000"):
        await player.get_by_role("button", name="Next error").click()
        await expect(player).to_contain_text(f"{place} of 20,000")
    await page.keyboard.press("E")
    await expect(player).to_contain_text("5,000 of 20,000")
    await player.get_by_role("button", name="Next large reward").click()
    await expect(player).to_contain_text("12,000 of 20,000")
    await page.keyboard.press("r")
    await expect(player).to_contain_text("from the other end")
    await expect(player).to_contain_text("12,000 of 20,000")


async def test_differences_between_any_two_steps(page: Page, pane_url: str) -> None:
    """With the step before, and with one that was chosen."""
    player = await _fill(page, pane_url, 300)
    slider = player.get_by_role("slider", name="Step")
    await player.get_by_text("Difference between observations").click()
    await slider.press("ArrowLeft")
    await expect(player).to_contain_text("From record 298 to record 299")
    await expect(player.locator(".diff ins")).to_have_text("299")
    await expect(player.locator(".diff del")).to_have_text("298")
    await player.get_by_role("button", name="Compare others with this step").click()
    await slider.press("Home")
    await expect(player).to_contain_text("From record 299 to record 1")
    await expect(player.locator(".diff ins")).to_have_text("1")


async def test_charts_say_their_numbers(page: Page, pane_url: str) -> None:
    """In words for those who do not see them; a click selects."""
    player = await _fill(page, pane_url, 300)
    latency = player.get_by_role("img", name="Latency")
    await expect(latency.locator("desc")).to_contain_text("wire: latest 130 µs")
    await expect(latency.locator("desc")).to_contain_text("queue: latest 20 µs")
    # Labels stand over the drawing, and are read on a ground of their own.
    grounds = await player.locator(".chart-body").first.evaluate(
        """(body) => [body, body.querySelector(".chart-scale span")].map(
          (element) => getComputedStyle(element).backgroundColor)"""
    )
    assert grounds[0] == grounds[1]
    box = await latency.bounding_box()
    assert box is not None
    await latency.click(position={"x": box["width"] / 2, "y": 40})
    await expect(player).to_contain_text("of 300 · episode 1")
    await expect(player.get_by_role("slider", name="Step")).not_to_have_value("299")


async def test_memory_is_bounded(page: Page, pane_url: str) -> None:
    """The oldest records go, and are counted; sums stay."""
    await InteractPage(page, pane_url).open()
    held = await page.evaluate(
        """async () => {
          const url = new URL("episode.js", document.baseURI).href;
          const { EpisodeLog } = await import(url);
          const log = new EpisodeLog(1e6);
          for (let seq = 1; seq <= 5000; seq += 1)
            log.append({ kind: "step", seq, reward: 1, dropped: 0, requestBytes: 100,
              payloadBytes: 500 });
          return [log.records.length, log.forgotten, log.records[0].seq,
            log.marks.length, log.totalReward];
        }"""
    )
    count, forgotten, first, marks, total = held
    assert 800 <= count <= 1000
    assert count + forgotten == 5000
    assert first == forgotten + 1
    assert marks == count
    assert total == 5000


async def test_where_records_are_is_known_again_after_losses(
    page: Page, pane_url: str
) -> None:
    """A row that tells it tells it of all records since the last loss."""
    await InteractPage(page, pane_url).open()
    marks = await page.evaluate(
        """async () => {
          const url = new URL("episode.js", document.baseURI).href;
          const { EpisodeLog } = await import(url);
          const log = new EpisodeLog();
          document.querySelector("episode-player").log = log;
          const own = { terminated: false, truncated: false, timings: null, at: 0 };
          const add = (kind, reward, dropped = 0) =>
            log.append({ ...own, kind, reward, dropped, seq: 1, request: null,
              payload: {}, requestBytes: 1, payloadBytes: 1 });
          log.place({ episode: 1, step: 0, total: 0 });
          add("step", 1);
          add("step", 1, 5);
          add("step", 2, 7);
          add("state", null);
          add("step", 3);
          log.place({ episode: 4, step: 9, total: 20 });
          await new Promise(requestAnimationFrame);
          return log.marks.map(({ episode, step, total }) => [episode, step, total]);
        }"""
    )
    lost = [None, None, None]
    assert marks == [[1, 1, 1], lost, [4, 8, 17], [4, 8, 17], [4, 9, 20]]
    await expect(_player(page)).to_contain_text(
        "5 of 5 · episode 4, step 9, total reward 20"
    )


@pytest.mark.parametrize("what", ["step", "all"])
async def test_steps_are_copied(page: Page, pane_url: str, what: str) -> None:
    """As a program and as data."""
    context: BrowserContext = page.context
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    view = await InteractPage(page, pane_url).open()
    await view.reset(seed=3)
    await view.field("message").fill("copy me")
    await view.step()
    read = "navigator.clipboard.readText()"
    await page.get_by_role("button", name=f"Copy {what} as Python").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    python = await page.evaluate(read)
    assert 'await env.step({"message": "copy me"})' in python
    assert ("env.reset(seed=3)" in python) is (what == "all")
    await page.get_by_role("button", name=f"Copy {what} as JSON").click()
    await expect(page.get_by_role("button", name="Copied")).to_have_count(2)
    copied = json.loads(await page.evaluate(read))
    last = copied if what == "step" else copied[-1]
    assert last["request"] == {"message": "copy me"}
    assert last["kind"] == "step"
