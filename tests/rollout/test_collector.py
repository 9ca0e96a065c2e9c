"""What is played when: refilling, groups, retries, priorities, control, clean ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from openenv_async import (
    ConnectFailed,
    Failure,
    LocalProtocolError,
    SessionBusy,
    StepResult,
)
from openenv_async.rollout import (
    AdaptiveConcurrency,
    Batching,
    Collector,
    CollectorOptions,
    EpisodeContext,
    Task,
    Terminated,
    Truncated,
    collect,
)
from tests.clients import ScriptedEnv, connections, holding
from tests.environments import (
    BlockingEnvironment,
    Command,
    Report,
    barriers,
    gates,
    journal,
    sleeping,
)
from tests.rollout import players
from tests.rollout.players import (
    Acting,
    Playing,
    batch_of,
    collected,
    collector_of,
    policies,
    tasks_of,
)
from tests.serving import Serving, eventually, serving

every_policy = pytest.mark.parametrize("policy", policies)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


def _waiting_for(name: str) -> Any:
    """Wait for a gate in the episodes of that task or id; count otherwise."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if name in (episode.task.id, episode.id):
            return Command(do="wait", text=name)
        return Command()

    return choose


# Refilling


@every_policy
async def test_a_slow_episode_holds_up_nobody(server: Serving, policy: Any) -> None:
    """While one episode hangs, the other sessions play all the rest."""
    gate = await holding("t0")
    seen: list[str] = []
    async with collector_of(
        server, policy(_waiting_for("t0")), tasks_of(30, length=2), size=3
    ) as collector:
        async for episode in collector:
            seen.append(episode.group)
            if len(seen) == 29:
                assert "t0" not in seen
                gate.set()
    assert seen[-1] == "t0"
    assert journal.count("built") == 3


async def test_concurrency_bounds_the_episodes_at_a_time(server: Serving) -> None:
    """Fewer may be played than there are sessions."""
    running = most = 0

    class Counting:
        async def play(self, env: Any, task: Task) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.001)
            running -= 1

    episodes = await collected(server, Counting(), 20, size=6, concurrency=2)
    assert len(episodes) == 20
    assert most == 2


@every_policy
async def test_no_tasks_are_no_episodes(server: Serving, policy: Any) -> None:
    """The end comes at once."""
    assert await collected(server, policy(), []) == []


async def test_tasks_may_be_endless_and_async(server: Serving) -> None:
    """They are read as they are needed, and their generator is closed."""
    read = closed = 0

    async def forever() -> AsyncIterator[Task]:
        nonlocal read, closed
        try:
            while True:
                read += 1
                yield Task(id=f"n{read}", options={"length": 1})
                await anyio.lowlevel.checkpoint()
        finally:
            closed += 1

    async with collector_of(server, Acting(), forever()) as collector:
        seen = [await anext(collector) for _ in range(50)]
    assert len({episode.id for episode in seen}) == 50
    assert read <= 50 + 4 + 4 + 4 + 1
    assert closed == 1


async def test_what_the_tasks_raise_reaches_the_consumer(server: Serving) -> None:
    """Behind the episodes that are done."""

    def broken() -> Iterator[Task]:
        yield Task(id="only", options={"length": 1})
        raise ValueError("no more data")

    async with collector_of(server, Acting(), broken()) as collector:
        with pytest.raises(ValueError, match="no more data"):
            async for episode in collector:
                assert episode.group == "only"


@pytest.mark.parametrize(
    ("tasks", "text"),
    [
        ([Task(id="a"), Task(id="a")], "each task, got 'a' twice, at 0 and 1"),
        (iter([Task(id="a"), Task(id="a")]), "an id of its own for each task, got 'a'"),
        ([Task(id="a", seed=2**63)], "a seed of 64 bits for task 'a'"),
        (["a"], "expected a Task, got 'a'"),
    ],
)
async def test_tasks_are_checked(server: Serving, tasks: Any, text: str) -> None:
    """What cannot be played is an error, not a failed episode."""
    with pytest.raises(LocalProtocolError, match=text):
        await collected(server, Acting(), tasks, max_steps=1)


