"""The bearer token: asked for, taken from links, never left in the address bar."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Faults
from tests.browser.fronts import front
from tests.browser.pages import InteractPage, is_connected
from tests.environments import ScriptedEnvironment
from tests.serving import Serving, serving

_TOKEN = "correct horse"


@pytest_asyncio.fixture(loop_scope="session")
async def guarded() -> AsyncIterator[str]:
    """The pane of a server that asks for a token."""
    async with serving(ScriptedEnvironment, tcp=True, web=True, token=_TOKEN) as server:
        yield server.url.replace("ws://", "http://") + "/web/"


def _field(page: Page) -> Locator:
    return page.get_by_label("Bearer token")


async def _is_loaded(page: Page, module: str) -> None:
    """Wait until a view that was asked for before would be shown."""
    await page.evaluate(
        "(name) => import(new URL(name, document.baseURI).href)", f"views/{module}.js"
    )


async def test_the_form_takes_the_token(page: Page, guarded: str) -> None:
    """No token, a wrong one, the right one with blanks around, and a reload."""
    await page.goto(guarded)
    field = _field(page)
    await expect(field).to_be_focused()
    await expect(page.locator("#status")).to_have_text("token needed")
    await field.fill("wrong")
    await field.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("did not accept")
    await expect(field).to_be_focused()
    await field.fill(f"  {_TOKEN} ")
    await page.get_by_role("button", name="Connect").click()
    await is_connected(page)
    view = InteractPage(page, guarded)
    await view.reset()
    # this tab knows it now
    await page.reload()
    await is_connected(page)
    await expect(view.button("Reset")).to_be_enabled()


async def test_a_token_that_no_header_carries(page: Page, guarded: str) -> None:
    """It is refused at the form, from a link too, before anything is sent."""
    await page.goto(guarded)
    field = _field(page)
    alert = page.get_by_role("alert")
    await field.fill("€uro")
    await field.press("Enter")
    await expect(alert).to_contain_text("a header can carry")
    await expect(alert).to_contain_text("got € (U+20AC)")
    await expect(field).to_be_focused()
    await page.goto(f"{guarded}#token=a{quote(chr(0x202E))}")
    await expect(alert).to_contain_text("got U+202E")
    await page.goto("about:blank")
    await page.goto(f"{guarded}#token=%0a%E2%82%AC")
    await expect(alert).to_contain_text("got € (U+20AC)")
    await expect(page.locator("#status")).to_have_text("token needed")
    assert page.url == guarded
    await field.fill("   ")
    await field.press("Enter")
    await expect(alert).to_contain_text("expected a token, got blanks")


async def test_a_link_carries_the_token_in_its_fragment(
    page: Page, guarded: str
) -> None:
    """It leaves the address bar and is in no request's URL."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{guarded}#token=correct%20horse")
    await is_connected(page)
    assert await page.evaluate("location.href") == f"{guarded}#/interact"
    assert not any("horse" in each for each in asked)
    view = InteractPage(page, guarded)
    await view.reset()  # the schema, too, was fetched with the token


async def test_a_link_is_taken_by_a_tab_that_is_open(page: Page, guarded: str) -> None:
    """At the form, and in place of the token that a connected tab has."""
    await page.goto(guarded)
    await expect(_field(page)).to_be_visible()
    await page.goto(f"{guarded}#token=correct%20horse%20")
    await is_connected(page)
    await page.wait_for_url(f"{guarded}#/interact")
    await page.get_by_role("link", name="Sessions").click()
    await expect(page.get_by_role("heading", name="Sessions")).to_be_visible()
    await page.goto(f"{guarded}#token=stale&more")
    await expect(page.get_by_role("alert")).to_contain_text("did not accept")
    assert page.url == f"{guarded}#/sessions"
    await page.goto(f"{guarded}#token=correct%20horse")
    await is_connected(page)
    await expect(page.get_by_role("heading", name="Sessions")).to_be_visible()
    assert page.url == f"{guarded}#/sessions"
    for _ in range(await page.evaluate("history.length") - 2):
        await page.go_back()
        assert "token" not in page.url


async def test_the_same_token_again_loses_nothing(page: Page, guarded: str) -> None:
    """An episode goes on when its link is pasted once more."""
    link = f"{guarded}#token=correct%20horse"
    await page.goto(link)
    view = InteractPage(page, guarded)
    await view.reset()
    await page.goto(link)
    await page.wait_for_url(f"{guarded}#/interact")
    await view.step()
    await expect(view.actions).to_contain_text("step 1")


@contextlib.asynccontextmanager
async def _serving_at(path: Path, token: str) -> AsyncIterator[Serving]:
    options = {"path": path, "web": True, "token": token}
    async with serving(ScriptedEnvironment, **options) as server:  # type: ignore[arg-type]  # as they are
        yield server


async def test_the_form_stays_until_it_is_answered(
    page: Page, faults: Faults, socket_path: Path
) -> None:
    """A server that came back with another token; links and routes wait."""
    faults.expect(r"WebSocket connection to", r"net::ERR_")
    async with front(socket_path) as (_, url):
        async with _serving_at(socket_path, "first"):
            await page.goto(f"{url}#token=first")
            await InteractPage(page, url).reset()
        async with _serving_at(socket_path, "second"):
            await expect(page.get_by_role("alert")).to_contain_text("did not accept")
            await page.get_by_role("link", name="Sessions").click()
            await _is_loaded(page, "sessions")
            await expect(_field(page)).to_be_visible()
            await page.goto(f"{url}#token=second")
            await is_connected(page)
            assert page.url == f"{url}#/sessions"
            await expect(page.get_by_label("Filter")).to_be_visible()
