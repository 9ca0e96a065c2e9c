"""The view in which one environment is driven by hand, against real servers."""

from __future__ import annotations

import asyncio
import re
from typing import ClassVar

from playwright.async_api import Page, expect

from openenv_async import Action, Environment, InvalidAction, Observation, State
from tests import environments
from tests.browser.conftest import Faults, NewPage
from tests.browser.pages import InteractPage
from tests.environments import ScriptedEnvironment
from tests.serving import eventually, serving


def _pane(url: str) -> str:
    return url.replace("ws://", "http://") + "/web/"


# The environments of the shared server


async def test_an_episode_of_the_echo_environment(page: Page, pane_url: str) -> None:
    """From nothing to a step with its reward, in the history too."""
    view = await InteractPage(page, pane_url).open()
    await expect(view.button("Step")).to_be_disabled()
    await expect(view.observation).to_contain_text("Nothing observed yet")
    await view.reset(seed=7)
    await view.field("message").fill("hello there")
    await view.step()
    await expect(view.observation).to_contain_text("hello there")
    await expect(view.observation).to_contain_text("reward 1.1")
    await expect(view.actions).to_contain_text("episode 1")
    await expect(view.actions).to_contain_text("step 1")
    await expect(view.history).to_contain_text("hello there")


async def test_a_gymnasium_episode_to_its_end(page: Page, pane_url: str) -> None:
    """The end of an episode shows, and reset begins the next."""
    view = await InteractPage(page, pane_url).open("CartPole-v1")
    await view.field("action").get_by_label("1").check()
    await view.reset(seed=0)
    done = view.actions.get_by_text("done", exact=True)
    for _ in range(60):
        if await done.count():
            break
        await view.step()
    await expect(view.observation).to_contain_text("terminated")
    await expect(view.actions).to_contain_text("The episode is over")
    await expect(view.button("Step")).to_be_disabled()
    await view.button("Reset").click()
    await expect(view.actions).to_contain_text("episode 2")
    await expect(view.button("Step")).to_be_enabled()


async def test_code_its_output_and_its_error(page: Page, pane_url: str) -> None:
    """Code runs; what it prints, raises and leaves is shown."""
    view = await InteractPage(page, pane_url).open("coding_env")
    await view.reset()
    await view.field("code").fill("x = 6 * 7\nprint('the answer is', x)")
    await view.step()
    await expect(view.observation).to_contain_text("the answer is 42")
    await view.field("code").fill("x / 0")
    await view.step()
    await expect(view.observation).to_contain_text("ZeroDivisionError")
    await view.button("State").click()
    await expect(view.state).to_contain_text("interpreter")


async def test_two_browsers_drive_sessions_of_their_own(
    new_page: NewPage, pane_url: str
) -> None:
    """Neither sees the other's variables."""
    async with new_page() as first, new_page() as second:
        views = [
            await InteractPage(page, pane_url).open("coding_env")
            for page in (first, second)
        ]
        for name, view in zip(("ada", "bob"), views, strict=True):
            await view.reset()
            await view.field("code").fill(f"name = {name!r}")
            await view.step()
        for name, view in zip(("ada", "bob"), views, strict=True):
            await view.field("code").fill("print('I am', name)")
            await view.step()
            await expect(view.observation).to_contain_text(f"I am {name}")


async def test_keys(page: Page, pane_url: str) -> None:
    """Reset, action, step and state without a mouse."""
    view = await InteractPage(page, pane_url).open()
    await page.keyboard.press("Alt+r")
    await view.observed("reset")
    await page.keyboard.press("a")
    await expect(view.field("message")).to_be_focused()
    await page.keyboard.type("gas?")
    await page.keyboard.press("Control+Enter")
    await view.observed("step")
    await expect(view.observation).to_contain_text("gas?")
    await page.keyboard.press("Alt+s")
    await expect(view.state).to_contain_text("step_count")


async def test_help_lists_the_keys_but_not_while_typing(
    page: Page, pane_url: str
) -> None:
    """A question mark in a field is text."""
    view = await InteractPage(page, pane_url).open()
    await view.field("message").press("?")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("heading", name="Observation").click()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_contain_text("Ctrl+Enter")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.get_by_role("button", name="Keyboard shortcuts").click()
    await expect(page.get_by_role("dialog")).to_be_visible()