async def test_a_task_that_comes_twice_is_refused_when_it_comes(
    server: Serving,
) -> None:
    """Also long after the first one: its episodes would have the same ids."""

    def endless() -> Iterator[Task]:
        for number in itertools.chain(range(20), [3], itertools.count(100)):
            yield Task(id=str(number), options={"length": 1})

    seen: list[str] = []
    async with collector_of(server, Acting(), endless(), lookahead=1) as collector:
        with pytest.raises(LocalProtocolError, match="each task, got '3' twice"):
            async for episode in collector:
                seen.append(episode.group)
    # Those that ran when it came are given up.
    assert {"0", "1"} < set(seen) <= {str(number) for number in range(20)}


async def test_priorities_start_first(server: Serving) -> None:
    """Among what has been read, the highest priority is next."""
    tasks = [
        Task(id=f"p{priority}", priority=priority, options={"length": 1})
        for priority in (0, 2, 1, 3)
    ]
    episodes = await collected(server, Acting(), tasks, size=1, lookahead=4)
    assert [episode.group for episode in episodes] == ["p3", "p2", "p1", "p0"]


# Backpressure


@every_policy
async def test_nothing_starts_while_the_queue_is_full(
    server: Serving, policy: Any
) -> None:
    """A consumer that takes nothing stops the run, and taking goes on with it."""
    async with collector_of(
        server, policy(), tasks_of(100, length=1), size=3, queue_size=5
    ) as collector:
        await eventually(
            lambda: (
                collector.statistics().queued >= 5 and not collector.statistics().live
            )
        )
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        held = collector.statistics().queued
        assert 5 <= held <= 5 + 3
        assert collector.statistics().episodes == held
        assert len([episode async for episode in collector]) == 100


async def test_two_consumers_are_refused(server: Serving) -> None:
    """Episodes go to one consumer; the second is told."""
    await holding("t0")
    async with collector_of(server, Acting(_waiting_for("t0")), tasks_of(1)) as found:
        async with anyio.create_task_group() as group:
            group.start_soon(anext, found)
            await eventually(lambda: "t0" in sleeping)
            with pytest.raises(SessionBusy):
                await anext(found)
            group.cancel_scope.cancel()


# Batches


async def test_batches_are_bounded(server: Serving) -> None:
    """No call has more than `max` observations."""
    policy = players.Batching()
    await collected(
        server, policy, tasks_of(20, length=3), size=10, batching=Batching(max=4)
    )
    assert max(policy.sizes) == 4


async def test_batches_wait_for_min(server: Serving) -> None:
    """A call waits for so many, or for all that can still come."""
    policy = players.Batching()
    await collected(
        server,
        policy,
        tasks_of(10, length=3),
        size=5,
        batching=Batching(min=5, timeout=None),
    )
    assert set(policy.sizes) == {5}


async def test_batches_go_out_at_their_deadline(server: Serving) -> None:
    """With one episode hanging, the others are not held up for ever."""
    gate = await holding("t0")
    policy = players.Batching(_waiting_for("t0"))
    async with collector_of(
        server,
        policy,
        tasks_of(3, length=2),
        size=3,
        batching=Batching(min=3, timeout=0.02),
    ) as collector:
        for _ in range(2):
            assert (await anext(collector)).group != "t0"
        gate.set()
        assert (await anext(collector)).group == "t0"


async def test_several_calls_may_run_at_a_time(server: Serving) -> None:
    """As many as asked for, and not more."""
    running = most = 0

    class Slow:
        async def act_batch(self, observations: list[Report]) -> list[Command]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.005)
            running -= 1
            return [Command()] * len(observations)

    episodes = await collected(
        server,
        Slow(),
        tasks_of(12, length=3),
        size=6,
        batching=Batching(max=2, calls=2),
    )
    assert len(episodes) == 12
    assert most == 2


# Control


