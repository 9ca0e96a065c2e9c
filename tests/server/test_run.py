"""Addresses to listen on, and the end of a server by signals."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn

from openenv_async import ProviderError
from openenv_async import messages as m
from openenv_async.server import bind_tcp, bind_unix, create_app
from openenv_async.server.run import make_server
from tests.clients import asleep, holding
from tests.environments import Command, ScriptedEnvironment, executions, journal
from tests.serving import Serving, dial, eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name that is short enough for sockets."""
    path = tempfile.mkdtemp()
    yield Path(path)
    shutil.rmtree(path)


# Addresses


def test_a_port_is_chosen_when_none_is_given() -> None:
    """Port 0 takes a free one, on which somebody can connect."""
    with bind_tcp("127.0.0.1", 0) as bound:
        with socket.create_connection(bound.getsockname()):
            pass


def test_a_busy_port_is_refused() -> None:
    """An address in use is named in the error."""
    with bind_tcp("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ProviderError, match=f"127.0.0.1:{port}"):
            bind_tcp("127.0.0.1", port)


def test_addresses_of_version_six_work() -> None:
    """A colon in the host means IPv6."""
    with bind_tcp("::1", 0) as bound:
        assert bound.family == socket.AF_INET6


def test_a_unix_socket_is_private(folder: Path) -> None:
    """Only its owner may connect, from the first moment; others' umask is untouched."""
    before = os.umask(0o022)
    try:
        with bind_unix(folder / "s"):
            mode = stat.S_IMODE((folder / "s").stat().st_mode)
            assert mode == 0o600
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_dead_socket_is_replaced(folder: Path) -> None:
    """What a killed server left does not stop the next one."""
    path = folder / "s"
    bind_unix(path).close()
    assert path.is_socket()
    with bind_unix(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_living_socket_is_not_replaced(folder: Path) -> None:
    """A server that listens keeps its socket."""
    path = folder / "s"
    with bind_unix(path), socket.socket(socket.AF_UNIX) as client:
        with pytest.raises(ProviderError, match="in use"):
            bind_unix(path)
        client.connect(str(path))


def test_a_file_is_not_replaced(folder: Path) -> None:
    """Whatever is no socket stays."""
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(ProviderError, match="precious"):
        bind_unix(path)
    assert path.read_text() == "data"


@pytest.mark.parametrize("name", ["x" * 120, "no/such/folder"])
def test_an_impossible_path_is_refused(folder: Path, name: str) -> None:
    """A path that is too long, or leads nowhere, is named in the error."""
    with pytest.raises(ProviderError, match="expected a path for a socket"):
        bind_unix(folder / name)


# Signals


class _Running:
    """A server that runs until a signal."""

    def __init__(
        self, serving: Serving, server: uvicorn.Server, task: asyncio.Task[None]
    ) -> None:
        self.serving = serving
        self.task = task
        self._server = server

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """What the process does when a signal arrives."""
        self._server.handle_exit(number, None)


@pytest.fixture
async def running() -> AsyncIterator[_Running]:
    """A server with a long drain, as `openenv-async serve` runs it."""
    journal.clear()
    executions.clear()
    folder = await anyio.to_thread.run_sync(tempfile.mkdtemp)
    path = Path(folder) / "s"
    bound = await anyio.to_thread.run_sync(bind_unix, path)
    app = create_app(ScriptedEnvironment)
    server = make_server(app, drain=60.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(sockets=[bound]))
        await eventually(lambda: server.started)
        serving = Serving(f"ws+unix://{path}", app.state.core, path)
        yield _Running(serving, server, task)
    await anyio.to_thread.run_sync(shutil.rmtree, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_gracefully(
    running: _Running, number: signal.Signals
) -> None:
    """What runs is answered, clients are told, environments closed, nothing raised."""
    async with dial(running.serving) as peer:
        await peer.open()
        await peer.reset(episode_id="e")
        gate = await holding("signalled")
        await peer.send(m.Step(1, 2, Command(do="wait", text="signalled")))
        await asleep("signalled")
        running.signal(number)
        await peer.expect(m.Goodbye)
        gate.set()
        assert (await peer.expect(m.Reply)).seq == 2
        await peer.expect(m.Ended)
        assert await peer.close_code() == 1012
    await running.task
    assert journal[-1] == "closed e"


async def test_a_second_signal_ends_the_server_at_once(running: _Running) -> None:
    """Who is told twice does not wait for what still runs."""
    async with dial(running.serving) as peer:
        await peer.open()
        await peer.reset()
        await holding("slow")
        await peer.send(m.Step(1, 2, Command(do="wait", text="slow")))
        await asleep("slow")
        running.signal()
        await peer.expect(m.Goodbye)
        running.signal()
        async with asyncio.timeout(3):
            await running.task
    assert executions["slow"] == 0


@pytest.mark.slow
@pytest.mark.timeout(30)
async def test_a_step_that_nothing_can_stop_does_not_keep_the_server(
    running: _Running,
) -> None:
    """A coroutine that swallows every cancellation is left, with a line in the log."""
    async with dial(running.serving) as peer:
        await peer.open()
        await peer.reset()
        gate = await holding("deaf")
        await peer.send(m.Step(1, 2, Command(do="swallow", text="deaf")))
        await asleep("deaf")
        running.signal()
        running.signal()
        async with asyncio.timeout(12):
            await running.task
        gate.set()
        await eventually(lambda: executions["deaf"])


# Idle servers


async def test_a_server_that_nobody_needs_ends(folder: Path) -> None:
    """It stays while somebody is connected, and ends some time after the last one."""
    path = folder / "s"
    bound = await anyio.to_thread.run_sync(bind_unix, path)
    app = create_app(ScriptedEnvironment)
    server = make_server(app, drain=1.0, idle_timeout=0.4)
    serving = Serving(f"ws+unix://{path}", app.state.core, path)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(sockets=[bound]))
        await eventually(lambda: server.started)
        async with dial(serving) as peer:
            await peer.open()
            # Longer than the limit: the point is that nothing happens.
            await asyncio.sleep(0.8)
            assert not server.should_exit
        async with asyncio.timeout(5):
            await task


async def test_whoever_keeps_a_server_asks_for_it() -> None:
    """/health?hold begins the idle time anew; /health alone does not."""
    app = create_app(ScriptedEnvironment)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://localhost"
    ) as http:
        await asyncio.sleep(0.05)
        await http.get("/health")
        assert app.state.core.idle_seconds >= 0.05
        await http.get("/health?hold")
        assert app.state.core.idle_seconds < 0.05
