"""Sessions that are watched and taken over while their owners go on."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from playwright.async_api import Page, expect
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from openenv_async import GenericEnv, TakenOver
from tests.browser.conftest import NewPage
from tests.browser.pages import open_view

_LARGE = "x" * 60_000
_STALL = "{ const end = Date.now() + 3000; while (Date.now() < end); }"


def _socket(pane_url: str) -> str:
    return pane_url.replace("http://", "ws://").removesuffix("/web/")


def _trainer(pane_url: str, environment: str = "echo_env", **options: Any) -> Any:
    return GenericEnv(_socket(pane_url), environment=environment, **options)


async def _follow(page: Page, pane_url: str, session: str | None) -> None:
    await open_view(page, pane_url, f"sessions/{session}")
    await expect(page.get_by_role("button", name="Take over")).to_be_enabled()


async def test_sessions_are_listed_filtered_and_opened_by_keyboard(
    page: Page, pane_url: str
) -> None:
    """No mouse is needed."""
    async with (
        _trainer(pane_url, owner="ada") as first,
        _trainer(pane_url, "CartPole-v1", owner="bob") as second,
    ):
        await first.reset()
        await second.reset(seed=1)
        await second.step({"action": 1})
        await open_view(page, pane_url, "sessions")
        row = page.get_by_role("row").filter(has_text="bob")
        await expect(row).to_contain_text("CartPole-v1")
        await expect(row).to_contain_text("running")
        await page.keyboard.press("/")
        await page.keyboard.type("ADA")
        await expect(row).to_have_count(0)
        await expect(page.get_by_text("1 of 2 sessions")).to_be_visible()
        await page.get_by_label("Filter").fill("nobody")
        await expect(page.get_by_text("No session is like this")).to_be_visible()
        await page.get_by_label("Filter").fill("")
        await page.get_by_role("combobox", name="Environment").select_option(
            "CartPole-v1"
        )
        await expect(page.get_by_text("ada")).to_have_count(0)
        await page.get_by_role("grid", name="Sessions").focus()
        await page.keyboard.press("Home")
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/#/sessions/{second.session_id}")
        await expect(page.locator("main")).to_contain_text("bob")


async def test_the_list_renews_itself_unless_paused(page: Page, pane_url: str) -> None:
    """Paused, it asks for nothing."""
    await open_view(page, pane_url, "sessions")
    await page.get_by_role("button", name="Pause").click()
    listed = await page.evaluate_handle("({ count: 0 })")
    await page.evaluate(
        """(listed) => {
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (data) {
            if (String(data).startsWith('[["list"')) listed.count += 1;
            return send.call(this, data);
          };
        }""",
        listed,
    )
    async with _trainer(pane_url, owner="late") as env:
        await env.reset()
        await page.get_by_label("Filter").fill("late")
        await expect(page.get_by_text("paused")).to_be_visible()
        assert await page.evaluate("(listed) => listed.count", listed) == 0
        await page.get_by_role("button", name="Resume").click()
        await expect(page.get_by_role("row").filter(has_text="late")).to_be_visible()
    await expect(page.get_by_role("row").filter(has_text="late")).to_have_count(0)


async def test_a_session_is_followed_step_by_step(page: Page, pane_url: str) -> None:
    """Until its end, and paused meanwhile; the view to drive one is not loaded."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    async with _trainer(pane_url, owner="ada") as env:
        await env.reset(seed=1)
        await env.step({"message": "before anybody watched"})
        await _follow(page, pane_url, env.session_id)
        facts = page.get_by_role("region", name="Session", exact=True)
        await expect(facts).to_contain_text("Episode1")
        assert any(url.endswith("views/session.js") for url in asked)
        assert not any(url.endswith("views/interact.js") for url in asked)
        await expect(facts).to_contain_text("Step1")
        observation = page.get_by_role("region", name="Observation")
        for number in range(3):
            await env.step({"message": f"seen {number}"})
            await expect(observation).to_contain_text(f"seen {number}")
        await expect(facts).to_contain_text("Step4")
        history = page.get_by_role("grid", name="History")
        await expect(history.get_by_role("row")).to_have_count(4)
        await expect(history).to_contain_text("1.4")
        follow = page.get_by_role("button", name="Follow live")
        await follow.click()
        await env.step({"message": "while paused"})
        await expect(history).to_contain_text("while paused")
        await expect(observation).to_contain_text("seen 2")
        await follow.click()
        await expect(observation).to_contain_text("while paused")
        await env.reset()
        await expect(facts).to_contain_text("Episode2")
    await expect(page.get_by_text("This session ended.")).to_be_visible()
    await expect(history).to_contain_text("session_closed")
    await expect(page.get_by_role("button", name="Take over")).to_be_hidden()