@every_policy
async def test_pause_stops_policy_and_starts(server: Serving, policy: Any) -> None:
    """Nothing is decided while it is paused, timeouts stand still, and it goes on."""
    decided = 0

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        nonlocal decided
        decided += 1
        return Command()

    async with collector_of(
        server, policy(choose), tasks_of(2, length=40), size=2, episode_timeout=5.0
    ) as collector:
        await eventually(lambda: decided > 4)
        collector.pause()
        collector.pause()
        assert collector.paused
        if policy is not Playing:
            await collector.wait_quiet()
        await anyio.sleep(0.02)
        before = decided
        await anyio.sleep(0.05)
        assert decided == before
        collector.resume()
        assert len([episode async for episode in collector]) == 2
    assert decided == 80


@every_policy
async def test_cancel_delivers_what_there_is(server: Serving, policy: Any) -> None:
    """Running episodes are truncated, none starts, and the iteration ends."""
    for number in range(3):
        await holding(f"t{number}/0")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if len(episode.steps) == 2:
            return Command(do="wait", text=episode.id)
        return Command()

    async with collector_of(server, policy(choose), tasks_of(100), size=3) as collector:
        await eventually(lambda: {f"t{number}/0" for number in range(3)} <= sleeping)
        collector.cancel()
        episodes = [episode async for episode in collector]
    assert [episode.outcome for episode in episodes] == [
        Truncated(reason="cancelled")
    ] * 3
    assert [episode.return_ for episode in episodes] == [3.0] * 3


async def test_cancel_releases_groups(server: Serving) -> None:
    """Finished episodes of groups that will never be whole are delivered."""
    await holding("t0/1")
    async with collector_of(
        server,
        Acting(_waiting_for("t0/1")),
        tasks_of(1, length=1),
        size=2,
        group_size=3,
        order="grouped",
    ) as collector:
        await eventually(lambda: collector.statistics().episodes == 2)
        collector.cancel()
        episodes = [episode async for episode in collector]
    assert [episode.id for episode in episodes] == ["t0/0", "t0/1", "t0/2"]


async def test_adaptive_concurrency_grows_and_shrinks(server: Serving) -> None:
    """Without congestion more are played; a slow policy brings it down again."""
    slow = False

    class Policy:
        async def act(self, observation: Report, episode: EpisodeContext) -> Command:
            await anyio.sleep(0.05 if slow else 0)
            return Command()

    adaptive = AdaptiveConcurrency(
        start=2, increase=4, interval=0.05, queue_target=None, policy_target=0.03
    )
    async with collector_of(
        server, Policy(), tasks_of(10_000, length=5), size=16, adaptive=adaptive
    ) as collector:
        assert collector.statistics().limit == 2
        async for _ in collector:
            if collector.statistics().limit == 16:
                break
        slow = True
        async for _ in collector:
            if collector.statistics().limit <= 4:
                break


# Sessions and their ends


async def test_a_batch_of_the_callers_stays_open(server: Serving) -> None:
    """Its sessions are idle afterwards, also if the run was left in the middle."""
    gate = await holding("t0")
    async with batch_of(server, 3) as batch:
        for _ in range(2):
            async with Collector(
                batch, Acting(_waiting_for("t0")), tasks_of(50, length=2)
            ) as collector:
                await anext(collector)
            results = await batch.reset()
            assert all(hasattr(result, "observation") for result in results)
        assert server.sessions == 3
    gate.set()


async def test_a_session_that_ended_while_it_was_free_costs_nothing() -> None:
    """The episode that meets it is played on another one, as its first attempt."""
    release = barriers["stuck"] = threading.Event()
    async with serving(BlockingEnvironment) as server:
        async with batch_of(server, 2) as batch:
            await batch.reset()
            # A thread that cannot be stopped poisons its session.
            (late, fine) = await batch.step(
                [Command(do="wait", text="stuck"), Command()], timeout=0.1
            )
            assert isinstance(late, Failure)
            assert isinstance(fine, StepResult)
            async with Collector(batch, Acting(), tasks_of(4, length=1)) as collector:
                episodes = [episode async for episode in collector]
            release.set()
    assert [episode.attempt for episode in episodes] == [1] * 4
    assert all(episode.outcome == Terminated() for episode in episodes)