# What goes wrong


class _Pick(Action):
    """Choose."""

    count: int = 0


class _Told(Observation):
    """What the reset was told."""

    told: str = ""


class _Picky(Environment[_Pick, _Told, State]):
    """Refuses odd numbers, and options with a bad key."""

    name = "picky"
    execution = "inline"
    resets: ClassVar[list[object]] = []

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, object] | None = None,
    ) -> _Told:
        if options and "bad" in options:
            raise InvalidAction("expected no key 'bad'")
        return _Told(told=f"{seed} {episode_id} {options}")

    async def step(self, action: _Pick) -> _Told:
        if action.count % 2:
            raise InvalidAction(
                f"expected an even number, got {action.count} - at `$.count`"
            )
        return _Told(told="even", reward=1.0)

    def state(self) -> State:
        return State(step_count=0)


async def test_what_the_server_refuses_shows_at_the_field(page: Page) -> None:
    """The server's path leads to the field; the episode goes on."""
    async with serving(_Picky, tcp=True, web=True) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        await view.field("count").fill("3")
        await view.button("Step").click()
        await expect(view.field("count")).to_be_focused()
        await expect(view.field("count")).to_have_attribute("aria-invalid", "true")
        await expect(view.alert.first).to_contain_text("expected an even number, got 3")
        await expect(view.actions).to_contain_text("the episode is as it was")
        await view.field("count").fill("4")
        await view.step()
        await expect(view.observation).to_contain_text("even")
        await expect(view.field("count")).not_to_have_attribute("aria-invalid", "true")


async def test_the_arguments_of_a_reset(page: Page) -> None:
    """They arrive as they are, or are refused at their fields."""
    async with serving(_Picky, tcp=True, web=True) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        seed = page.get_by_label("Seed")
        await seed.fill("9223372036854775808")
        await view.button("Reset").click()
        await expect(view.actions).to_contain_text("expected a signed integer of 64")
        await expect(seed).to_be_focused()
        await seed.fill("9223372036854775807")
        await page.get_by_text("Episode id and options").click()
        await page.get_by_label("Episode id", exact=True).fill("mine")
        options = page.get_by_label("Options (JSON)")
        await options.fill("[1]")
        await view.button("Reset").click()
        await expect(view.actions).to_contain_text("expected an object")
        await options.fill('{"bad": 1}')
        await view.button("Reset").click()
        await expect(options).to_have_attribute("aria-invalid", "true")
        await expect(view.actions).to_contain_text("expected no key 'bad'")
        await options.fill('{"level": 2}')
        await view.reset()
        await expect(view.observation).to_contain_text(
            "9223372036854775807 mine {'level': 2}"
        )


async def test_an_environment_that_fails_and_is_reset(page: Page) -> None:
    """The traceback is there, and a reset mends it."""
    async with serving(ScriptedEnvironment, tcp=True, web=True) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        await view.field("do").fill("fail")
        await view.field("text").fill("out of paper")
        await view.button("Step").click()
        await expect(view.alert).to_contain_text("environment_failed")
        await expect(view.alert).to_contain_text("out of paper")
        await view.observation.locator("summary").click()
        await expect(view.observation.locator("pre")).to_contain_text("ValueError")
        await expect(view.actions).to_contain_text("The episode cannot go on")
        await expect(view.button("Step")).to_be_disabled()
        await expect(view.history).to_contain_text("environment_failed")
        await view.reset()
        await expect(view.button("Step")).to_be_enabled()


async def test_a_long_step_shows_and_is_cancelled(page: Page) -> None:
    """It says how long it runs; cancelled, it ran not at all."""
    gate = environments.gates["long"] = asyncio.Event()
    async with serving(ScriptedEnvironment, tcp=True, web=True) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        await view.field("do").fill("wait")
        await view.field("text").fill("long")
        await view.button("Step").click()
        await expect(view.actions).to_contain_text("Running for")
        await expect(view.button("Reset")).to_be_disabled()
        await expect(page.get_by_label("Environment")).to_be_disabled()
        await eventually(lambda: "long" in environments.sleeping)
        await view.button("Cancel").click()
        await expect(view.alert).to_contain_text("cancelled")
        assert not environments.sleeping
        await view.reset()
        gate.set()
        await view.step()
        assert environments.executions["long"] == 1


