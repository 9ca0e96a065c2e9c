"""The pane as a whole: accessible, narrow, small, fast, quiet, and what it looks like.

`--screenshots FOLDER` keeps the pictures.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import anyio
import axe_playwright_python
import pytest
from playwright.async_api import Page, expect

from openenv_async import GenericEnv
from tests.browser.conftest import Faults, NewPage
from tests.browser.pages import (
    VIEWS,
    InteractPage,
    has_no_sideways_scroll,
    is_connected,
    open_view,
)
from tests.environments import ScriptedEnvironment
from tests.serving import serving

_AXE: Final = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()

_THEMES: Final = ("light", "dark")

each_width = pytest.mark.parametrize("width", [390, 1280])


async def _check(page: Page) -> None:
    """Nothing serious for axe, and no scrolling sideways."""
    await has_no_sideways_scroll(page)
    if await page.evaluate("!window.axe"):
        await page.evaluate(_AXE)
    report: dict[str, Any] = await page.evaluate("axe.run()")
    serious = [
        f"{found['id']}: {node['html']} {node.get('failureSummary', '')}"
        for found in report["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
    assert not serious, "\n".join(serious)


class _Camera:
    """Checks and photographs states of the pane in both themes."""

    def __init__(self, page: Page, folder: Path, width: int) -> None:
        self.page = page
        self._folder = folder
        self._width = width

    async def take(self, name: str) -> None:
        for theme in _THEMES:
            await self.page.emulate_media(color_scheme=theme)
            await _check(self.page)
            path = self._folder / f"{name}-{self._width}-{theme}.png"
            await self.page.evaluate("scrollTo(0, 0)")
            await self.page.screenshot(path=path, full_page=name != "help")


@contextlib.asynccontextmanager
async def _looking(
    new_page: NewPage, screenshots: Path, width: int
) -> AsyncIterator[_Camera]:
    size = {"width": width, "height": 844 if width < 600 else 800}
    # The policy forbids axe itself; other tests see that it holds.
    options = {"bypass_csp": True, "reduced_motion": "reduce"}
    async with new_page(viewport=size, **options) as page:
        yield _Camera(page, screenshots, width)


@each_width
async def test_interact_looks(
    new_page: NewPage, pane_url: str, screenshots: Path, width: int
) -> None:
    """Empty, with code, with numbers, and the help."""
    async with _looking(new_page, screenshots, width) as camera:
        view = await InteractPage(camera.page, pane_url).open()
        await expect(view.field("message")).to_be_visible()
        await camera.take("interact-empty")
        await view.page.get_by_label("Environment").select_option("coding_env")
        await expect(view.field("code")).to_be_visible()
        await view.reset(seed=1)
        for code in ("x = 6 * 7\nprint('the answer is', x)", "print(x / 0)", "x + 1"):
            await view.field("code").fill(code)
            await view.step()
        await view.button("State").click()
        await expect(view.state).to_contain_text("interpreter")
        await camera.take("interact-coding")
        await view.page.get_by_label("Environment").select_option("CartPole-v1")
        await view.field("action").get_by_label("1").check()
        await view.reset(seed=0)
        for _ in range(8):
            await view.step()
        await camera.take("interact-cartpole")
        await view.page.keyboard.press("Escape")
        await view.page.get_by_role("button", name="Keyboard shortcuts").click()
        await expect(view.page.get_by_role("dialog")).to_be_visible()
        await camera.take("help")


@each_width
async def test_watching_looks(
    new_page: NewPage, pane_url: str, screenshots: Path, width: int
) -> None:
    """Sessions, one of them, and the server."""
    url = pane_url.replace("http://", "ws://").removesuffix("/web/")
    async with contextlib.AsyncExitStack() as stack:
        trainers = []
        for number in range(6):
            env = GenericEnv(url, environment="CartPole-v1", owner=f"trainer {number}")
            trainers.append(await stack.enter_async_context(env))
            await trainers[-1].reset(seed=number)
        camera = await stack.enter_async_context(_looking(new_page, screenshots, width))
        page = camera.page
        await open_view(page, pane_url, "sessions")
        await expect(page.locator("main")).to_contain_text("trainer 5")
        await camera.take("sessions")
        await open_view(page, pane_url, f"sessions/{trainers[0].session_id}")
        for step in range(6):
            await trainers[0].step({"action": step % 2})
        await expect(page.locator("main")).to_contain_text("trainer 0")
        await camera.take("session")
        await open_view(page, pane_url, "server")
        await expect(page.locator("main")).to_contain_text("CartPole-v1")
        requests = page.locator("figure, section").filter(has_text="Requests").first
        # Two looks at the counters make the first rate.
        while "\u2013" in (await requests.text_content() or ""):
            for number, trainer in enumerate(trainers):
                await trainer.reset(seed=number)
        await camera.take("server")


@each_width
async def test_trouble_looks(
    new_page: NewPage,
    faults: Faults,
    screenshots: Path,
    width: int,
) -> None:
    """A refused token, a failed step, a lost server."""
    faults.expect(r"WebSocket connection to", r"net::ERR_")
    options: dict[str, Any] = {"tcp": True, "web": True}
    async with _looking(new_page, screenshots, width) as camera:
        page = camera.page
        async with serving(ScriptedEnvironment, token="secret", **options) as server:
            await page.goto(server.url.replace("ws://", "http://") + "/web/")
            await page.get_by_label("Bearer token").fill("wrong")
            await page.get_by_role("button", name="Connect").click()
            await expect(page.get_by_role("alert")).to_be_visible()
            await camera.take("login")
        async with serving(ScriptedEnvironment, **options) as server:
            url = server.url.replace("ws://", "http://") + "/web/"
            view = await InteractPage(page, url).open()
            await view.reset()
            await view.field("do").fill("fail")
            await view.field("text").fill("out of paper")
            await view.button("Step").click()
            await expect(view.alert).to_contain_text("environment_failed")
            await camera.take("interact-failed")
        await expect(page.locator("#banner")).to_contain_text("Next try in")
        await camera.take("reconnecting")


# Budgets


async def test_the_first_paint(
    new_page: NewPage, pane_url: str, screenshots: Path
) -> None:
    """200 ms is the aim on a quiet machine; the bound here is for a busy one.

    What was measured is written beside the pictures.
    """
    paints = []
    for _ in range(3):
        async with new_page() as page:
            await open_view(page, pane_url, "interact")
            entries = (
                "performance.getEntriesByType('paint').map((each) => each.startTime)"
            )
            paints.append(min(await page.evaluate(entries)))
    report = json.dumps({"first_paint_ms": [round(paint) for paint in paints]})
    await anyio.Path(screenshots / "measured.json").write_text(report)
    assert min(paints) < 1000


async def test_the_policy_of_every_file(page: Page, pane_url: str) -> None:
    """Nothing is allowed inline or from elsewhere."""
    for name in ("", "app.js", "base.css", "pane.json"):
        response = await page.request.get(urljoin(pane_url, name))
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_it_asks_nobody_else(page: Page, pane_url: str) -> None:
    """Another host fails any test; here every view is visited."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for view in VIEWS:
        await open_view(page, pane_url, view)
        await expect(page.locator("main")).not_to_be_empty()
    root = pane_url.removesuffix("web/")
    assert asked
    assert [url for url in asked if not url.startswith((root, "data:", "blob:"))] == []


async def test_the_chosen_theme_stays(page: Page, pane_url: str) -> None:
    """Chosen by a button, kept over a reload."""
    await open_view(page, pane_url, "interact")
    button = page.get_by_role("button", name="Theme")
    seen = set()
    for name in ("light", "dark"):
        await button.click()
        await expect(button).to_contain_text(name)
        seen.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2
    await page.reload()
    await is_connected(page)
    color = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert color in seen


async def test_views_by_keyboard(page: Page, pane_url: str) -> None:
    """The skip link and the keys for views."""
    await open_view(page, pane_url, "interact")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    assert page.url.endswith("#/interact")
    for key, view in (("s", "sessions"), ("v", "server"), ("i", "interact")):
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await page.wait_for_url(f"**/#/{view}")
        current = page.get_by_role("navigation").locator("[aria-current=page]")
        await expect(current).to_have_text(view.capitalize())
