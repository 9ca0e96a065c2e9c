"""Runs that were recorded, in the pane: numbers, episodes, steps, damage."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import axe_playwright_python
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from openenv_async.rollout.episodes import EnvironmentFailure
from tests.browser.conftest import Faults, NewPage
from tests.browser.pages import has_no_sideways_scroll
from tests.chaos.processes import Process
from tests.rollout.runs import make_episode, write_run

_AXE: Final = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
_MANY: Final = 5000
_THEMES: Final = ("light", "dark")


def _write(run: Path, count: int) -> None:
    failed = EnvironmentFailure(exception="ValueError", message="out of paper")
    write_run(
        run,
        [
            make_episode(number, length=5, outcome=failed if number % 10 == 7 else None)
            for number in range(count)
        ],
        flush=100,
    )


@contextlib.asynccontextmanager
async def _shown(
    folder: Path, count: int = 30, spoil: Callable[[Path], None] | None = None
) -> AsyncIterator[str]:
    """The address of `openenv-async show RUN --web`, of a run made for it."""
    run = folder / "run"

    def begin() -> Process:
        _write(run, count)
        if spoil is not None:
            spoil(run)
        command = ["-m", "openenv_async.cli", "show", str(run), "--web"]
        return Process(command, folder)

    process = await anyio.to_thread.run_sync(begin)
    try:
        line = await anyio.to_thread.run_sync(process.line, "showing ")
        yield line[line.index("http://") :].split(",")[0]
    finally:
        await anyio.to_thread.run_sync(process.kill)


async def _serious(page: Page) -> list[str]:
    """What axe finds serious or critical, as rule and element."""
    if await page.evaluate("!window.axe"):
        await page.evaluate(_AXE)
    found = await page.evaluate("axe.run()")
    return [
        f"{rule['id']}: {node['html']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shown(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a run of thirty episodes, three of them failed."""
    async with _shown(tmp_path_factory.mktemp("run")) as url:
        yield url


async def test_a_run_is_summarised_and_its_episodes_listed(
    page: Page, shown: str
) -> None:
    """Numbers, a filter for failures, and sorting."""
    await page.goto(shown)
    main = page.locator("main")
    await expect(main.get_by_text("30 episodes")).to_be_visible()
    await expect(main).to_contain_text("Mean return")
    await expect(main).to_contain_text("made")
    grid = page.get_by_role("grid", name="Episodes")
    await page.get_by_label("Outcome").select_option("failed")
    await expect(main.get_by_text("of 30 episodes")).to_be_visible()
    await expect(grid.locator(".badge:not(.bad)")).to_have_count(0)
    await expect(grid.locator(".badge.bad")).to_have_count(3)
    await page.get_by_label("Outcome").select_option("")
    steps = grid.get_by_role("button", name="Return")
    await steps.click()
    await expect(grid.locator("[aria-sort=ascending]")).to_contain_text("Return")
    await main.get_by_text("Manifest and summary").click()
    await expect(main.get_by_role("tree")).to_contain_text("manifest")


async def test_an_episode_is_played(page: Page, shown: str) -> None:
    """Opened by keyboard, and gone through step by step."""
    await page.goto(f"{shown}#/run")
    grid = page.get_by_role("grid", name="Episodes")
    await grid.focus()
    await page.keyboard.press("Home")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/#/run/0")
    player = page.locator("episode-player")
    await expect(player).to_contain_text("1 of")
    await expect(page.get_by_role("region", name="Observation")).to_contain_text(
        "reset"
    )
    slider = player.get_by_role("slider", name="Step")
    await slider.press("ArrowRight")
    await expect(page.get_by_role("region", name="Observation")).to_contain_text(
        "reward"
    )
    await page.get_by_role("button", name="Next episode").click()
    await page.wait_for_url("**/#/run/1")
    await expect(page.get_by_role("heading", name="Episode 1")).to_be_visible()
    await expect(player).to_contain_text("1 of")


async def test_an_episode_that_is_not_there(
    page: Page, faults: Faults, shown: str
) -> None:
    """The answer says what there is."""
    faults.expect("404")
    await page.goto(f"{shown}#/run/99")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("expected an episode below 30, got 99")


async def test_damage_is_told(page: Page, faults: Faults, tmp_path: Path) -> None:
    """Where it is, and what to do, in the words of the command line."""

    def spoil(folder: Path) -> None:
        path = folder / "episodes-00000.jsonl.zst"
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)

    faults.expect("500", "404")
    async with _shown(tmp_path, spoil=spoil) as url:
        await page.goto(url)
        alert = page.get_by_role("alert")
        await expect(alert).to_contain_text("episodes-00000.jsonl.zst")
        await expect(alert).to_contain_text("--salvage")


async def test_thousands_of_episodes(page: Page, tmp_path: Path) -> None:
    """Only those in sight are in the page."""
    async with _shown(tmp_path, count=_MANY) as url:
        await page.goto(url)
        await expect(page.get_by_text("5,000 episodes")).to_be_visible()
        grid = page.get_by_role("grid", name="Episodes")
        await expect(grid.get_by_role("row").nth(1)).to_be_visible()
        assert await grid.get_by_role("row").count() < 80
        await grid.focus()
        await page.keyboard.press("End")
        await expect(grid.locator(f"[aria-rowindex='{_MANY + 1}']")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1280])
async def test_it_looks(
    new_page: NewPage, shown: str, screenshots: Path, width: int
) -> None:
    """Nothing serious for axe, no sideways scrolling, and pictures."""
    size = {"width": width, "height": 844 if width < 600 else 800}
    options: dict[str, Any] = {"bypass_csp": True, "reduced_motion": "reduce"}
    async with new_page(viewport=size, **options) as page:
        for name in ("run", "run/3"):
            await page.goto(f"{shown}#/{name}")
            listed = "Episodes" if name == "run" else "History"
            rows = page.get_by_role("grid", name=listed).get_by_role("row")
            await expect(rows.nth(2)).to_be_visible()
            for theme in _THEMES:
                await page.emulate_media(color_scheme=theme)
                await has_no_sideways_scroll(page)
                assert await _serious(page) == []
                path = screenshots / f"{name.replace('/', '-')}-{width}-{theme}.png"
                await page.screenshot(path=path, full_page=True)
