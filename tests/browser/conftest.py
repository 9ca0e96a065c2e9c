"""A real browser in front of real servers.

One Chromium serves the whole run, each test has a context of its own in it, and all
tests of this folder share one event loop, because the browser's driver belongs to the
loop in which it started. What a page logs as an error, throws, asks of another host or
does against the Content-Security-Policy fails its test, unless the test told `Faults`
to expect it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import anyio
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    BrowserType,
    ConsoleMessage,
    Page,
    Request,
    WebSocket,
    async_playwright,
)

from tests.chaos.processes import Process, short_folder

__all__ = ["Faults", "NewPage", "ServeWeb"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`));
"""
_CHANGED = "net::ERR_NETWORK_CHANGED"
"""Another program, such as Docker, added an interface; the pane tries again."""
_LOOPBACK = ("127.0.0.1", "localhost")
_SCREENSHOTS = "OPENENV_ASYNC_SCREENSHOTS"
_HERE = Path(__file__).parent
_SERVED = ("echo_env", "gymnasium_env?id=CartPole-v1", "coding_env")

PATIENCE = 8000.0
"""Milliseconds after which what a test waits for counts as not coming."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say where pictures of the views go."""
    parser.addoption(
        "--screenshots",
        default=os.environ.get(_SCREENSHOTS),
        help="folder for pictures of the debug pane; by default a temporary one",
    )


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """All tests of this folder need the browser, and run in its loop."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@contextlib.asynccontextmanager
async def launched(kind: BrowserType, **options: Any) -> AsyncIterator[Browser]:
    """A browser that is on this machine; options are those of playwright."""
    browser = await kind.launch(executable_path=_CHROMIUM, args=_FLAGS, **options)
    try:
        yield browser
    finally:
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser of this run."""
    # The driver writes pictures in the loop's threads; a test would have to answer for
    # one that begins in it, so the only one begins here.
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    await loop.run_in_executor(None, int)
    async with async_playwright() as playwright:
        async with launched(playwright.chromium) as opened:
            yield opened


class Faults:
    """What went wrong in the pages of a test."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    def expect(self, *patterns: str) -> None:
        """Let errors pass that match."""
        self._expected.extend(map(re.compile, patterns))

    @property
    def unexpected(self) -> list[str]:
        """What fails the test."""
        return [
            fault
            for fault in self._seen
            if not any(pattern.search(fault) for pattern in self._expected)
        ]

    def watch(self, page: Page) -> None:
        """Note what goes wrong in a page."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._seen.append(f"thrown: {error}"))
        page.on("request", self._request)
        page.on("websocket", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert") and _CHANGED not in message.text:
            where = message.location.get("url", "")
            self._seen.append(f"console: {message.text} ({where})")

    def _request(self, request: Request | WebSocket) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.hostname not in _LOOPBACK:
            self._seen.append(f"asked elsewhere: {request.url}")


@pytest.fixture
def faults() -> Faults:
    """What goes wrong in the pages of this test."""
    return Faults()


NewPage: TypeAlias = Callable[..., AbstractAsyncContextManager[Page]]
ServeWeb: TypeAlias = Callable[..., AbstractAsyncContextManager[Process]]


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(browser: Browser, faults: Faults) -> AsyncIterator[NewPage]:
    """Opens pages, each like a browser of its own; options are those of a context."""

    @contextlib.asynccontextmanager
    async def open_page(**options: Any) -> AsyncIterator[Page]:
        options.setdefault("viewport", {"width": 1280, "height": 800})
        context: BrowserContext = await browser.new_context(**options)
        try:
            await context.add_init_script(_VIOLATIONS)
            page = await context.new_page()
            page.set_default_timeout(PATIENCE)
            faults.watch(page)
            yield page
        finally:
            await context.close()

    yield open_page
    assert not faults.unexpected, "\n".join(faults.unexpected)


@pytest_asyncio.fixture(loop_scope="session")
async def page(new_page: NewPage) -> AsyncIterator[Page]:
    """A page that has gone nowhere yet."""
    async with new_page() as opened:
        yield opened


@contextlib.asynccontextmanager
async def serve_web_process(
    *targets: str, arguments: Iterable[str] = (), port: int = 0
) -> AsyncIterator[Process]:
    """A server process with the pane; `url` of what it yields is where the pane is.

    Args:
        targets: Environments as `openenv-async serve` takes them.
        arguments: More options of `openenv-async serve`.
        port: Where to listen; 0 takes a free one.
    """
    command = ["-m", "openenv_async.cli", "serve", *targets, "--web"]
    command += ["--port", str(port), *arguments]
    folder = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp))
    try:
        process = await anyio.to_thread.run_sync(Process, command, folder)
        try:
            process.url = await anyio.to_thread.run_sync(process.line, "debug pane at ")
            yield process
        finally:
            await anyio.to_thread.run_sync(process.kill)
    finally:
        await anyio.to_thread.run_sync(shutil.rmtree, folder)


@pytest.fixture
def serve_web() -> ServeWeb:
    """Starts server processes for one test; see `serve_web_process`."""
    return serve_web_process


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pane_url() -> AsyncIterator[str]:
    """The pane of a server process with echo, Gymnasium and coding environments.

    All tests share it. The environments are `echo_env`, `CartPole-v1` and
    `coding_env`.
    """
    async with serve_web_process(*_SERVED) as process:
        yield process.url


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Where a server listens, and later another."""
    with short_folder() as folder:
        yield folder / "s"


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of the views go."""
    # This file is read too late for the option where the whole of the tests is run.
    chosen = request.config.getoption("--screenshots", os.environ.get(_SCREENSHOTS))
    folder = Path(chosen) if chosen else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder
