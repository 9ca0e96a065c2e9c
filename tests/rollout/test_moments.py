"""What comes at an awkward moment: while the policy thinks, waits, or is paused."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from openenv_async import EnvironmentFailed, SessionBusy
from openenv_async.rollout import (
    AgentEnv,
    Batching,
    EnvironmentFailure,
    EpisodeContext,
    PolicyFailure,
    Task,
    Terminated,
    Truncated,
    collect,
)
from tests.clients import connections, holding
from tests.environments import Command, Report, sleeping
from tests.rollout.players import (
    Acting,
    Playing,
    batch_of,
    collected,
    collector_of,
    tasks_of,
)
from tests.serving import Serving, eventually, serving

_TIMEOUT = Truncated(reason="episode_timeout")


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


class _Thinking:
    """Thinks for ever about the first observation of `t0`, whoever cancels."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self._stubborn = stubborn
        self.released = asyncio.Event()
        self.thinking = asyncio.Event()

    async def _think(self) -> None:
        self.thinking.set()
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                if not self._stubborn:
                    raise
                return


class _ThinkingAct(_Thinking):
    async def act(self, observation: Report, episode: EpisodeContext) -> Command:
        if episode.task.id == "t0":
            await self._think()
        return Command()


class _ThinkingBatch(_Thinking):
    async def act_batch(
        self, observations: Sequence[Report], episodes: Sequence[EpisodeContext]
    ) -> list[Command]:
        if any(episode.task.id == "t0" for episode in episodes):
            await self._think()
        return [Command()] * len(observations)


class _ThinkingAgent(_Thinking):
    async def play(self, env: AgentEnv[Command, Report], task: Task) -> None:
        while not env.done:
            if task.id == "t0":
                await self._think()
            await env.step(Command())


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("kind", [_ThinkingAct, _ThinkingAgent])
async def test_an_episode_is_cut_off_while_its_policy_thinks(
    server: Serving, kind: Any, stubborn: bool
) -> None:
    """The policy is cancelled, and its answer counts no more if it swallows that."""
    policy = kind(stubborn=stubborn)
    episodes = await collected(
        server, policy, tasks_of(3, length=2), episode_timeout=1.0
    )
    found = {episode.group: episode.outcome for episode in episodes}
    assert found == {"t0": _TIMEOUT, "t1": Terminated(), "t2": Terminated()}
    policy.released.set()


async def test_a_batch_answers_for_those_that_are_left(server: Serving) -> None:
    """What was cut off meanwhile is not acted on; its session plays something else."""
    policy = _ThinkingBatch()
    async with collector_of(
        server,
        policy,
        tasks_of(2, length=1),
        size=1,
        episode_timeout=1.0,
    ) as collector:
        first = await anext(collector)
        assert first.outcome == _TIMEOUT
        assert first.length == 0
        policy.released.set()
        second = await anext(collector)
        assert second.outcome == Terminated()


async def test_waiting_for_a_batch_ends_with_the_episodes(server: Serving) -> None:
    """An observation that never gets a call costs its episode its time, not the run."""
    await holding("t1/0")

    class Picky:
        async def act_batch(
            self, observations: Sequence[Report], episodes: Sequence[EpisodeContext]
        ) -> list[Command]:
            return [
                Command(do="wait", text=episode.id)
                if episode.id == "t1/0"
                # The others come back at once, and wait for the fourth.
                else Command()
                for episode in episodes
            ]

    episodes = await collected(
        server,
        Picky(),
        tasks_of(4),
        size=4,
        episode_timeout=1.0,
        batching=Batching(min=4, timeout=None),
    )
    assert [episode.outcome for episode in episodes] == [_TIMEOUT] * 4
    lengths = {episode.group: episode.length for episode in episodes}
    assert lengths == {"t0": 1, "t1": 0, "t2": 1, "t3": 1}


@pytest.mark.parametrize("policy", [Acting, Playing])
async def test_a_pause_moves_deadlines(server: Serving, policy: Any) -> None:
    """However long it is, no episode runs out of time in it."""
    gate = await holding("slow")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        return Command(do="wait", text="slow")

    async with collector_of(
        server, policy(choose), tasks_of(2, length=2), size=2, episode_timeout=1.0
    ) as collector:
        await eventually(lambda: "slow" in sleeping)
        collector.pause()
        await anyio.sleep(1.2)
        gate.set()
        await anyio.sleep(0.1)
        collector.resume()
        episodes = [episode async for episode in collector]
    assert [episode.outcome for episode in episodes] == [Terminated()] * 2


async def test_wait_quiet_waits_for_the_policy(server: Serving) -> None:
    """When it returns, nothing computes with the weights."""
    policy = _ThinkingBatch()
    async with collector_of(server, policy, tasks_of(1, length=1)) as collector:
        await policy.thinking.wait()
        collector.pause()
        quiet = asyncio.Event()

        async def wait() -> None:
            await collector.wait_quiet()
            quiet.set()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert not quiet.is_set()
            policy.released.set()
        assert quiet.is_set()
        await collector.wait_quiet()
        collector.resume()
        assert (await anext(collector)).outcome == Terminated()


