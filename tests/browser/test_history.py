"""The browser's history: pages that it kept, and addresses that mean nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from openenv_async import GenericEnv
from tests.browser.conftest import PATIENCE, Faults, launched
from tests.browser.pages import InteractPage, is_connected, open_view

_WITHOUT = "--disable-back-forward-cache"
"""What playwright starts its browsers with."""


@pytest_asyncio.fixture(loop_scope="session")
async def kept(browser: Browser, faults: Faults) -> AsyncIterator[Page]:
    """A page of a browser that keeps pages as they are left, as those of people do."""
    faults.expect("favicon.ico")  # a page without markup names no icon
    async with launched(browser.browser_type, ignore_default_args=[_WITHOUT]) as other:
        page = await other.new_page()
        page.set_default_timeout(PATIENCE)
        faults.watch(page)
        yield page
    assert not faults.unexpected, "\n".join(faults.unexpected)


async def _leave_and_return(page: Page, pane_url: str) -> None:
    await page.evaluate("window.stayed = true")
    await page.goto(pane_url.replace("/web/", "/health"))
    await page.go_back(wait_until="commit")
    # else it was loaded anew, which is another matter
    assert await page.evaluate("window.stayed") is True


async def test_a_page_that_was_kept_connects_again(kept: Page, pane_url: str) -> None:
    """It says so, its sessions are over, and the next can be opened."""
    view = await InteractPage(kept, pane_url).open()
    await view.reset()
    await _leave_and_return(kept, pane_url)
    await is_connected(kept)
    await expect(kept.locator("#banner")).to_be_empty()
    await expect(view.actions).to_contain_text("no session")
    await expect(view.history).to_contain_text("1 of 1")
    await view.reset()
    await view.step()
    await kept.get_by_role("link", name="Sessions").click()
    await expect(kept.get_by_role("grid", name="Sessions")).to_contain_text("pane")


async def test_a_page_that_was_kept_watches_on(kept: Page, pane_url: str) -> None:
    """The session that it showed was another's, and did not end."""
    url = pane_url.replace("http://", "ws://").removesuffix("/web/")
    async with GenericEnv(url, environment="echo_env", owner="ada") as env:
        await env.reset()
        await open_view(kept, pane_url, f"sessions/{env.session_id}")
        await expect(kept.get_by_role("button", name="Take over")).to_be_enabled()
        observation = kept.get_by_role("region", name="Observation")
        await env.step({"message": "before"})
        await expect(observation).to_contain_text("before")
        await _leave_and_return(kept, pane_url)
        await is_connected(kept)
        take = kept.get_by_role("button", name="Take over")
        await expect(take).to_be_enabled()
        await env.step({"message": "after"})
        await expect(observation).to_contain_text("after")
    await expect(kept.get_by_text("This session ended.")).to_be_visible()


async def test_an_address_that_is_malformed(page: Page, pane_url: str) -> None:
    """It leads where one that is unknown leads."""
    await open_view(page, pane_url, "sessions/%")
    await page.wait_for_url("**/#/interact")
    await open_view(page, pane_url, "server")
    await page.evaluate("location.hash = '#/sessions/%E0%A4%A'")
    await page.wait_for_url("**/#/interact")
    await expect(page.get_by_role("button", name="Reset")).to_be_enabled()
