"""Clients that vanish, stop reading or read slowly harm nobody but themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from openenv_async import SessionLost, StepResult
from openenv_async.client import Failure
from tests.chaos.processes import Process, short_folder
from tests.chaos.proxy import Proxy, Side, proxied
from tests.clients import ScriptedEnv
from tests.environments import Command, journal
from tests.serving import Serving, eventually, serving

_CLIENT = """
import asyncio, sys
from tests.clients import ScriptedEnv
from tests.environments import Command

async def main(url, busy):
    async with ScriptedEnv.batch(url, size=3) as envs:
        for index in range(3):
            await envs.reset(indices=[index])
        await envs.step([Command()] * 3)
        print("ready", flush=True)
        if busy == "busy":
            await envs.step([Command(do="sleep", seconds=60)] * 3)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""

_QUICK = 0.5
"""Seconds that a step of an undisturbed session may take at most."""
_MEGABYTE = 1024 * 1024


@contextlib.asynccontextmanager
async def _client(url: str, kind: str) -> AsyncIterator[Process]:
    folder = short_folder()
    path = await anyio.to_thread.run_sync(folder.__enter__)
    process = await anyio.to_thread.run_sync(
        Process, ["-c", _CLIENT, url, kind], Path(path)
    )
    try:
        await anyio.to_thread.run_sync(process.line, "ready")
        yield process
    finally:
        await anyio.to_thread.run_sync(process.kill)
        await anyio.to_thread.run_sync(folder.__exit__, None, None, None)


@pytest.mark.parametrize("kind", ["idle", "busy"])
async def test_sessions_of_a_killed_client_are_closed_after_the_lease(
    kind: str,
) -> None:
    """They stay for the lease, then close() is called once for each."""
    lease = 0.5
    async with serving(lease=lease) as server, ScriptedEnv(server.url) as other:
        await other.reset()
        async with _client(server.url, kind) as client:
            assert server.sessions == 4
            await anyio.to_thread.run_sync(client.kill)
            await eventually(lambda: len(server.core.links) == 1)
            dropped = time.monotonic()
            assert server.sessions == 4
            assert not [line for line in journal if line.startswith("closed")]
            await eventually(lambda: server.sessions == 1)
            assert lease * 0.8 <= time.monotonic() - dropped < lease + 1.5
        assert journal.count("closed None") == 3
        assert (await other.step(Command())).observation.count == 1


async def _undisturbed(server: Serving, *, until: asyncio.Event) -> int:
    """Step a session of its own until something has happened; no step is slow."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        count = 0
        while not until.is_set():
            began = time.monotonic()
            count += 1
            assert (await env.step(Command())).observation.count == count
            assert time.monotonic() - began < _QUICK
            await asyncio.sleep(0.001)
    return count


async def test_a_client_that_stops_reading_is_ended_and_slows_nobody() -> None:
    """Its connection ends by heartbeat, its sessions by their lease; others step on."""
    bound = 8 * _MEGABYTE
    async with proxied(heartbeat=0.2, lease=0.3, kept_bytes=bound) as (server, proxy):
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            async with ScriptedEnv.batch(proxy.url, size=16, sockets=1) as envs:
                await envs.reset()
                (stalled,) = server.core.links
                other = group.create_task(_undisturbed(server, until=ended))
                proxy.stall(Side.SERVER)
                large = [Command(do="array", size=2 * _MEGABYTE)] * 16
                waiting = group.create_task(envs.step(large))
                await eventually(lambda: stalled.protocol.pending)
                assert server.core.table.kept <= bound
                await eventually(lambda: stalled not in server.core.links)
                assert not stalled.protocol.pending
                await eventually(lambda: server.sessions == 1)
                assert server.core.table.kept <= _MEGABYTE
                ended.set()
                proxy.stall(stalled=False)
                for result in await waiting:
                    assert isinstance(result, Failure)
                    assert isinstance(result.error, SessionLost)
        assert other.result() > 50


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    """Taking answers is a sign of life, even if it takes more than three heartbeats."""
    async with proxied(heartbeat=0.15) as (server, proxy):
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            other = group.create_task(_undisturbed(server, until=done))
            pace = group.create_task(_pace(proxy))
            async with ScriptedEnv.batch(proxy.url, size=16, sockets=1) as envs:
                await envs.reset()
                began = time.monotonic()
                large = [Command(do="array", size=_MEGABYTE)] * 16
                for result in await envs.step(large):
                    assert isinstance(result, StepResult)
                    assert result.observation.data is not None
                    assert len(result.observation.data.data) == _MEGABYTE
                assert time.monotonic() - began > 4 * 0.15
                pace.cancel()
                proxy.stall(stalled=False)
            done.set()
        assert proxy.connections == 1
        assert other.result() > 50


async def _pace(proxy: Proxy) -> None:
    """Let a frame pass now and then."""
    while True:
        proxy.stall(Side.SERVER)
        await asyncio.sleep(0.02)
        proxy.stall(Side.SERVER, stalled=False)
        await asyncio.sleep(0)
