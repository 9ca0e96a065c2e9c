"""Lost connections, replaced servers, tokens, prefixes: the pane says what happens."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import anyio
from playwright.async_api import Page, WebSocket, expect

from tests import environments
from tests.browser.conftest import Faults, NewPage, ServeWeb
from tests.browser.fronts import front
from tests.browser.pages import InteractPage, is_connected, open_view
from tests.chaos.cutter import Cutter
from tests.environments import ScriptedEnvironment
from tests.serving import Serving, eventually, serving

_LOST = (r"WebSocket connection to", r"net::ERR_")
"""What the browser itself logs of a server that is not there."""


@contextlib.asynccontextmanager
async def _cut_off(**options: Any) -> AsyncIterator[tuple[Serving, Cutter, str]]:
    """A server, what cuts its connections, and where a browser finds it."""
    async with serving(ScriptedEnvironment, web=True, **options) as server:
        assert server.path is not None
        async with front(server.path) as (cutter, url):
            yield server, cutter, url


def _accepted(cutter: Cutter, before: int) -> bool:
    return cutter.accepted > before


def _banner(page: Page) -> Any:
    return page.locator("#banner")


async def test_a_cut_connection_is_resumed(page: Page, faults: Faults) -> None:
    """A step in flight is answered after the cut, and ran once."""
    faults.expect(*_LOST)
    gate = environments.gates["cut"] = asyncio.Event()
    async with _cut_off() as (server, cutter, url):
        view = await InteractPage(page, url).open()
        await view.reset()
        await view.field("do").fill("wait")
        await view.field("text").fill("cut")
        await view.button("Step").click()
        await eventually(lambda: "cut" in environments.sleeping)
        cutter.refuse()
        cutter.cut()
        await expect(_banner(page)).to_contain_text("Reconnecting")
        await expect(_banner(page)).to_contain_text("Next try in")
        await expect(view.actions).to_contain_text("waiting for the connection")
        gate.set()
        await eventually(lambda: environments.executions["cut"])
        cutter.refuse(refusing=False)
        # It may try by itself at the same moment.
        with contextlib.suppress(Exception):
            await page.get_by_role("button", name="Retry now").click(timeout=1000)
        await view.observed("step")
        await expect(_banner(page)).to_be_empty()
        await is_connected(page)
        assert environments.executions["cut"] == 1
        assert server.sessions == 1


async def test_it_reconnects_by_itself(page: Page, faults: Faults) -> None:
    """Cut after cut, the episode goes on without a click."""
    faults.expect(*_LOST)
    async with _cut_off() as (_, cutter, url):
        view = await InteractPage(page, url).open()
        await view.reset()
        for text in ("one", "two"):
            before = cutter.accepted
            cutter.cut()
            await eventually(functools.partial(_accepted, cutter, before))
            await is_connected(page)
            await view.field("text").fill(text)
            await view.step()
        assert environments.executions == {"one": 1, "two": 1}


async def test_a_session_whose_lease_ran_out_is_lost(
    page: Page, faults: Faults
) -> None:
    """It is told as lost; a new one is opened by a click alone."""
    faults.expect(*_LOST)
    async with _cut_off(lease=0.05) as (server, cutter, url):
        view = await InteractPage(page, url).open()
        await view.reset()
        cutter.refuse()
        cutter.cut()
        await eventually(lambda: server.sessions == 0)
        cutter.refuse(refusing=False)
        await expect(view.alert).to_contain_text("session_lost")
        await expect(view.alert).to_contain_text("nobody came back within its lease")
        assert server.sessions == 0
        await expect(view.button("Step")).to_be_disabled()
        await expect(view.history).to_contain_text("1 of 1")
        await view.reset()
        assert server.sessions == 1


async def test_a_replaced_server_is_told_and_opens_nothing(
    page: Page, faults: Faults, serve_web: ServeWeb
) -> None:
    """Another incarnation: a notice, no session, no pretence."""
    faults.expect(*_LOST)
    target = "tests.environments:ScriptedEnvironment"
    async with serve_web(target) as first:
        view = await InteractPage(page, first.url).open()
        await view.reset()
        port = urlsplit(first.url).port
        await anyio.to_thread.run_sync(first.kill)
        await expect(_banner(page)).to_contain_text("Reconnecting")
        async with serve_web(target, port=port) as second:
            await expect(_banner(page)).to_contain_text("The server was replaced")
            await expect(view.alert).to_contain_text("session_lost")
            await expect(view.actions).to_contain_text("no session")
            health = await page.evaluate(
                "fetch('../health').then((answer) => answer.json())"
            )
            assert health["sessions"] == 0
            assert second.is_running
            await view.reset()
            await page.get_by_role("button", name="Dismiss").click()
            await expect(_banner(page)).to_be_empty()


async def test_a_goodbye_names_its_reason(page: Page, faults: Faults) -> None:
    """A server that shuts down is not just gone, however often it is tried again."""
    faults.expect(*_LOST)
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    async with serving(ScriptedEnvironment, tcp=True, web=True) as server:
        url = server.url.replace("ws://", "http://") + "/web/"
        view = await InteractPage(page, url).open()
        await view.reset()
    await expect(_banner(page)).to_contain_text("server is shutting down")
    await expect(view.alert).to_contain_text("shutting_down")
    await page.get_by_role("button", name="Retry now").click()
    await eventually(lambda: len(sockets) > 1)
    await expect(_banner(page)).to_contain_text("Next try in")
    await expect(_banner(page)).to_contain_text("Its sessions have ended")


async def test_a_server_that_falls_silent(page: Page, faults: Faults) -> None:
    """The page's clock is turned; the server says nothing all the while."""
    faults.expect(*_LOST)
    await page.clock.install()
    async with _cut_off(heartbeat=600.0) as (_, cutter, url):
        view = await InteractPage(page, url).open()
        await view.reset()
        accepted = cutter.accepted
        up = cutter.passed["up"]
        cutter.stall("down")
        await page.clock.run_for(20_000)
        await eventually(lambda: cutter.passed["up"] > up)  # it pings
        assert cutter.accepted == accepted
        await page.clock.run_for(30_000)
        cutter.resume()
        await page.clock.run_for(2_000)
        await eventually(lambda: cutter.accepted > accepted)
        await is_connected(page)


