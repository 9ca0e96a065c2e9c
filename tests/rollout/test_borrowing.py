"""A batch that a collector had comes back empty, and is nobody else's meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from openenv_async import SessionBusy
from openenv_async.client import EnvBatch
from openenv_async.rollout import Collector, EpisodeContext, Terminated, collect
from tests.clients import connections, holding
from tests.environments import Command, Report
from tests.rollout.players import Acting, batch_of, policies, tasks_of
from tests.serving import Serving, eventually, serving

every_policy = pytest.mark.parametrize("policy", policies)

Sessions = EnvBatch[Command, Report, Any]


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


async def _leave_by_break(batch: Sessions, policy: Any, episodes: int) -> None:
    async for _ in collect(batch, policy, tasks_of(99, length=3)):
        episodes -= 1
        if not episodes:
            break


async def _leave_by_aclosing(batch: Sessions, policy: Any, episodes: int) -> None:
    async with aclosing(collect(batch, policy, tasks_of(99, length=3))) as source:
        for _ in range(episodes):
            await anext(source)


async def _leave_collector(batch: Sessions, policy: Any, episodes: int) -> None:
    async with Collector(batch, policy, tasks_of(99, length=3)) as collector:
        for _ in range(episodes):
            await anext(collector)


async def _cancel(batch: Sessions, policy: Any, episodes: int) -> None:
    enough = asyncio.Event()

    async def consume() -> None:
        left = episodes
        async for _ in collect(batch, policy, tasks_of(99, length=3)):
            left -= 1
            if not left:
                enough.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(consume())
        await enough.wait()
        task.cancel()


@every_policy
@pytest.mark.parametrize(
    "leave", [_leave_by_break, _leave_by_aclosing, _leave_collector, _cancel]
)
async def test_results_of_a_run_that_was_left_reach_nobody(
    server: Serving, policy: Any, leave: Any
) -> None:
    """What arrived and was not taken is gone; each call has its own result only."""
    async with asyncio.timeout(15), batch_of(server, 8) as batch:
        for episodes in range(1, 13):
            await leave(batch, policy(), episodes)
            await batch.reset(seeds=range(8))
            assert batch.in_flight == 0
            batch.send(range(8), [Command()] * 8)
            found = [index async for ready in batch.ready() for index in ready.indices]
            assert sorted(found) == list(range(8))


async def test_a_replaced_session_has_no_results_of_the_one_before(
    server: Serving,
) -> None:
    """Neither those that have arrived, nor those that were still to come."""
    async with asyncio.timeout(10), batch_of(server, 2) as batch:
        await batch.reset()
        batch.send([0], [Command()])
        await eventually(lambda: not batch.in_flight)
        batch.send([1], [Command()])
        assert not await batch.replace([0, 1])
        assert [index async for ready in batch.ready() for index in ready.indices] == []


async def test_replacing_wakes_whoever_waits_for_the_results(server: Serving) -> None:
    """With those of replaced sessions gone, what has arrived is all that can."""
    async with asyncio.timeout(10), batch_of(server, 2) as batch:
        await batch.reset()
        await holding("never")
        batch.send([0, 1], [Command(), Command(do="wait", text="never")])

        async def wait() -> list[int]:
            async for ready in batch.ready(min=2):
                return ready.indices
            return []

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await eventually(lambda: batch.in_flight == 1)
            replacing = group.create_task(batch.replace([1]))
        assert waiting.result() == [0]
        assert not replacing.result()


@pytest.mark.parametrize("call", ["send", "send_reset", "reset", "step", "ready"])
async def test_a_batch_that_a_collector_has_refuses_others(
    server: Serving, call: str
) -> None:
    """Also from within the policy; the collector plays on."""
    refused = 0

    async def intrude() -> None:
        match call:
            case "send":
                batch.send([0], [Command()])
            case "send_reset":
                batch.send_reset([0])
            case "reset":
                await batch.reset()
            case "step":
                await batch.step([Command()] * 4)
            case _:
                await anext(batch.ready())

    class Intruding:
        async def act(self, observation: Report, episode: EpisodeContext) -> Command:
            nonlocal refused
            with pytest.raises(SessionBusy, match="a collector plays on it"):
                await intrude()
            refused += 1
            return Command()

    async with asyncio.timeout(10), batch_of(server) as batch:
        async with Collector(batch, Intruding(), tasks_of(9, length=2)) as collector:
            with pytest.raises(SessionBusy, match="a collector plays on it"):
                await intrude()
            episodes = [episode async for episode in collector]
        assert [episode.outcome for episode in episodes] == [Terminated()] * 9
        assert refused == 18


async def test_a_collector_refuses_a_batch_with_results_of_others(
    server: Serving,
) -> None:
    """It would take them for its own; once they are taken it can have the batch."""
    async with asyncio.timeout(10), batch_of(server) as batch:
        await batch.reset()
        batch.send([0, 1], [Command()] * 2)
        with pytest.raises(SessionBusy, match="nobody awaits results, got 2"):
            await anext(collect(batch, Acting(), tasks_of(3, length=2)))
        found = [index async for ready in batch.ready() for index in ready.indices]
        assert sorted(found) == [0, 1]
        left = [one async for one in collect(batch, Acting(), tasks_of(3, length=2))]
        assert [one.outcome for one in left] == [Terminated()] * 3
