"""Batches on their sockets: how many there are, and what is large on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import pytest

from openenv_async import Array, BatchResult, GenericEnv, StepResult
from tests.clients import ScriptedEnv, connections
from tests.environments import Command
from tests.serving import Serving, serving

ObsT = TypeVar("ObsT")


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        assert connections() == 0
        assert running.sessions == 0


def _good(results: Sequence[BatchResult[ObsT]]) -> list[ObsT]:
    """The observations of results of which none failed."""
    for result in results:
        assert isinstance(result, StepResult), result
    return [result.observation for result in results if isinstance(result, StepResult)]


# Sockets


@pytest.mark.parametrize(
    ("size", "sockets", "expected"),
    [
        (8, 1, 1),
        (8, 2, 2),
        (8, 4, 4),
        (2, 4, 2),
        (1, None, 1),
        (64, None, 1),
        (127, None, 1),
        (128, None, 2),
        (256, None, 2),
    ],
)
async def test_sessions_are_spread_over_sockets(
    server: Serving, size: int, sockets: int | None, expected: int
) -> None:
    """The server sees as many connections as were asked for, evenly filled."""
    async with ScriptedEnv.batch(server.url, size=size, sockets=sockets) as batch:
        channels = [link.protocol.channels for link in server.core.links]
        assert len(channels) == expected
        assert sum(channels) == size
        assert max(channels) - min(channels) <= 1
        _good(await batch.reset())
        _good(await batch.step([Command()] * size))


async def test_two_batches_and_a_session_share_what_there_is(server: Serving) -> None:
    """Two batches of a process step at once on the same socket, and none mixes up."""
    async with (
        ScriptedEnv.batch(server.url, size=20) as one,
        GenericEnv.batch(server.url, size=30) as two,
        ScriptedEnv(server.url) as single,
    ):
        assert len(server.core.links) == 1
        await one.reset()
        await two.reset()
        await single.reset()
        for count in range(1, 6):
            async with asyncio.TaskGroup() as group:
                first = group.create_task(one.step([Command(text="one")] * 20))
                second = group.create_task(two.step([{"text": "two"}] * 30))
                alone = group.create_task(single.step(Command(text="alone")))
            assert {(r.count, r.text) for r in _good(first.result())} == {
                (count, "one")
            }
            for result in second.result():
                assert isinstance(result, StepResult)
                assert result.observation["text"] == "two"
                assert result.observation["count"] == count
            assert alone.result().observation.text == "alone"


# Sizes


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
async def test_large_observations_hold_up_nobody(server: Serving, size: int) -> None:
    """Arrays arrive whole, and small steps on the same socket overtake them."""
    async with (
        ScriptedEnv.batch(server.url, size=2) as batch,
        ScriptedEnv(server.url) as small,
    ):
        await batch.reset()
        await small.reset()
        order: list[str] = []

        async def large() -> None:
            action = Command(do="array", size=size)
            for report in _good(await batch.step([action] * 2)):
                assert report.data is not None
                assert report.data.nbytes == size
            order.append("large")

        async with asyncio.TaskGroup() as group:
            group.create_task(large())
            await asyncio.sleep(0)
            for _ in range(3):
                await small.step(Command())
                order.append("small")
        assert len(server.core.links) == 1
        if size > 1 << 22:
            assert order.index("large") > 0


async def test_large_actions_hold_up_nobody(server: Serving) -> None:
    """Actions of 5 MiB arrive whole, and a small step on the same socket overtakes."""
    data = Array("|u1", (5 << 20,), memoryview(bytes(range(256)) * (5 << 12)))
    async with (
        ScriptedEnv.batch(server.url, size=4) as batch,
        ScriptedEnv(server.url) as small,
    ):
        await batch.reset()
        await small.reset()
        async with asyncio.TaskGroup() as group:
            large = group.create_task(
                batch.step([Command(do="reflect", data=data)] * 4)
            )
            await asyncio.sleep(0)
            await small.step(Command())
            assert not large.done()
        assert len(server.core.links) == 1
        for report in _good(large.result()):
            assert report.data == data