# Prefixes


async def test_a_mounted_application(page: Page) -> None:
    """The pane under a path of another application."""
    async with serving(ScriptedEnvironment, tcp=True, web=True, mount="/a/b") as server:
        url = server.url.replace("ws://", "http://") + "/web/"
        assert "/a/b/web/" in url
        view = await InteractPage(page, url).open()
        await view.reset()


@contextlib.asynccontextmanager
async def _behind_prefix(port: int, prefix: str) -> AsyncIterator[str]:
    """A reverse proxy that takes a prefix from paths, as one of a site would."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if not head.startswith(f"GET {prefix}/"):
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                return
            head = head.replace(f"GET {prefix}/", "GET /", 1)
            if "upgrade: websocket" not in head.lower():
                # One request a connection: later ones would need the same treatment.
                head = head.replace("Connection: keep-alive", "Connection: close")
            far_reader, far = await asyncio.open_connection("127.0.0.1", port)
            far.write(head.encode("latin-1"))
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far))
                group.create_task(_copy(far_reader, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        own = listener.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{own}{prefix}/web/"
    finally:
        listener.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_reverse_proxy_that_strips_a_prefix(new_page: NewPage) -> None:
    """A prefix that the server never hears of."""
    async with (
        serving(ScriptedEnvironment, tcp=True, web=True) as server,
        _behind_prefix(server.port, "/tools/env") as url,
        new_page() as page,
    ):
        view = await InteractPage(page, url).open()
        await view.reset()
        await page.goto("about:blank")
        await page.goto(url.removesuffix("/"))  # redirected, and to where it came from
        await is_connected(page)
        assert page.url.startswith(url)


async def test_a_page_of_another_site_gets_nothing(
    new_page: NewPage, faults: Faults
) -> None:
    """The socket does not open for a foreign page, and no frame shows the pane."""
    faults.expect(r"WebSocket connection to", r"frame-ancestors", r"refused to connect")
    faults.expect(r"policy violated", r"net::ERR_BLOCKED_BY_RESPONSE")
    async with (
        serving(ScriptedEnvironment, tcp=True, web=True) as server,
        new_page() as page,
    ):
        url = server.url.replace("ws://", "http://") + "/web/"
        await page.route(
            "http://localhost:1/",
            lambda route: route.fulfill(
                content_type="text/html", body=f"<iframe src='{url}'></iframe>"
            ),
        )
        await page.goto("http://localhost:1/")
        outcome = await page.evaluate(
            """(url) => new Promise((resolve) => {
                 const socket = new WebSocket(url, ["openenv.v1.json"]);
                 socket.onopen = () => resolve("open");
                 socket.onclose = ({ code }) => resolve(code);
               })""",
            server.url + "/ws",
        )
        assert outcome == 1006
        assert await page.frames[1].locator("#status").count() == 0


async def test_views_survive_a_reconnect(page: Page, faults: Faults) -> None:
    """Every view is there again after a cut."""
    faults.expect(*_LOST)
    async with _cut_off() as (_, cutter, url):
        for view in ("sessions", "server", "interact"):
            await open_view(page, url, view)
            cutter.cut()
            await expect(_banner(page)).to_contain_text("Reconnecting")
            await is_connected(page)
            await expect(page.locator("main")).not_to_be_empty()