async def test_a_session_that_never_was(page: Page, pane_url: str) -> None:
    """It is said, and is no failure of the page."""
    await open_view(page, pane_url, "sessions/s-unknown")
    await expect(page.get_by_text("There is no such session")).to_be_visible()


async def test_a_session_is_taken_over_and_handed_back(
    page: Page, pane_url: str
) -> None:
    """The owner gets a typed error, then goes on."""
    async with _trainer(pane_url) as env:
        await env.reset()
        await _follow(page, pane_url, env.session_id)
        await page.get_by_role("button", name="Take over").click()
        await expect(page.get_by_text("You drive.")).to_be_visible()
        with pytest.raises(TakenOver):
            await env.step({"message": "mine"})
        await page.get_by_label("message").fill("from the page")
        await page.get_by_role("button", name="Step", exact=True).click()
        history = page.get_by_role("grid", name="History")
        row = history.get_by_role("row").filter(has_text="from the page")
        await expect(row).to_have_count(1)
        # The page knows its own round trip, and so the wire's part of it.
        await expect(row.get_by_role("gridcell").nth(7)).to_contain_text("s")
        await page.get_by_role("button", name="Hand back").click()
        await expect(page.get_by_text("You watch.")).to_be_visible()
        result = await env.step({"message": "mine again"})
        assert "mine again" in str(result.observation)


async def test_an_owner_that_holds_waits_for_the_guest(
    page: Page, pane_url: str
) -> None:
    """Leaving the view hands back."""
    async with _trainer(pane_url, hold=True) as env:
        await env.reset()
        await _follow(page, pane_url, env.session_id)
        await page.get_by_role("button", name="Take over").click()
        await expect(page.get_by_text("You drive.")).to_be_visible()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(env.step({"message": "patient"}))
            await page.get_by_role("button", name="State", exact=True).click()
            observation = page.get_by_role("region", name="Observation")
            await expect(observation).to_contain_text("state")
            assert not waiting.done()
            # Who leaves the view hands back.
            await page.get_by_role("link", name="All sessions").click()
        assert "patient" in str(waiting.result().observation)


async def test_a_page_that_closes_hands_back(new_page: NewPage, pane_url: str) -> None:
    """At once: it does not wait for its lease."""
    async with _trainer(pane_url, hold=True) as env:
        await env.reset()
        async with new_page() as page:
            await _follow(page, pane_url, env.session_id)
            await page.get_by_role("button", name="Take over").click()
            await expect(page.get_by_text("You drive.")).to_be_visible()
        result = await env.step({"message": "alone"})
        assert "alone" in str(result.observation)


# A watcher costs nothing


async def _rate(env: Any, count: int, message: str = "x") -> float:
    """Steps per second."""
    began = time.perf_counter()
    for _ in range(count):
        await env.step({"message": message})
    return count / (time.perf_counter() - began)


async def test_a_stalled_page_does_not_slow_a_step(page: Page, pane_url: str) -> None:
    """What it missed is counted, and said."""
    async with _trainer(pane_url) as env:
        await env.reset()
        alone = await _rate(env, 300, _LARGE)
        await _follow(page, pane_url, env.session_id)
        watched = 0.0
        async with asyncio.TaskGroup() as group:
            stalled = group.create_task(page.evaluate(_STALL))
            began = time.perf_counter()
            while time.perf_counter() - began < 2:
                watched = max(watched, await _rate(env, 300, _LARGE))
            assert not stalled.done()
        assert watched > alone / 3, f"{watched:.0f} of {alone:.0f} steps/s"
        player = page.locator("episode-player")
        lost = player.get_by_text("lost, because this page was slower")
        # What comes while much is still on its way is lost, too.
        while not await lost.is_visible():
            await env.step({"message": "here again"})
        await env.step({"message": "and again"})
        observation = page.get_by_role("region", name="Observation")
        await expect(observation).to_contain_text("again")
        # The row knows what the lost events would have told.
        await expect(player).to_contain_text(re.compile(r"episode 1, step \d"))


async def test_a_watcher_that_never_reads_does_not_slow_a_step(pane_url: str) -> None:
    """Its events are dropped."""
    async with _trainer(pane_url) as env:
        await env.reset()
        alone = await _rate(env, 300, _LARGE)
        async with connect(
            f"{_socket(pane_url)}/ws",
            subprotocols=[Subprotocol("openenv.v1.json")],
            max_queue=1,
            close_timeout=0.1,
        ) as socket:
            hello = ["hello", 1, "stalled", {}, None]
            await socket.send(json.dumps([hello]))
            await socket.recv()
            await socket.send(json.dumps([["watch", 1, env.session_id, 256]]))
            assert json.loads(await socket.recv())[0][0] == "watching"
            # Far more than all buffers on the way hold.
            rates = [await _rate(env, 300, _LARGE) for _ in range(4)]
            socket.transport.abort()
        assert max(rates) > alone / 3, f"{max(rates):.0f} of {alone:.0f} steps/s"