async def test_reading_the_state_may_fail(server: Serving) -> None:
    """The agent is told, and the episode goes on."""
    seen: list[str] = []

    class Agent:
        async def play(self, env: AgentEnv[Command, Report], task: Task) -> None:
            try:
                await env.state()
            except EnvironmentFailed as error:
                seen.append(error.exception)
            await env.step(Command())

    (episode,) = await collected(
        server, Agent(), [Task(id="x", options={"state": "fail", "length": 1})]
    )
    assert seen == ["ValueError"]
    assert episode.outcome == Terminated()


async def test_an_exception_without_words_is_recorded(server: Serving) -> None:
    """A policy whose error cannot be printed still only fails its episode."""

    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        raise Speechless

    (episode,) = await collected(server, Acting(choose), 1)
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.outcome.exception == "Speechless"


async def test_tasks_may_come_from_any_async_iterable(server: Serving) -> None:
    """A class with `__aiter__` will do."""

    class Source:
        def __init__(self) -> None:
            self._left = tasks_of(3, length=1)

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> Task:
            if not self._left:
                raise StopAsyncIteration
            return self._left.pop()

    async with collector_of(server, Acting(), Source()) as collector:
        assert len([episode async for episode in collector]) == 3


async def test_a_cancelled_run_has_parts_of_groups(server: Serving) -> None:
    """`groups` yields what there is of them."""
    await holding("t0")
    await holding("t1")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        return Command(do="wait", text=episode.task.id)

    async with collector_of(
        server, Acting(choose), tasks_of(2), size=3, group_size=2, order="grouped"
    ) as collector:
        await eventually(lambda: {"t0", "t1"} <= sleeping)
        collector.cancel()
        groups = [group async for group in collector.groups()]
    assert [[episode.id for episode in group] for group in groups] == [
        ["t0/0", "t0/1"],
        ["t1/0"],
    ]


async def test_what_was_collected_before_is_skipped(server: Serving) -> None:
    """Its task is not played again; what is missing of a group is."""
    done = {"t0/0", "t0/1", "t1/0"}
    episodes = await collected(
        server,
        Acting(),
        tasks_of(3, length=1),
        group_size=2,
        order="grouped",
        skip=done.__contains__,
    )
    assert sorted(episode.id for episode in episodes) == ["t1/1", "t2/0", "t2/1"]


async def test_the_verdict_names_a_slow_consumer(server: Serving) -> None:
    """A queue that is full most of the time is nobody else's fault."""
    async with collector_of(
        server, Acting(), tasks_of(10, length=1), size=2, queue_size=1
    ) as collector:
        await anext(collector)
        await anyio.sleep(0.3)
        found = collector.statistics().bottleneck
    assert found is not None
    assert found.bound_by == "consumer"


async def test_the_verdict_names_a_slow_source_of_tasks(server: Serving) -> None:
    """Sessions without a task are nobody else's fault."""

    async def slowly() -> AsyncIterator[Task]:
        for number in range(3):
            yield Task(id=str(number), options={"length": 1})
            await anyio.sleep(0.1)

    async with collector_of(server, Acting(), slowly()) as collector:
        for _ in range(3):
            await anext(collector)
        found = collector.statistics().bottleneck
    assert found is not None
    assert found.bound_by == "tasks"


async def test_a_forgotten_generator_ends_the_run(server: Serving) -> None:
    """`break` alone leaves the rest to the collection of the generator."""
    async for _ in collect(batch_of(server), Acting(), tasks_of(1000, length=2)):
        break
    gc.collect()
    # The loop closes the generator in a task of its own.
    await eventually(lambda: server.sessions == 0 and connections() == 0)


async def test_an_agent_makes_one_call_at_a_time(server: Serving) -> None:
    """A second step, or reading the state meanwhile, is refused; nothing is lost."""
    gate = await holding("one")
    refused: list[str] = []

    class Agent:
        async def play(self, env: AgentEnv[Command, Report], task: Task) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(env.step, Command(do="wait", text="one"))
                await eventually(lambda: "one" in sleeping)
                for call in (lambda: env.step(Command()), env.state):
                    try:
                        await call()
                    except SessionBusy as error:
                        refused.append(error.code)
                gate.set()

    (episode,) = await collected(server, Agent(), tasks_of(1, length=1))
    assert refused == ["busy", "busy"]
    assert episode.outcome == Terminated()
    assert episode.length == 1


async def test_resets_have_a_timeout_of_their_own(server: Serving) -> None:
    """A slow reset is not a slow step."""
    episodes = await collected(
        server, Acting(), tasks_of(2, length=2), step_timeout=2.0, reset_timeout=1e-9
    )
    for episode in episodes:
        assert isinstance(episode.outcome, EnvironmentFailure)
        assert episode.outcome.exception == "DeadlineExceeded"
        assert episode.initial_observation is None
