"""Sockets that die at chosen points: no step is lost, and none runs twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from openenv_async import (
    ConnectFailed,
    Failure,
    SessionLost,
    StepResult,
)
from openenv_async import messages as m
from openenv_async.client.connection import Connection
from tests.chaos.cutter import Cutter, cut_off
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import BlockingEnvironment, Command, executions, journal
from tests.serving import Serving, eventually, serving


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server that has no session left at the end of the test."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


@pytest.fixture
async def proxy(server: Serving) -> AsyncIterator[Cutter]:
    """A proxy in front of the server."""
    async with cut_off(server) as between:
        yield between


def connection_of(env: ScriptedEnv) -> Connection:
    """The connection of an open session."""
    assert env._connection is not None
    return env._connection


async def _reconnected(env: ScriptedEnv, times: int) -> None:
    await eventually(lambda: connection_of(env).reconnects == times)


async def test_a_step_sent_into_a_dead_socket_is_executed_once(proxy: Cutter) -> None:
    """Cut before the request: it is sent again on the next connection."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.cut()
        assert (await env.step(Command(text="before"))).observation.count == 1
        assert executions["before"] == 1
        assert connection_of(env).reconnects == 1


async def test_a_request_cut_in_the_middle_is_executed_once(proxy: Cutter) -> None:
    """Half a frame is no request; the whole one comes with the next connection."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.cut_after("up", 9)
        assert (await env.step(Command(text="half"))).observation.count == 1
        assert executions["half"] == 1


async def test_a_step_that_runs_when_its_socket_dies_is_executed_once(
    proxy: Cutter,
) -> None:
    """Cut after the request: the resent one is attached to the one that runs."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        gate = await holding("running")
        async with asyncio.TaskGroup() as group:
            action = Command(do="wait", text="running")
            step = group.create_task(env.step(action))
            await asleep("running")
            proxy.cut()
            await _reconnected(env, 1)
            gate.set()
        assert step.result().observation.count == 1
        assert executions["running"] == 1


async def test_a_reply_that_never_arrives_is_sent_again(proxy: Cutter) -> None:
    """Cut after the reply was written: the kept one comes, without a second step."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.stall("down")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="replied")))
            await eventually(lambda: executions["replied"])
            await asyncio.sleep(0.02)
            assert not step.done()
            proxy.cut()
            proxy.resume()
        assert step.result().observation.count == 1
        assert executions["replied"] == 1
        assert (await env.step(Command())).observation.count == 2


async def test_a_reply_cut_in_the_middle_is_sent_again(proxy: Cutter) -> None:
    """Half a large observation is dropped; the whole one follows."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.cut_after("down", 300_000)
        result = await env.step(Command(do="array", size=1_000_000, text="large"))
        assert result.observation.data is not None
        assert result.observation.data.nbytes == 1_000_000
        assert executions["large"] == 1


async def test_a_reset_and_a_state_survive_a_cut(proxy: Cutter) -> None:
    """Every call is resumed like a step."""
    async with ScriptedEnv(proxy.url) as env:
        proxy.cut_after("down", 20)
        await env.reset(episode_id="once")
        assert journal.count("reset once") == 1
        proxy.cut_after("down", 5)
        assert (await env.state()).episode_id == "once"


@pytest.mark.parametrize("size", [0, 10, 150, 400, 520, 560, 600])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_opening_survives_a_cut_once_the_server_has_greeted(
    proxy: Cutter, size: int, direction: str
) -> None:
    """A cut before the greeting is ConnectFailed; one after it opens one session."""
    proxy.cut_after("up" if direction == "up" else "down", max(1, size))
    env = ScriptedEnv(proxy.url)
    try:
        await env.open()
    except ConnectFailed:
        await ScriptedEnv.open(env)
    await env.reset(episode_id="opened")
    assert (await env.step(Command())).observation.count == 1
    await env.aclose()
    assert journal.count("closed opened") == 1


