"""`send` and `ready`: whoever is done first is next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import pytest

from openenv_async import (
    EnvironmentFailed,
    Failure,
    LocalProtocolError,
    Ready,
    SessionBusy,
    State,
    StepResult,
)
from openenv_async.client import EnvBatch
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import Command, Report
from tests.serving import Serving, eventually, serving

Batch = EnvBatch[Command, Report, State]


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        assert connections() == 0
        assert running.sessions == 0


@pytest.fixture
async def batch(server: Serving) -> AsyncIterator[Batch]:
    """Six sessions with an episode."""
    async with ScriptedEnv.batch(server.url, size=6) as opened:
        await opened.reset()
        yield opened


def _waiting(text: str) -> Command:
    return Command(do="wait", text=text)


async def _arrived(batch: Batch, in_flight: int) -> None:
    await eventually(lambda: batch.in_flight == in_flight)


async def test_results_come_as_they_finish(batch: Batch) -> None:
    """The order is the replies', each with the session's place in the batch."""
    gates = [await holding(str(place)) for place in range(3)]
    batch.send([0, 1, 2], [_waiting(str(place)) for place in range(3)])
    seen: list[int] = []
    gates[1].set()
    async for ready in batch.ready():
        assert isinstance(ready, Ready)
        for place, result in zip(ready.indices, ready.results, strict=True):
            assert isinstance(result, StepResult)
            assert result.observation.text == str(place)
            seen.append(place)
        if len(seen) < 3:
            gates[{1: 2, 2: 0}[seen[-1]]].set()
    assert seen == [1, 2, 0]
    assert batch.in_flight == 0


async def test_a_slow_session_delays_nobody(batch: Batch) -> None:
    """The others go round many times while one of them is in its step."""
    gate = await holding("slow")
    batch.send(range(6), [_waiting("slow"), *[Command()] * 5])
    rounds = 0
    async for ready in batch.ready():
        if 0 in ready.indices:
            break
        rounds += len(ready)
        if rounds < 100:
            batch.send(ready.indices, [Command()] * len(ready))
        elif batch.in_flight == 1:
            gate.set()
    assert rounds >= 100
    assert batch.in_flight == 0


async def test_it_ends_when_nothing_is_in_flight(batch: Batch) -> None:
    """Without anything posted there is nothing to wait for."""
    async for _ in batch.ready(min=3):
        raise AssertionError("nothing was posted")
    batch.send([2], [Command()])
    assert [ready.indices async for ready in batch.ready()] == [[2]]
    async for _ in batch.ready():
        raise AssertionError("nothing was posted again")


async def test_min_is_waited_for(batch: Batch) -> None:
    """Fewer than `min` are not yielded while more can come."""
    gate = await holding("min")
    batch.send(range(4), [Command(), Command(), _waiting("min"), _waiting("min")])
    await _arrived(batch, 2)
    collecting = asyncio.ensure_future(anext(batch.ready(min=3)))  # noqa: TID251 (awaited below)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not collecting.done()
    gate.set()
    assert len(await collecting) >= 3


async def test_min_is_not_more_than_what_can_come(batch: Batch) -> None:
    """With fewer in flight than `min`, all of them are enough."""
    batch.send([0, 1], [Command()] * 2)
    assert [len(ready) async for ready in batch.ready(min=5)] == [2]


async def test_max_bounds_what_comes_at_once(batch: Batch) -> None:
    """More than `max` are yielded in turns, the oldest first, and none is lost."""
    batch.send(range(6), [Command()] * 6)
    await _arrived(batch, 0)
    seen = [ready.indices async for ready in batch.ready(max=4)]
    assert seen == [[0, 1, 2, 3], [4, 5]]


async def test_after_the_timeout_one_result_will_do(batch: Batch) -> None:
    """What has arrived by then is yielded although it is fewer than `min`."""
    gate = await holding("timeout")
    batch.send([0, 1, 2], [Command(), _waiting("timeout"), _waiting("timeout")])
    await _arrived(batch, 2)
    ready = batch.ready(min=3, timeout=0.02)
    began = perf_counter()
    first = await anext(ready)
    assert first.indices == [0]
    assert perf_counter() - began >= 0.015
    gate.set()
    assert sorted((await anext(ready)).indices) == [1, 2]


async def test_a_timeout_never_yields_nothing(batch: Batch) -> None:
    """When nothing has come by then, the first one to come is yielded."""
    gate = await holding("nothing")
    batch.send([0, 1, 2], [_waiting("nothing"), *[_waiting("never")] * 2])
    never = await holding("never")
    collecting = asyncio.ensure_future(anext(batch.ready(min=3, timeout=0.0)))  # noqa: TID251 (awaited below)
    await asleep("nothing")
    await asyncio.sleep(0.01)
    assert not collecting.done()
    gate.set()
    assert (await collecting).indices == [0]
    never.set()
    await _arrived(batch, 0)


@pytest.mark.parametrize(("least", "most"), [(0, None), (-1, None), (3, 2)])
async def test_bounds_that_nothing_fits_are_misuse(
    batch: Batch, least: int, most: int | None
) -> None:
    """`min` is at least 1 and at most `max`."""
    with pytest.raises(LocalProtocolError, match="min"):
        await anext(batch.ready(min=least, max=most))


async def test_a_session_takes_one_action_at_a_time(batch: Batch) -> None:
    """A second `send` before the reply is `SessionBusy` and sends nothing."""
    gate = await holding("twice")
    batch.send([3], [_waiting("twice")])
    with pytest.raises(SessionBusy, match="session 3"):
        batch.send([2, 3], [Command()] * 2)
    with pytest.raises(SessionBusy, match="session 3"):
        batch.send_reset([3])
    with pytest.raises(SessionBusy):
        await batch.step([Command()], indices=[3])
    assert batch.in_flight == 1
    gate.set()
    assert [ready.indices async for ready in batch.ready()] == [[3]]
    batch.send([2, 3], [Command()] * 2)
    counts = {
        place: result.observation.count
        async for ready in batch.ready()
        for place, result in zip(ready.indices, ready.results, strict=True)
        if isinstance(result, StepResult)
    }
    assert counts == {2: 1, 3: 2}


async def test_only_one_may_wait_for_ready(batch: Batch) -> None:
    """A second caller is refused; results of the first are not lost."""
    gate = await holding("one")
    batch.send([0], [_waiting("one")])
    first = asyncio.ensure_future(anext(batch.ready()))  # noqa: TID251 (awaited below)
    await asleep("one")
    with pytest.raises(SessionBusy, match="at a time"):
        await anext(batch.ready())
    gate.set()
    assert (await first).indices == [0]


async def test_failures_come_like_results(batch: Batch) -> None:
    """An environment that raises is a `Failure` in its session's place."""
    unsayable = Command(text="\udc80")
    batch.send([4, 5, 1], [Command(do="fail"), unsayable, Command()])
    found = {
        place: result
        async for ready in batch.ready()
        for place, result in zip(ready.indices, ready.results, strict=True)
    }
    failed, refused = found[4], found[5]
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, EnvironmentFailed)
    assert isinstance(refused, Failure)
    assert isinstance(refused.error, LocalProtocolError)
    assert isinstance(found[1], StepResult)


