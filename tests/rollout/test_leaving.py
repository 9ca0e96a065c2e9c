"""A loop that is left in whatever way gives its batch back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import Failure, LocalProtocolError, SessionBusy
from openenv_async.rollout import EpisodeContext, Terminated, collect
from tests.clients import connections, holding
from tests.environments import Command, Report
from tests.rollout.players import Acting, batch_of, policies, tasks_of
from tests.serving import Serving, eventually, serving

every_policy = pytest.mark.parametrize("policy", policies)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


@every_policy
@pytest.mark.parametrize("again", ["collect", "reset", "close"])
async def test_a_batch_can_be_used_again_at_once(
    server: Serving, policy: Any, again: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows a loop that was left by `break` waits for its end, and works."""
    async with asyncio.timeout(10):
        async with batch_of(server) as batch:
            async for _ in collect(batch, policy(), tasks_of(50, length=2)):
                break
            if again == "reset":
                assert not any(isinstance(one, Failure) for one in await batch.reset())
            elif again == "collect":
                left = [
                    one async for one in collect(batch, policy(), tasks_of(6, length=2))
                ]
                assert [one.outcome for one in left] == [Terminated()] * 6
    assert not caplog.records


async def test_a_single_episode_can_be_taken(server: Serving) -> None:
    """`anext` on a generator that nobody keeps; also with a batch not opened yet."""
    batch = batch_of(server)
    async with asyncio.timeout(10):
        for _ in range(3):
            episode = await anext(collect(batch, Acting(), tasks_of(9, length=2)))
            assert episode.outcome == Terminated()
        await batch.loan.wait()
    assert not batch.servers


@pytest.mark.parametrize("waits", [True, False])
async def test_a_cancelled_consumer_leaves_the_batch_usable(
    server: Serving, *, waits: bool
) -> None:
    """Cancelled while it waits for an episode, or while it is busy with one."""
    reached = asyncio.Event()

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if waits:
            reached.set()
            return Command(do="wait", text="gate")
        return Command()

    async def consume() -> None:
        async for _ in collect(batch, Acting(choose), tasks_of(50, length=2)):
            reached.set()
            await asyncio.Event().wait()

    await holding("gate")
    async with asyncio.timeout(10), batch_of(server) as batch:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(consume())
            await reached.wait()
            task.cancel()
        assert not any(isinstance(one, Failure) for one in await batch.reset())


async def test_two_collectors_do_not_share_a_batch(server: Serving) -> None:
    """The second one is told at once; the first one goes on."""
    async with batch_of(server) as batch:
        first = collect(batch, Acting(), tasks_of(20, length=2))
        episodes = [await anext(first)]
        with pytest.raises(SessionBusy, match="no other collector"):
            await anext(collect(batch, Acting(), tasks_of(1, length=2)))
        episodes += [episode async for episode in first]
        assert len(episodes) == 20


async def test_a_dropped_generator_is_closed_from_another_thread(
    server: Serving,
) -> None:
    """The garbage collector may run anywhere."""
    async with asyncio.timeout(10), batch_of(server) as batch:
        kept = [collect(batch, Acting(), tasks_of(50, length=2))]
        await anext(kept[0])
        await asyncio.to_thread(kept.clear)
        assert (
            len([one async for one in collect(batch, Acting(), tasks_of(3, length=2))])
            == 3
        )


class _Plain:
    """Methods that return at once what they should promise."""

    def act(self, observation: Report, episode: EpisodeContext) -> Command:
        return Command()


class _PlainBatch:
    def act_batch(self, observations: list[Report]) -> list[Command]:
        return [Command() for _ in observations]


class _PlainAgent:
    def play(self, env: object, task: object) -> None:
        return None


@pytest.mark.parametrize("policy", [_Plain, _PlainBatch, _PlainAgent])
async def test_a_policy_that_is_not_async_ends_the_run(
    server: Serving, policy: Any
) -> None:
    """It would fail every episode in the same way: that is told once."""
    async with asyncio.timeout(10), batch_of(server) as batch:
        with pytest.raises(LocalProtocolError, match="expected `async def "):
            async for episode in collect(batch, policy(), tasks_of(20, length=2)):
                raise AssertionError(episode)