async def test_a_close_survives_a_cut(proxy: Cutter, server: Serving) -> None:
    """The environment is closed once, although the answer got lost."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset(episode_id="closing")
        proxy.cut_after("down", 3)
    await eventually(lambda: server.sessions == 0)
    assert journal.count("closed closing") == 1


async def test_a_cut_while_nothing_runs_is_not_noticed(proxy: Cutter) -> None:
    """An idle session is resumed in the background."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        for count in range(1, 4):
            proxy.cut()
            await _reconnected(env, count)
            assert (await env.step(Command())).observation.count == count


async def test_a_cancelled_step_survives_a_cut(proxy: Cutter) -> None:
    """A cancellation whose socket died is sent again too."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        await holding("cut")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(do="wait", text="cut")))
            await asleep("cut")
            proxy.stall("up")
            step.cancel()
            await asyncio.wait([step])
            proxy.cut()
            proxy.resume()
        await env.reset()
        assert (await env.step(Command())).observation.count == 1
        assert executions["cut"] == 0


async def test_a_server_that_refuses_for_a_while_is_found_again(proxy: Cutter) -> None:
    """Connections that end at once are tried again, one at a time, with pauses."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(0.4)
        tried = proxy.accepted
        assert tried < 40
        proxy.refuse(refusing=False)
        assert (await env.step(Command())).observation.count == 1


async def test_a_server_that_stays_away_is_a_typed_loss(
    proxy: Cutter, server: Serving
) -> None:
    """After reconnect_timeout the step says that nobody knows whether it ran."""
    async with ScriptedEnv(proxy.url, reconnect_timeout=0.3, lease=0.5) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        with pytest.raises(SessionLost) as caught:
            await env.step(Command())
        assert caught.value.executed == "unknown"
        with pytest.raises(SessionLost) as caught:
            await env.step(Command())
        assert caught.value.executed == "no"
        assert not env.is_open
    await eventually(lambda: server.sessions == 0)


async def test_a_server_that_greets_nobody_is_a_typed_loss(proxy: Cutter) -> None:
    """Connections that open but never get a greeting do not count as connected."""
    env = ScriptedEnv(proxy.url, reconnect_timeout=0.5, connect_timeout=0.2, lease=1.0)
    async with env:
        await env.reset()
        proxy.stall("down")
        proxy.cut()
        with pytest.raises(SessionLost):
            await env.step(Command())
        proxy.resume()


async def test_a_lease_that_ran_out_is_a_typed_loss(
    proxy: Cutter, server: Serving
) -> None:
    """Who comes back too late is told; there is no fresh environment in its place."""
    async with ScriptedEnv(proxy.url, lease=0.05) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: server.sessions == 0)
        proxy.refuse(refusing=False)
        with pytest.raises(SessionLost):
            await env.step(Command(text="late"))
        assert executions["late"] == 0
        assert journal.count("built") == 1


async def test_an_evicted_reply_is_a_typed_loss() -> None:
    """When the kept reply had to go, the step says that it was executed."""
    async with serving(kept_bytes=10_000) as server, cut_off(server) as proxy:
        async with ScriptedEnv(proxy.url) as env:
            await env.reset()
            proxy.cut_after("down", 5_000)
            with pytest.raises(Exception, match="no longer kept") as caught:
                await env.step(Command(do="array", size=50_000, text="evicted"))
            assert getattr(caught.value, "executed", "") == "yes"
            assert executions["evicted"] == 1
            await env.reset()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sockets", [1, 3])
