"""Environments that say too much, or what cannot be seen, of errors and progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from openenv_async import (
    Action,
    Environment,
    EnvironmentFailed,
    GenericEnv,
    Observation,
    State,
)
from tests.browser.pages import InteractPage, open_view
from tests.serving import Serving, serving

_FRONT = "\u202e\u200b\0"
_SEEN = "⟦U+202E⟧⟦U+200B⟧␀"
_LONGEST = """
() => {
  window.longest = 0;
  new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries())
      window.longest = Math.max(window.longest, duration);
  }).observe({ type: "longtask" });
}
"""
_gates: dict[str, asyncio.Event] = {}


class _Say(Action):
    """What to say, and how often."""

    text: str = ""
    times: int = 1
    gate: str = ""
    fails: bool = False


class _Loud(Environment[_Say, Observation, State]):
    """Says what it is told."""

    name = "loud"
    execution = "inline"

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, object] | None = None,
    ) -> Observation:
        return Observation()

    async def step(self, action: _Say) -> Observation:
        said = action.text * action.times
        if action.fails:
            raise RuntimeError(_FRONT + said)
        if said:
            self.report_progress(0.5, _FRONT + said)
        if action.gate:
            await _gates[action.gate].wait()
        return Observation(metadata={"said": len(said)})

    def state(self) -> State:
        return State()


@pytest_asyncio.fixture(loop_scope="session")
async def loud() -> AsyncIterator[Serving]:
    """A server of the environment."""
    _gates.clear()
    async with serving(_Loud, tcp=True, web=True) as server:
        yield server


def _pane(server: Serving) -> str:
    return server.url.replace("ws://", "http://") + "/web/"


async def _watch(page: Page, server: Serving, session: str | None) -> Locator:
    """Watch a session; what it observes is shown there."""
    await open_view(page, _pane(server), f"sessions/{session}")
    await expect(page.get_by_role("button", name="Take over")).to_be_enabled()
    return page.get_by_role("region", name="Observation")


async def _fail(env: Any, times: int) -> None:
    with contextlib.suppress(EnvironmentFailed):
        await env.step({"text": "x", "times": times, "fails": True})


async def test_a_long_error_does_not_freeze_who_watches(
    page: Page, loud: Serving
) -> None:
    """It is folded, and what would not be seen is written out."""
    async with GenericEnv(loud.url) as env:
        await env.reset()
        observation = await _watch(page, loud, env.session_id)
        await page.evaluate(_LONGEST)
        await _fail(env, 3_000_000)
        alert = observation.get_by_role("alert")
        await expect(alert).to_contain_text(f"{_SEEN}xxx")
        await expect(alert.get_by_role("button").first).to_contain_text("characters")
        assert len(await alert.text_content() or "") < 20_000
        # One frame more, so that what it took to draw is counted.
        await page.evaluate("new Promise((done) => requestAnimationFrame(done))")
        longest = await page.evaluate("window.longest")
        assert longest < 1500


async def test_an_error_that_is_looked_at_stays_as_it_is(
    page: Page, loud: Serving
) -> None:
    """What was unfolded is not folded again by what happens elsewhere."""
    async with GenericEnv(loud.url) as env:
        await env.reset()
        observation = await _watch(page, loud, env.session_id)
        await _fail(env, 5000)
        await page.get_by_role("button", name="Follow live").click()
        unfold = observation.get_by_role("button", name="Show all").first
        await unfold.click()
        less = observation.get_by_role("button", name="Show less")
        await expect(less).to_be_visible()
        rows = page.get_by_role("grid", name="History").get_by_role("row")
        for count in (3, 4, 5):
            await env.reset()
            await expect(rows).to_have_count(count)
        await expect(less).to_be_visible()


async def test_a_long_error_beside_the_form(page: Page, loud: Serving) -> None:
    """The controls stay where they are; the traceback is bounded, too."""
    view = await InteractPage(page, _pane(loud)).open()
    await view.reset()
    await view.field("text").fill("x\n")
    await view.field("times").fill("100000")
    await view.field("fails").check()
    await view.button("Step").click()
    await expect(view.alert).to_contain_text(f"{_SEEN}x")
    assert len(await view.alert.text_content() or "") < 20_000
    await view.observation.locator("summary").click()
    await expect(view.observation).to_contain_text("RuntimeError")
    assert len(await view.observation.text_content() or "") < 40_000
    await expect(view.button("Reset")).to_be_in_viewport()


async def test_a_long_progress_message_leaves_cancel_where_it_is(
    page: Page, loud: Serving
) -> None:
    """It is one line, however long it is and whatever is in it."""
    _gates["long"] = asyncio.Event()
    view = await InteractPage(page, _pane(loud)).open()
    await view.reset()
    await view.field("text").fill("word\n")
    await view.field("times").fill("280000")
    await view.field("gate").fill("long")
    await view.button("Step").click()
    said = view.actions.get_by_text(_SEEN)
    await expect(said).to_contain_text("word⏎word")
    assert len(await said.text_content() or "") < 400
    cancel = view.button("Cancel")
    await expect(cancel).to_be_in_viewport()
    [below, above] = [await each.bounding_box() for each in (said, cancel)]
    assert below is not None
    assert above is not None
    assert above["y"] < below["y"]
    assert below["height"] < 30
    await expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.5")
    await cancel.click()
    await expect(view.alert).to_contain_text("cancelled")
    await expect(said).to_be_hidden()


async def test_a_guest_sees_progress(page: Page, loud: Serving) -> None:
    """Of the step that it made in another's session; and it can cancel it."""
    _gates["guest"] = asyncio.Event()
    async with GenericEnv(loud.url, hold=True) as env:
        await env.reset()
        await _watch(page, loud, env.session_id)
        control = page.get_by_role("region", name="Take over")
        await control.get_by_role("button", name="Take over").click()
        await control.get_by_label("text").fill("half way")
        await control.get_by_label("gate").fill("guest")
        await control.get_by_role("button", name="Step", exact=True).click()
        await expect(control.get_by_text("half way")).to_be_visible()
        await expect(control).to_contain_text("Running for")
        await expect(control.get_by_role("progressbar")).to_be_visible()
        await control.get_by_role("button", name="Cancel").click()
        await expect(control.get_by_role("alert")).to_contain_text("cancelled")
        await expect(control.get_by_role("progressbar")).to_be_hidden()
        await control.get_by_role("button", name="Hand back").click()
        await expect(page.get_by_text("You watch.")).to_be_visible()


async def test_an_ended_session_is_in_no_step(page: Page, loud: Serving) -> None:
    """What it was in when it ended does not stay."""
    _gates["left"] = asyncio.Event()
    facts = page.get_by_role("region", name="Session", exact=True)
    async with GenericEnv(loud.url) as env:
        await env.reset()
        await _watch(page, loud, env.session_id)
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step({"gate": "left"}))
            await expect(facts).not_to_contain_text("no request in flight")
            step.cancel()
    await expect(page.get_by_text("This session ended.")).to_be_visible()
    await expect(facts).to_contain_text("In this stepno request in flight")
