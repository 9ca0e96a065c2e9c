"""A step runs once, whatever becomes of the connection, and its reply arrives once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest

from openenv_async import (
    Array,
    EnvBatch,
    OpenEnvError,
    SessionLost,
    State,
    StepInterrupted,
    StepResult,
)
from openenv_async.client import Failure
from openenv_async.client.connection import Connection
from openenv_async.client.transport import WebSocket
from tests.chaos.proxy import Fate, Proxy, Side, proxied
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import (
    BlockingEnvironment,
    Command,
    Report,
    executions,
    gates,
)
from tests.serving import eventually

SESSIONS = 64
SECONDS = 2.0
"""How long the random ones go on."""

_FATES = [Fate.ARRIVES_LAST, Fate.LOST, Fate.TRUNCATED]


async def _one_step(url: str, proxy: Proxy, side: Side, fate: Fate) -> None:
    """A step whose request, or whose reply, meets a fate."""
    async with ScriptedEnv(url) as env:
        await env.reset(episode_id="e")
        await env.step(Command(text="before"))
        struck = proxy.arm(side, fate)
        result = await env.step(Command(text="cut"))
        assert struck.is_set()
        assert (result.observation.text, result.observation.count) == ("cut", 2)
        after = await env.step(Command(text="after"))
        assert (after.observation.text, after.observation.count) == ("after", 3)
        assert await env.state() == State(episode_id="e", step_count=3)
    assert executions == {"before": 1, "cut": 1, "after": 1}
    assert proxy.connections == 2


@pytest.mark.parametrize("fate", _FATES)
@pytest.mark.parametrize("side", list(Side))
async def test_a_step_survives_a_cut(side: Side, fate: Fate) -> None:
    """A cut around a request or its reply costs neither the step nor a second run."""
    async with proxied() as (_, proxy):
        await _one_step(proxy.url, proxy, side, fate)


@pytest.mark.parametrize("fate", _FATES)
@pytest.mark.parametrize("side", list(Side))
async def test_opening_survives_a_cut(side: Side, fate: Fate) -> None:
    """A session whose opening is cut off is opened once, not twice."""
    async with proxied() as (server, proxy):
        async with ScriptedEnv(proxy.url) as first:
            await first.reset()
            struck = proxy.arm(side, fate)
            async with ScriptedEnv(proxy.url) as env:
                assert struck.is_set()
                assert server.sessions == 2
                await env.reset()
                assert (await env.step(Command())).observation.count == 1
        assert server.sessions == 0


@pytest.mark.parametrize("fate", _FATES)
@pytest.mark.parametrize("side", list(Side))
async def test_closing_survives_a_cut(side: Side, fate: Fate) -> None:
    """A session whose close is cut off is closed all the same, and nothing remains."""
    async with proxied() as (server, proxy):
        async with ScriptedEnv(proxy.url) as env:
            await env.reset()
            struck = proxy.arm(side, fate)
        assert struck.is_set()
        await eventually(lambda: server.sessions == 0)
        assert connections() == 0


@pytest.mark.parametrize("fate", _FATES)
@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("nth", [0, 1])
async def test_a_cut_while_reconnecting_costs_nothing(
    side: Side, fate: Fate, nth: int
) -> None:
    """Greeting and resumption are repeated when they are cut off themselves."""
    async with proxied() as (_, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.refuse()
        gate = await holding("long")
        step = asyncio.ensure_future(  # noqa: TID251 (awaited below)
            env.step(Command(do="wait", text="long"))
        )
        await asleep("long")
        proxy.cut()
        struck = proxy.arm(side, fate, skip=nth)
        proxy.refuse(refusing=False)
        await struck.wait()
        gate.set()
        assert (await step).observation.text == "long"
        assert executions["long"] == 1
        assert (await env.step(Command())).observation.count == 2


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_step_that_runs_during_a_cut_is_attached_to(ends: str) -> None:
    """The reply arrives, whether the client is back before the step ends or after."""
    async with proxied() as (server, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        gate = await holding("long")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(do="wait", text="long")))
            await asleep("long")
            proxy.refuse()
            proxy.cut()
            await eventually(lambda: not server.core.links)
            if ends == "before":
                gate.set()
                await eventually(lambda: executions["long"])
                await asyncio.sleep(0)
            proxy.refuse(refusing=False)
            await eventually(lambda: server.core.links)
            assert not step.done() or ends == "before"
            gate.set()
        assert step.result().observation.count == 1
        assert executions["long"] == 1


@pytest.mark.parametrize("fate", _FATES)
@pytest.mark.parametrize("side", list(Side))
async def test_a_large_message_is_cut_between_its_chunks(
    side: Side, fate: Fate
) -> None:
    """Five megabytes that lose their connection half way arrive whole, and once."""
    data = np.random.default_rng(7).bytes(5_000_000)
    do = "reflect" if side is Side.SERVER else "count"
    async with proxied() as (_, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        struck = proxy.arm(side, fate, skip=9, at_least=100_000)
        sent = Array("|u1", (len(data),), memoryview(data))
        result = await env.step(Command(do=do, text="large", data=sent))
        assert struck.is_set()
        if do == "reflect":
            assert result.observation.data is not None
            assert bytes(result.observation.data.data) == data
        assert executions["large"] == 1
        assert result.observation.count == 1
        assert (await env.step(Command())).observation.count == 2


async def test_a_chunked_reply_does_not_hold_up_others_after_a_cut() -> None:
    """Small steps of other sessions pass a large reply that is being sent again."""
    async with proxied() as (_, proxy):
        async with ScriptedEnv(proxy.url) as large, ScriptedEnv(proxy.url) as small:
            await large.reset()
            await small.reset()
            struck = proxy.arm(Side.SERVER, Fate.LOST, skip=5, at_least=100_000)
            async with asyncio.TaskGroup() as group:
                step = group.create_task(
                    large.step(Command(do="array", size=5_000_000))
                )
                for count in range(1, 20):
                    observation = (await small.step(Command())).observation
                    assert observation.count == count
            assert struck.is_set()
            array = step.result().observation.data
            assert array is not None
            assert len(array.data) == 5_000_000


@pytest.mark.parametrize("side", list(Side))
async def test_a_stalled_connection_delays_and_loses_nothing(side: Side) -> None:
    """A step waits while one direction stands still, and goes on with it."""
    async with proxied() as (_, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.stall(side)
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="late")))
            await asyncio.sleep(0.05)
            assert not step.done()
            assert executions["late"] == (0 if side is Side.CLIENT else 1)
            proxy.stall(side, stalled=False)
        assert step.result().observation.text == "late"
        assert executions["late"] == 1
        assert proxy.connections == 1


async def test_a_step_in_the_turn_in_which_the_server_closes_is_sent_again() -> None:
    """A step that meets a closing socket waits for the next one."""
    async with proxied() as (_, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        assert isinstance(env._connection, Connection)
        socket = env._connection._socket
        assert isinstance(socket, WebSocket)
        assert socket._transport is not None
        # What the loop does at the end of the stream; the rest comes in the next turn.
        socket.eof_received()
        socket._transport.close()
        assert (await env.step(Command(text="late"))).observation.count == 1
        assert executions["late"] == 1
        assert proxy.connections == 2


async def test_a_cancelled_step_of_a_cut_connection_is_told_of() -> None:
    """A step that is cancelled while there is no connection says if it was executed."""
    async with proxied() as (server, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.arm(Side.SERVER, Fate.LOST)
        proxy.refuse()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await env.step(Command(text="cancelled"))
        assert not server.core.links
        assert executions["cancelled"] == 1
        proxy.refuse(refusing=False)
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command(text="next"))
        assert caught.value.executed == "yes"
        result = caught.value.result
        assert isinstance(result, StepResult)
        assert result.observation.text == "cancelled"
        assert executions["next"] == 0
        assert (await env.step(Command(text="next"))).observation.count == 2


async def test_a_step_cancelled_before_it_was_sent_never_runs() -> None:
    """A step that is cancelled while there is no connection is not sent later."""
    async with proxied() as (server, proxy), ScriptedEnv(proxy.url) as env:
        await env.reset()
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not server.core.links)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await env.step(Command(text="never"))
        proxy.refuse(refusing=False)
        assert (await env.step(Command(text="next"))).observation.count == 1
        assert executions == {"next": 1}


async def test_a_lease_that_runs_out_is_a_loss_that_says_so() -> None:
    """Past the lease, an open step is `unknown` and an idle session `no`."""
    async with proxied(lease=0.05) as (server, proxy):
        async with ScriptedEnv(proxy.url) as open_, ScriptedEnv(proxy.url) as idle:
            await open_.reset()
            await idle.reset()
            await holding("open")
            async with asyncio.TaskGroup() as group:
                step = group.create_task(_outcome(open_, "open", do="wait"))
                await asleep("open")
                proxy.refuse()
                proxy.cut()
                await eventually(lambda: server.sessions == 0)
                proxy.refuse(refusing=False)
            error = step.result()
            assert isinstance(error, SessionLost)
            assert error.executed == "unknown"
            await eventually(lambda: not idle.is_open)
            error = await _outcome(idle, "idle")
            assert isinstance(error, SessionLost)
            assert error.executed == "no"
            assert executions["idle"] == 0


async def _outcome(
    env: ScriptedEnv, text: str, *, do: str = "count"
) -> StepResult[Report] | OpenEnvError:
    try:
        return await env.step(Command(do=do, text=text))
    except OpenEnvError as error:
        return error


# Random cutting


class _Chance:
    """Gives frames random fates."""

    def __init__(self, seed: int, chance: float) -> None:
        self.random = random.Random(seed)
        self.chance = chance
        self.struck = 0

    def __call__(self, _side: Side, _size: int) -> Fate:
        if self.random.random() >= self.chance:
            return Fate.ARRIVES
        self.struck += 1
        return self.random.choice(_FATES)


def _random_action(source: random.Random, text: str) -> Command:
    if source.random() < 0.3:
        return Command(do="sleep", seconds=source.random() * 0.004, text=text)
    if source.random() < 0.03:
        return Command(do="array", size=600_000, text=text)
    return Command(text=text)


def _check_once(text: str, outcome: object) -> None:
    """What a caller was told about a step is what happened."""
    runs = executions[text]
    if isinstance(outcome, StepResult):
        assert runs == 1
        return
    assert isinstance(outcome, OpenEnvError), outcome
    assert runs in {"yes": (1,), "no": (0,), "unknown": (0, 1)}[outcome.executed]


def _check_own(action: Command, outcome: object, count: int) -> None:
    """A reply is the one to this action of this session."""
    assert isinstance(outcome, StepResult), outcome
    assert outcome.observation.count == count
    if action.do == "array":
        assert len(outcome.observation.data.data) == action.size
    else:
        assert outcome.observation.text == action.text


async def _awaiting(url: str, number: int, seed: int, end: float) -> int:
    source = random.Random(f"{seed} {number}")
    async with ScriptedEnv(url) as env:
        await env.reset(episode_id=str(number))
        count = 0
        while time.monotonic() < end:
            count += 1
            action = _random_action(source, f"{number}-{count}")
            _check_own(action, await env.step(action), count)
            assert executions[action.text] == 1
        assert await env.state() == State(episode_id=str(number), step_count=count)
    return count


@pytest.mark.parametrize("seed", [1, 2])
async def test_awaited_steps_run_once_under_random_cuts(seed: int) -> None:
    """64 sessions whose connection is cut again and again get their own replies."""
    async with proxied() as (server, proxy):
        chance = proxy.decide = _Chance(seed, 0.02)
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_awaiting(proxy.url, number, seed, end))
                for number in range(SESSIONS)
            ]
        steps = sum(task.result() for task in tasks)
        assert chance.struck > 5
        assert proxy.connections > 5
        assert sum(executions.values()) <= steps
        assert max(executions.values()) == 1
        await eventually(lambda: server.sessions == 0)


@pytest.mark.parametrize("seed", [3, 4])
async def test_batched_steps_run_once_under_random_cuts(seed: int) -> None:
    """A batch whose connections are cut again and again gets all results in order."""
    async with proxied() as (_, proxy):
        source = random.Random(seed)
        chance = proxy.decide = _Chance(seed, 0.05)
        batch = ScriptedEnv.batch(proxy.url, size=SESSIONS, sockets=2)
        async with batch as envs:
            await envs.reset()
            count, end = 0, time.monotonic() + SECONDS
            while time.monotonic() < end:
                count += 1
                await _step_all(envs, source, count)
        assert chance.struck > 5
        assert max(executions.values()) == 1


async def _step_all(
    envs: EnvBatch[Command, Report, State], source: random.Random, count: int
) -> None:
    actions = [
        _random_action(source, f"{number}-{count}") for number in range(SESSIONS)
    ]
    results = await envs.step(actions)
    for action, result in zip(actions, results, strict=True):
        _check_own(action, result, count)
        assert executions[action.text] == 1


@pytest.mark.parametrize("seed", [8])
async def test_threaded_steps_run_once_under_random_cuts(seed: int) -> None:
    """Blocking environments in threads keep the same promise."""
    async with proxied(BlockingEnvironment) as (server, proxy):
        chance = proxy.decide = _Chance(seed, 0.02)
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            for number in range(SESSIONS):
                group.create_task(_awaiting(proxy.url, number, seed, end))
        assert chance.struck > 5
        assert max(executions.values()) == 1
        await eventually(lambda: server.sessions == 0)


@pytest.mark.parametrize("seed", [9])
async def test_cancelled_batches_are_told_of_under_random_cuts(seed: int) -> None:
    """After a cancelled batch.step, each place says truthfully what it did."""
    async with proxied() as (_, proxy):
        source = random.Random(seed)
        chance = proxy.decide = _Chance(seed, 0.03)
        interrupted, end = 0, time.monotonic() + SECONDS
        async with ScriptedEnv.batch(proxy.url, size=SESSIONS) as envs:
            await envs.reset()
            count = 0
            while time.monotonic() < end:
                count += 1
                actions = [
                    _random_action(source, f"{number}-{count}")
                    for number in range(SESSIONS)
                ]
                try:
                    async with asyncio.timeout(source.random() * 0.02):
                        results = await envs.step(actions)
                except TimeoutError:
                    again = [Command(text=f"{action.text}-x") for action in actions]
                    interrupted += _check_told(actions, await envs.step(again))
                    await envs.reset()
                else:
                    for action, result in zip(actions, results, strict=True):
                        assert isinstance(result, StepResult), result
                        assert executions[action.text] == 1
        assert chance.struck > 5
        assert interrupted > 5
        assert max(executions.values()) == 1


def _check_told(actions: Sequence[Command], results: Sequence[object]) -> int:
    """What became of cancelled steps, according to the results of the next ones."""
    interrupted = 0
    for action, result in zip(actions, results, strict=True):
        if isinstance(result, StepResult):
            assert executions[action.text] == 0
            assert executions[f"{action.text}-x"] == 1
        else:
            assert isinstance(result, Failure)
            assert isinstance(result.error, StepInterrupted), result
            assert executions[f"{action.text}-x"] == 0
            _check_once(action.text, result.error)
            interrupted += 1
    return interrupted


@pytest.mark.parametrize("seed", [5])
async def test_posted_steps_run_once_under_random_cuts(seed: int) -> None:
    """`send` and `ready` yield one result for each action, the right one."""
    async with proxied() as (_, proxy):
        source = random.Random(seed)
        chance = proxy.decide = _Chance(seed, 0.02)
        async with ScriptedEnv.batch(proxy.url, size=SESSIONS) as envs:
            await envs.reset()
            counts, end = [1] * SESSIONS, time.monotonic() + SECONDS
            actions = [_random_action(source, f"{n}-1") for n in range(SESSIONS)]
            envs.send(range(SESSIONS), actions)
            async for ready in envs.ready(min=8, timeout=0.01):
                for index, result in zip(ready.indices, ready.results, strict=True):
                    _check_own(actions[index], result, counts[index])
                    assert executions[actions[index].text] == 1
                    counts[index] += 1
                    actions[index] = _random_action(source, f"{index}-{counts[index]}")
                if time.monotonic() < end:
                    envs.send(ready.indices, [actions[i] for i in ready.indices])
        assert chance.struck > 5


async def _impatient(url: str, number: int, seed: int, end: float) -> int:
    """Cancel steps at random, and check what the next call says of them."""
    source = random.Random(f"{seed} {number}")
    interrupted = count = 0
    async with ScriptedEnv(url) as env:
        await env.reset()
        while time.monotonic() < end:
            count += 1
            text = f"{number}-{count}"
            result: object = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(source.random() * 0.02):
                    result = await env.step(_random_action(source, text))
            if result is not None:
                _check_once(text, result)
                continue
            outcome = await _outcome(env, f"{text}-next")
            if isinstance(outcome, StepInterrupted):
                interrupted += 1
                assert executions[f"{text}-next"] == 0
                _check_once(text, outcome)
                if outcome.executed != "yes":
                    await env.reset()
            else:
                assert executions[text] == 0
                _check_once(f"{text}-next", outcome)
    return interrupted


@pytest.mark.parametrize("seed", [6])
async def test_cancelled_steps_are_told_of_under_random_cuts(seed: int) -> None:
    """What a cancelled step did is told truthfully, however often it was cut off."""
    async with proxied() as (_, proxy):
        chance = proxy.decide = _Chance(seed, 0.03)
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_impatient(proxy.url, number, seed, end))
                for number in range(SESSIONS)
            ]
        assert chance.struck > 5
        assert sum(task.result() for task in tasks) > 5
        assert max(executions.values()) == 1


@pytest.mark.parametrize("seed", [7])
async def test_losses_are_truthful_under_random_cuts_and_a_short_lease(
    seed: int,
) -> None:
    """With leases shorter than outages, an error says truthfully if the step ran."""
    async with proxied(lease=0.02) as (server, proxy):
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_losing(proxy.url, number, seed, end))
                for number in range(SESSIONS)
            ]
            source = random.Random(seed)
            # Opening a first connection that is cut is an error, and told as one.
            await eventually(lambda: server.sessions > 0)
            while time.monotonic() < end:
                await asyncio.sleep(source.random() * 0.2)
                proxy.refuse()
                proxy.cut()
                await asyncio.sleep(source.random() * 0.06)
                proxy.refuse(refusing=False)
        assert sum(task.result() for task in tasks) > 5
        assert max(executions.values()) == 1
        await eventually(lambda: server.sessions == 0)


async def _losing(url: str, number: int, seed: int, end: float) -> int:
    source = random.Random(f"{seed} {number}")
    lost = steps = 0
    while time.monotonic() < end:
        async with ScriptedEnv(url) as env:
            try:
                await env.reset()
            except SessionLost:
                lost += 1
                continue
            outcome: object = None
            count = 0
            while time.monotonic() < end and not isinstance(outcome, SessionLost):
                steps += 1
                count += 1
                text = f"{number}-{steps}"
                do = "sleep" if source.random() < 0.3 else "count"
                outcome = await _outcome(env, text, do=do)
                _check_once(text, outcome)
                if isinstance(outcome, StepResult):
                    assert outcome.observation.count == count
            lost += isinstance(outcome, SessionLost)
    return lost


@pytest.fixture(autouse=True)
def _no_gates() -> None:
    gates.clear()
