"""How the server does, in numbers, charts and descriptions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from openenv_async import GenericEnv, OpenEnvError
from tests.browser.conftest import Faults, ServeWeb
from tests.browser.fronts import front
from tests.browser.pages import open_view
from tests.chaos.processes import SCRIPTED
from tests.environments import ScriptedEnvironment
from tests.serving import Serving, serving


@contextlib.asynccontextmanager
async def _scripted() -> AsyncIterator[tuple[Serving, str]]:
    async with serving(ScriptedEnvironment, tcp=True, web=True) as server:
        yield server, server.url.replace("ws://", "http://") + "/web/"


async def test_numbers_follow_what_happens(page: Page) -> None:
    """Requests, errors and times appear as they happen."""
    async with _scripted() as (server, url):
        await open_view(page, url, "server")
        main = page.locator("main")
        rates = page.get_by_role("img", name="Requests").locator("desc")
        await expect(rates).to_contain_text("1 points")
        await expect(page.get_by_text("No errors since the start")).to_be_visible()
        async with GenericEnv(server.url) as env:
            await env.reset()
            for _ in range(50):
                await env.step({})
            with contextlib.suppress(OpenEnvError):
                await env.step({"do": "fail", "text": "on purpose"})
            errors = page.get_by_role("region", name="Errors by kind")
            await expect(errors.get_by_role("row").nth(1)).to_contain_text(
                "environment_failed1", use_inner_text=False
            )
            table = page.get_by_role("region", name="Numbers of the environments")
            row = table.get_by_role("row").filter(has_text="scripted")
            await expect(row.get_by_role("cell").nth(1)).to_have_text("1")
            await expect(row.get_by_role("cell").nth(2)).to_have_text("52")
            await expect(row.get_by_role("cell").nth(5)).to_contain_text("s")
            await expect(rates).to_contain_text("largest")
            described = await rates.text_content() or ""
            assert "largest 0/s" not in described.partition("errors")[0]
            latency = page.get_by_role("img", name="Time in the environment")
            await expect(latency.locator("desc")).to_contain_text("99 %: latest")
        memory = page.get_by_role("img", name="Memory").locator("desc")
        await expect(memory).to_contain_text("MB")
        await expect(main).to_contain_text("Loop lag")


async def test_what_is_served_is_described(page: Page, pane_url: str) -> None:
    """Snippet and schema of the environment that is chosen."""
    await open_view(page, pane_url, "server")
    about = page.get_by_role("region", name="About an environment")
    await about.get_by_role("combobox").select_option("CartPole-v1")
    await expect(about).to_contain_text('environment="CartPole-v1"')
    await expect(about).to_contain_text(pane_url.split("/")[2])
    await about.get_by_text("Schema of the action").click()
    await expect(about.get_by_role("tree")).to_contain_text("properties")
    # The README of its distribution, rendered.
    await about.get_by_role("combobox").select_option("echo_env")
    await expect(about.get_by_role("heading", name="echo_env")).to_be_visible()


async def test_the_snippet_runs(page: Page, pane_url: str) -> None:
    """What is copied plays a step of the environment that is shown."""
    await open_view(page, pane_url, "server")
    about = page.get_by_role("region", name="About an environment")
    await about.get_by_role("combobox").select_option("echo_env")
    await expect(about).to_contain_text('environment="echo_env"')
    code = await about.locator(".code pre").first.text_content() or ""
    lines = code.splitlines()
    assert lines[-1] == "asyncio.run(main())"
    names: dict[str, object] = {}
    exec("\n".join(lines[:-1]), names)
    main = names["main"]
    assert callable(main)
    await main()


async def test_a_blocked_loop_is_named(page: Page, serve_web: ServeWeb) -> None:
    """With the environment that blocked it."""
    async with serve_web(SCRIPTED) as process:
        url = process.url.replace("http://", "ws://").removesuffix("/web/")
        async with GenericEnv(url) as env:
            await env.reset()
            await open_view(page, process.url, "server")
            await env.step({"do": "block", "seconds": 0.6})
            notice = page.get_by_text("The event loop was blocked")
            await expect(notice).to_contain_text("scripted")
            # Nothing is on its way when the server goes.
            await expect(page.get_by_text("Schema of the action")).to_be_visible()


async def test_it_goes_on_after_the_server_was_replaced(
    page: Page, faults: Faults, socket_path: Path
) -> None:
    """The charts begin again: another server counts from its own start."""
    faults.expect(r"WebSocket connection to", r"net::ERR_")
    options: dict[str, Any] = {"path": socket_path, "web": True}
    async with front(socket_path) as (_, url):
        async with serving(ScriptedEnvironment, **options):
            await open_view(page, url, "server")
            points = page.get_by_role("img", name="Sessions").locator("desc")
            await expect(points).to_contain_text("3 points")
        async with serving(ScriptedEnvironment, **options):
            # It may try by itself at the same moment.
            with contextlib.suppress(Exception):
                await page.get_by_role("button", name="Retry now").click(timeout=500)
            await expect(page.get_by_text("The server was replaced")).to_be_visible()
            await expect(points).to_contain_text("2 points")
