"""`replace`: new sessions in the places of others, whatever runs on those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from openenv_async import SessionClosed, State, StepResult
from openenv_async.client import EnvBatch, Failure
from tests.clients import ScriptedEnv, asleep, cancelled, connections, holding
from tests.environments import Command, Report
from tests.serving import Serving, eventually, serving

Batch = EnvBatch[Command, Report, State]


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


@pytest.fixture
async def batch(server: Serving) -> AsyncIterator[Batch]:
    """Three sessions with an episode."""
    async with ScriptedEnv.batch(server.url, size=3) as opened:
        await opened.reset()
        yield opened


async def test_replace_opens_new_sessions(server: Serving, batch: Batch) -> None:
    """The old ones end on the server; the others are not touched."""
    before = batch.session_ids
    assert await batch.replace([0, 2]) == {}
    after = batch.session_ids
    assert [old == new for old, new in zip(before, after, strict=True)] == [
        False,
        True,
        False,
    ]
    await eventually(lambda: server.sessions == 3)
    first, second, third = await batch.step([Command()] * 3)
    # A new session has no episode yet.
    assert isinstance(first, Failure)
    assert isinstance(second, StepResult)
    assert isinstance(third, Failure)
    assert batch.environment == "scripted"


async def test_what_was_posted_never_arrives(batch: Batch) -> None:
    """A step that hangs is given up, and its place is free at once."""
    await holding("hang")
    batch.send([0, 1], [Command(do="wait", text="hang"), Command()])
    await asleep("hang")
    await batch.replace([0])
    batch.send_reset([0], seeds=[9])
    seen = {
        place: result
        async for ready in batch.ready()
        for place, result in zip(ready.indices, ready.results, strict=True)
    }
    assert sorted(seen) == [0, 1]
    assert isinstance(seen[0], StepResult)
    assert seen[0].observation.text == "seed 9"


async def test_whoever_awaits_a_replaced_session_is_told(batch: Batch) -> None:
    """Its place in the results has an error that says nobody knows."""
    await holding("hang")
    async with asyncio.TaskGroup() as group:
        step = group.create_task(
            batch.step([Command(do="wait", text="hang")], indices=[1])
        )
        await asleep("hang")
        await batch.replace([1])
    (failure,) = step.result()
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, SessionClosed)
    assert failure.executed == "unknown"


async def test_what_a_cancelled_call_left_is_replaced(batch: Batch) -> None:
    """The place needs not wait for it any more."""
    gate = await holding("swallowed")
    step = asyncio.ensure_future(  # noqa: TID251 (awaited below)
        batch.step([Command(do="swallow", text="swallowed")], indices=[2])
    )
    await asleep("swallowed")
    await cancelled(step)
    await batch.replace([2])
    async with asyncio.timeout(5):
        (result,) = await batch.reset(indices=[2])
    assert isinstance(result, StepResult)
    gate.set()


async def test_what_cannot_be_opened_is_named() -> None:
    """With its error, and it may be tried again."""
    async with serving(max_sessions=2) as server:
        async with ScriptedEnv.batch(server.url, size=1) as batch:
            async with ScriptedEnv(server.url), asyncio.timeout(5):
                # The old session may still be closing when the new one asks.
                while problems := await batch.replace([0]):
                    assert isinstance(problems[0], Failure)
                    assert problems[0].error.code == "at_capacity"
                (result,) = await batch.reset()
                assert isinstance(result, StepResult)
