"""A server that is killed loses its sessions, and clients are told so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest

from openenv_async import OpenEnvError, SessionLost, State, StepResult
from openenv_async.client import Failure
from openenv_async.client.connection import Connection
from tests.chaos.processes import Process, short_folder, started
from tests.chaos.proxy import proxied
from tests.clients import ScriptedEnv, connections
from tests.environments import Command, journal
from tests.serving import eventually


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A folder with a short path."""
    context = short_folder()
    yield await anyio.to_thread.run_sync(context.__enter__)
    await anyio.to_thread.run_sync(context.__exit__, None, None, None)


async def _kill(server: Process) -> None:
    await anyio.to_thread.run_sync(server.kill)


async def _step_error(env: ScriptedEnv, action: Command) -> SessionLost:
    with pytest.raises(SessionLost) as caught:
        await env.step(action)
    return caught.value


@pytest.mark.parametrize("tcp", [False, True])
async def test_an_open_step_of_a_killed_server_is_unknown(
    folder: Path, tcp: bool
) -> None:
    """Whoever waits learns of the loss; an idle session's call was not executed."""
    async with started(folder, *(["--port", "0"] if tcp else [])) as first:
        url = first.url
        async with ScriptedEnv(url) as busy, ScriptedEnv(url) as idle:
            await busy.reset()
            await idle.reset()
            async with asyncio.TaskGroup() as group:
                hanging = Command(do="sleep", seconds=60)
                waiting = group.create_task(_step_error(busy, hanging))
                await idle.step(Command())
                await _kill(first)
                port = url.rpartition(":")[2]
                async with started(folder, *(["--port", port] if tcp else [])) as next_:
                    assert next_.url == url
                    error = await waiting
                    assert (error.executed, error.fault) == (
                        "unknown",
                        "infrastructure",
                    )
                    assert "replaced" in error.message
                    assert not idle.is_open
                    for env in (busy, idle):
                        assert (await _step_error(env, Command())).executed == "no"
                        with pytest.raises(SessionLost):
                            await env.reset()
                    async with ScriptedEnv(url) as fresh:
                        await fresh.reset()
                        assert (await fresh.step(Command())).observation.count == 1


async def test_a_call_during_the_outage_is_not_answered_by_the_new_server(
    folder: Path,
) -> None:
    """A step that is asked for while nobody serves is lost, not run by a stranger."""
    async with started(folder) as first, ScriptedEnv(first.url) as env:
        await env.reset()
        await _kill(first)
        connection = env._connection
        assert isinstance(connection, Connection)
        await eventually(lambda: not connection._socket)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_step_error(env, Command()))
            await asyncio.sleep(0)
            async with started(folder):
                # It was not executed; that the client cannot tell is the truth too.
                assert (await waiting).executed in ("no", "unknown")


async def test_a_batch_reopens_what_was_lost(folder: Path) -> None:
    """All places of a batch fail in their place, and reset() fills them anew."""
    async with contextlib.AsyncExitStack() as servers:
        first = await servers.enter_async_context(started(folder))
        async with (
            ScriptedEnv.batch(first.url, size=20, sockets=2) as envs,
            asyncio.TaskGroup() as group,
        ):
            await envs.reset()
            await envs.step([Command()] * 20)
            hanging = [Command(do="sleep", seconds=60)] * 20
            waiting = group.create_task(envs.step(hanging))
            await asyncio.sleep(0.05)
            await _kill(first)
            await servers.enter_async_context(started(folder))
            _check_lost(await waiting, "unknown")
            _check_lost(await envs.step([Command()] * 20), "no")
            for result in await envs.reset(seeds=range(20)):
                assert isinstance(result, StepResult), result
            for result in await envs.step([Command()] * 20):
                assert isinstance(result, StepResult), result
                assert result.observation.count == 1
            assert len(set(envs.session_ids)) == 20


def _check_lost(results: Sequence[object], executed: str) -> None:
    for result in results:
        assert isinstance(result, Failure)
        assert isinstance(result.error, SessionLost)
        assert result.executed == executed


async def test_a_batch_reopens_only_when_a_server_is_there(folder: Path) -> None:
    """reset() without a server fails in each place, and succeeds once there is one."""
    async with started(folder) as first:
        batch = ScriptedEnv.batch(
            first.url, size=4, reconnect_timeout=0.2, connect_timeout=0.5
        )
        async with batch as envs:
            await envs.reset()
            await _kill(first)
            await eventually(lambda: all(slot.session.ended for slot in envs._slots))
            for result in await envs.reset():
                assert isinstance(result, Failure)
                assert isinstance(result.error, OpenEnvError)
                assert result.executed == "no"
            async with started(folder):
                for result in await envs.reset():
                    assert isinstance(result, StepResult), result
                for result in await envs.step([Command()] * 4):
                    assert isinstance(result, StepResult), result
    assert connections() == 0


async def test_sessions_are_lost_when_no_server_comes_back(folder: Path) -> None:
    """Past the reconnect timeout the sessions end; later ones get a new connection."""
    async with started(folder) as first:
        url = first.url
        async with (
            ScriptedEnv(url, reconnect_timeout=0.3) as busy,
            ScriptedEnv(url, reconnect_timeout=0.3) as idle,
        ):
            await busy.reset()
            await idle.reset()
            async with asyncio.TaskGroup() as group:
                hanging = Command(do="sleep", seconds=60)
                waiting = group.create_task(_step_error(busy, hanging))
                await idle.step(Command())
                await _kill(first)
            assert waiting.result().executed == "unknown"
            assert "0.3 s" in waiting.result().message
            assert (await _step_error(idle, Command())).executed == "no"
            async with (
                started(folder),
                ScriptedEnv(url, reconnect_timeout=0.3) as fresh,
            ):
                await fresh.reset()
                assert (await fresh.step(Command())).observation.count == 1


async def test_an_episode_goes_on_after_an_outage_within_the_lease() -> None:
    """A session that comes back in time is where it was, in the same environment."""
    async with proxied(lease=5.0) as (server, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset(episode_id="one")
        for _ in range(3):
            await env.step(Command())
        session = env.session_id
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not server.core.links)
        await asyncio.sleep(0.2)
        proxy.refuse(refusing=False)
        assert (await env.step(Command())).observation.count == 4
        assert await env.state() == State(episode_id="one", step_count=4)
        assert env.session_id == session
        assert journal == ["built", "reset one"]