async def test_a_full_server(new_page: NewPage) -> None:
    """It says so, and has room again after a close."""
    async with (
        serving(ScriptedEnvironment, tcp=True, web=True, max_sessions=1) as server,
        new_page() as first,
        new_page() as second,
    ):
        there = await InteractPage(first, _pane(server.url)).open()
        await there.reset()
        here = await InteractPage(second, _pane(server.url)).open()
        await here.button("Reset").click()
        await expect(here.alert).to_contain_text("at_capacity")
        await there.button("Close").click()
        await expect(there.actions).to_contain_text("no session")
        await expect(there.button("Close")).to_be_disabled()
        assert server.sessions == 0
        await here.reset()
        await expect(here.alert).to_have_count(0)


async def test_leaving_the_page_ends_its_session(page: Page) -> None:
    """A closed tab holds no place until its lease is over."""
    async with serving(ScriptedEnvironment, tcp=True, web=True) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        assert server.sessions == 1
        await page.goto("about:blank")
        await eventually(lambda: server.sessions == 0)


async def test_another_environment_begins_afresh(page: Page, pane_url: str) -> None:
    """Neither session nor history of the one before."""
    view = await InteractPage(page, pane_url).open()
    await view.reset()
    await page.get_by_label("Environment").select_option("coding_env")
    await expect(view.field("code")).to_be_visible()
    await expect(view.observation).to_contain_text("Nothing observed yet")
    await expect(view.actions).to_contain_text("no session")
    await expect(view.history).not_to_contain_text(re.compile("echo_env"))


async def test_another_environment_is_chosen_while_a_session_opens(
    page: Page, pane_url: str
) -> None:
    """The session of the one before is closed as soon as it is there."""
    sent: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))),
    )
    view = await InteractPage(page, pane_url).open("echo_env")
    await view.button("Reset").evaluate(
        """(button) => {
          const oldURL = location.href;
          history.pushState(null, "", "#/interact/coding_env");
          button.click();
          // At once, so that the session cannot be there before.
          dispatchEvent(new HashChangeEvent("hashchange", { oldURL }));
        }"""
    )
    await eventually(lambda: any('"close"' in frame for frame in sent))
    await expect(page.get_by_label("Environment")).to_have_value("coding_env")
    await expect(view.actions).to_contain_text("no session")
    await expect(view.alert).to_have_count(0)
    assert not any('"reset"' in frame for frame in sent)
    await view.reset()
    await view.field("code").fill("print('code')")
    await view.step()


async def test_a_large_action_travels_in_chunks(page: Page, faults: Faults) -> None:
    """One larger than a chunk arrives; one too large costs no number."""
    async with serving(
        ScriptedEnvironment, tcp=True, web=True, message_bytes=1_000_000
    ) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        await view.field("text").fill("é" * 150_000)
        await view.step()
        assert environments.executions["é" * 150_000] == 1
        await view.field("text").fill("é" * 600_000)
        await view.button("Step").click()
        await expect(view.alert).to_contain_text("too_large")
        # the number is still free
        await view.field("text").fill("small")
        await view.step()
        assert environments.executions["small"] == 1


async def test_a_large_observation_comes_in_chunks(page: Page) -> None:
    """It is put together again, while heartbeats go on."""
    async with serving(
        ScriptedEnvironment, tcp=True, web=True, heartbeat=0.1
    ) as server:
        view = await InteractPage(page, _pane(server.url)).open()
        await view.reset()
        await view.field("do").fill("array")
        await view.field("size").fill("600000")
        await view.step()
        await expect(view.observation).to_contain_text("600000")
        await view.field("do").fill("count")
        await view.step()
        await expect(view.observation).to_contain_text("reward 2")