async def test_resets_are_posted_like_steps(batch: Batch) -> None:
    """`send_reset` starts episodes, and `ready` yields their first observations."""
    batch.send_reset([1, 0], seeds=7, options={"length": 1})
    texts = {
        place: result.observation.text
        async for ready in batch.ready()
        for place, result in zip(ready.indices, ready.results, strict=True)
        if isinstance(result, StepResult) and result.is_reset
    }
    assert texts == {1: "seed 7", 0: "seed 8"}
    batch.send_reset()
    assert batch.in_flight == 6
    assert sum([len(ready) async for ready in batch.ready(min=6)]) == 6


async def test_leaving_the_loop_loses_nothing(batch: Batch) -> None:
    """What was not taken is there for the next `ready`."""
    batch.send(range(6), [Command()] * 6)
    async for ready in batch.ready(max=2, min=2):
        assert ready.indices == [0, 1]
        break
    rest = [place async for ready in batch.ready() for place in ready.indices]
    assert rest == [2, 3, 4, 5]


async def test_both_ways_can_be_mixed(batch: Batch) -> None:
    """Some sessions may be stepped together while others have something posted."""
    gate = await holding("mixed")
    batch.send([0], [_waiting("mixed")])
    (result,) = await batch.step([Command()], indices=[1])
    assert isinstance(result, StepResult)
    gate.set()
    assert [ready.indices async for ready in batch.ready()] == [[0]]


async def test_closing_ends_what_is_posted(server: Serving) -> None:
    """Leaving the block with steps in flight stops them and closes everything."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        await batch.reset()
        await holding("open")
        batch.send([0, 1], [_waiting("open")] * 2)
        await asleep("open")
    assert server.sessions == 0
    async with batch:
        assert batch.in_flight == 0
        async for _ in batch.ready():
            raise AssertionError("nothing was posted since")