async def test_collect_is_the_short_form(server: Serving) -> None:
    """It opens the batch and closes it, and takes the options as keywords."""
    found = [
        episode
        async for episode in collect(
            batch_of(server), Acting(), tasks_of(3, length=1), group_size=2
        )
    ]
    assert len(found) == 6


async def test_leaving_collect_early_leaves_nothing(server: Serving) -> None:
    """Closing the generator ends the run."""
    async with contextlib.aclosing(
        collect(batch_of(server), Acting(), tasks_of(1000, length=3))
    ) as episodes:
        async for _ in episodes:
            break
    assert server.sessions == 0


@every_policy
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144])
async def test_cancelling_the_consumer_leaves_nothing(
    server: Serving, policy: Any, turns: int
) -> None:
    """At whatever moment: no session, no task, no connection."""

    async def consume() -> None:
        async for _ in collect(
            batch_of(server, 3), policy(), tasks_of(10_000, length=3), queue_size=2
        ):
            pass

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    await eventually(lambda: server.sessions == 0)
    assert connections() == 0


async def test_closing_waits_for_no_hanging_step(server: Serving) -> None:
    """A step that hangs is given up with its session."""
    await holding("t0")
    collector = collector_of(server, Acting(_waiting_for("t0")), tasks_of(1))
    async with asyncio.timeout(5):
        async with collector:
            await eventually(lambda: "t0" in sleeping)
        await collector.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(collector)


async def test_nobody_there_is_an_error() -> None:
    """Without a server nothing is played, and nothing is pretended."""
    batch = ScriptedEnv.batch("ws://127.0.0.1:9", size=2)
    with pytest.raises(ConnectFailed):
        async with Collector(batch, Acting(), tasks_of(1)):
            raise AssertionError("never reached")


async def test_misuse_is_told(server: Serving) -> None:
    """A batch that resets by itself, a policy that is none, a collector used twice."""
    with pytest.raises(LocalProtocolError, match="autoreset 'Disabled'"):
        Collector(batch_of(server, autoreset="NextStep"), Acting(), [])
    with pytest.raises(LocalProtocolError, match="`act`, `act_batch` or `play`"):
        Collector(batch_of(server), object(), [])  # type: ignore[arg-type]  # on purpose
    with pytest.raises(LocalProtocolError, match="the class 'Acting': make one"):
        Collector(batch_of(server), Acting, [])  # type: ignore[arg-type]  # on purpose
    collector = Collector(batch_of(server), Acting(), [], CollectorOptions())
    with pytest.raises(LocalProtocolError, match="use `async with`"):
        await anext(collector)
    async with collector:
        pass
    with pytest.raises(LocalProtocolError, match="not used before"):
        await collector.__aenter__()


async def test_statistics_tell_where_the_time_goes(server: Serving) -> None:
    """Counts, rates, outcomes, the slowest session, and a verdict."""
    await holding("t1")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if episode.task.id == "t1":
            return Command(do="wait", text="t1")
        if episode.task.id == "t2":
            return Command(do="fail")
        return Command()

    async with collector_of(
        server, Acting(choose), tasks_of(5, length=2), size=3
    ) as collector:
        for _ in range(4):
            await anext(collector)
        await anyio.sleep(0.1)
        found = collector.statistics()
    assert found.episodes == 4
    assert found.outcomes == {"terminated": 3, "environment_failed: ValueError": 1}
    assert found.steps == 6
    assert found.live == 1
    assert found.limit == 3
    assert found.slowest[0].episode == "t1/0"
    assert found.slowest[0].phase == "environment"
    assert found.slowest[0].seconds >= 0.1
    assert found.step_latency.count == 6
    assert 0 < found.step_latency.p50 <= found.step_latency.p99
    assert found.bottleneck is not None
    assert found.bottleneck.bound_by == "environment"
    assert found.bottleneck.knob == "concurrency"
    shares = found.time
    total = shares.policy + shares.wire + shares.queue + shares.environment
    assert total + shares.idle == pytest.approx(1)
    gates["t1"].set()