async def test_steps_are_executed_exactly_once_whatever_is_cut(
    proxy: Cutter, seed: int, sockets: int
) -> None:
    """Many sessions under random cuts: every step runs once, and has its own reply."""
    chance = random.Random(seed)
    sessions, steps = 24, 12
    done = asyncio.Event()

    async def spoil() -> None:
        while not done.is_set():
            await asyncio.sleep(chance.uniform(0.0, 0.03))
            fault = chance.randrange(4)
            if fault == 0:
                proxy.cut()
            elif fault == 1:
                proxy.cut_after("up", chance.randrange(1, 3000))
            elif fault == 2:
                proxy.cut_after("down", chance.randrange(1, 3000))
            else:
                proxy.stall("down")
                await asyncio.sleep(chance.uniform(0.0, 0.01))
                proxy.cut()
                proxy.resume()

    async with ScriptedEnv.batch(
        proxy.url, size=sessions, sockets=sockets, reconnect_timeout=10.0
    ) as batch:
        await batch.reset()
        async with asyncio.TaskGroup() as group:
            spoiler = group.create_task(spoil())
            for number in range(1, steps + 1):
                actions = [
                    Command(do="sleep", seconds=0.004, text=f"{seed} {i} {number}")
                    for i in range(sessions)
                ]
                for index, result in enumerate(await batch.step(actions)):
                    assert isinstance(result, StepResult), result
                    assert result.observation.count == number
                    assert result.observation.text == f"{seed} {index} {number}"
            done.set()
            spoiler.cancel()
        proxy.resume()
    assert set(executions.values()) == {1}
    assert len(executions) == sessions * steps


async def test_single_sessions_survive_random_cuts_too() -> None:
    """Sessions of their own, blocking environments, and calls of every kind."""
    chance = random.Random(11)
    async with serving(BlockingEnvironment) as server, cut_off(server) as proxy:

        async def play(number: int) -> None:
            async with ScriptedEnv(proxy.url) as env:
                for episode in range(3):
                    await env.reset(episode_id=f"{number} {episode}")
                    for step in range(1, 5):
                        text = f"{number} {episode} {step}"
                        result = await env.step(Command(do="progress", text=text))
                        assert result.observation.count == step
                    assert (await env.state()).step_count == 4

        async with asyncio.TaskGroup() as group:
            players = [group.create_task(play(number)) for number in range(12)]
            while not all(player.done() for player in players):
                await asyncio.sleep(chance.uniform(0.002, 0.02))
                proxy.cut()
        await eventually(lambda: server.sessions == 0)
    assert set(executions.values()) == {1}
    resets = [line for line in journal if line.startswith("reset")]
    assert len(resets) == len(set(resets)) == 36


async def test_a_batch_reopens_what_was_lost(proxy: Cutter, server: Serving) -> None:
    """Lost sessions fail in their place until a reset opens new ones."""
    async with ScriptedEnv.batch(proxy.url, size=3, lease=0.05) as batch:
        await batch.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: server.sessions == 0)
        proxy.refuse(refusing=False)
        for _ in range(2):
            for result in await batch.step([Command()] * 3):
                assert isinstance(result, Failure)
                assert isinstance(result.error, SessionLost)
        await batch.reset(indices=[1])
        await batch.reset()
        for result in await batch.step([Command()] * 3):
            assert isinstance(result, StepResult)
            assert result.observation.count == 1


async def test_ready_sees_no_result_that_was_not_asked_for(
    proxy: Cutter, server: Serving
) -> None:
    """Sessions that end or resume while nothing is posted bring no arrival."""
    async with ScriptedEnv.batch(proxy.url, size=2, lease=0.05) as batch:
        proxy.cut()
        await batch.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: server.sessions == 0)
        proxy.refuse(refusing=False)
        await eventually(lambda: all(slot.session.ended for slot in batch._slots))
        assert [ready async for ready in batch.ready()] == []


async def test_a_heartbeat_notices_a_network_that_swallows(
    proxy: Cutter, server: Serving
) -> None:
    """A connection that carries nothing any more is dropped and made anew."""
    async with ScriptedEnv(proxy.url) as env:
        await env.reset()
        connection = connection_of(env)
        connection.protocol.limits = m.Limits(heartbeat=0.1)
        proxy.stall("up")
        proxy.stall("down")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="swallowed")))
            await eventually(lambda: connection._socket is None)
            proxy.cut()
            proxy.resume()
        assert step.result().observation.count == 1
        assert executions["swallowed"] == 1
        assert server.sessions == 1
