"""Which episodes there are: seeds, groups, stragglers, and what is run again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import (
    LocalProtocolError,
)
from openenv_async.rollout import (
    CutOff,
    EnvironmentFailure,
    EpisodeContext,
    PolicyFailure,
    Task,
    Terminated,
    Truncated,
    derive_seed,
)
from tests.clients import connections, holding
from tests.environments import (
    Command,
    Report,
)
from tests.rollout.players import (
    Acting,
    ScriptedEpisode,
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


# Seeds and determinism


def _facts(episode: ScriptedEpisode) -> Any:
    """Everything but times and places."""
    return (
        episode.id,
        episode.seed,
        episode.initial_observation,
        [(step.action, step.observation, step.reward) for step in episode.steps],
        episode.outcome,
        episode.return_,
    )


@every_policy
async def test_episodes_do_not_depend_on_the_timing(
    server: Serving, policy: Any
) -> None:
    """With other delays, another order and another width, they are the same."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        # Random, from the episode's own source; now and then it takes its time.
        number = episode.random.randrange(100)
        if number % 7 == 0:
            return Command(do="sleep", seconds=0.001 * (number % 5), text=str(number))
        return Command(text=f"{observation.text} {number}")

    runs = []
    for size, concurrency in ((1, 1), (7, 5), (16, 16)):
        episodes = await collected(
            server,
            policy(choose),
            tasks_of(12, length=6),
            size=size,
            concurrency=concurrency,
            group_size=2,
            seed=3,
        )
        runs.append(sorted(map(_facts, episodes), key=lambda facts: str(facts[0])))
    assert len(runs[0]) == 24
    assert runs[0] == runs[1] == runs[2]


async def test_another_seed_is_another_run(server: Serving) -> None:
    """Seeds derive from the run's and the task's name, as documented."""
    tasks = tasks_of(3, length=1)
    (first, second) = [
        {
            episode.group: episode.seed
            for episode in await collected(server, Acting(), tasks, seed=seed)
        }
        for seed in (1, 2)
    ]
    assert first["t0"] == derive_seed(1, "task", "t0")
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize("group_seeds", ["distinct", "same"])
async def test_a_group_is_a_family_of_seeds(server: Serving, group_seeds: Any) -> None:
    """The first has the task's own; the others derive from it, or share it."""
    tasks = [Task(id="x", seed=5, options={"length": 1})]
    episodes = await collected(
        server, Acting(), tasks, group_size=4, group_seeds=group_seeds
    )
    seeds = {episode.group_index: episode.seed for episode in episodes}
    assert seeds[0] == 5
    for index in (1, 2, 3):
        derived = derive_seed(5, "group", index)
        assert seeds[index] == (derived if group_seeds == "distinct" else 5)
    for episode in episodes:
        assert episode.initial_observation is not None
        assert episode.initial_observation.text == f"seed {episode.seed}"


# Groups


@every_policy
async def test_grouped_episodes_come_together(server: Serving, policy: Any) -> None:
    """All of a group, in the order of their index, however they finished."""
    gate = await holding("t0/0")
    seen: list[str] = []
    async with collector_of(
        server,
        policy(_waiting_for("t0/0")),
        tasks_of(4, length=2),
        group_size=3,
        order="grouped",
    ) as collector:
        async for episode in collector:
            seen.append(episode.id)
            gate.set()
    groups = [seen[first : first + 3] for first in range(0, 12, 3)]
    assert sorted(groups) == [[f"t{n}/{index}" for index in range(3)] for n in range(4)]
    assert groups[0][0] != "t0/0"


async def test_groups_yields_lists(server: Serving) -> None:
    """One list a group, complete; only in the order that makes that possible."""
    async with collector_of(
        server, Acting(), tasks_of(5, length=1), group_size=2, order="grouped"
    ) as collector:
        groups = [group async for group in collector.groups()]
    assert len(groups) == 5
    for group in groups:
        assert [episode.group_index for episode in group] == [0, 1]
        assert len({episode.group for episode in group}) == 1
    async with collector_of(server, Acting(), []) as collector:
        with pytest.raises(LocalProtocolError, match="'grouped'"):
            await anext(collector.groups())


@every_policy
@pytest.mark.parametrize("grace", [0.0, 0.1])
async def test_stragglers_are_cut_off(
    server: Serving, policy: Any, grace: float
) -> None:
    """With enough episodes, the rest of a group is truncated, and says so."""
    await holding("t0/1")
    await holding("t1/1")

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if episode.id in ("t0/1", "t1/1") and episode.steps:
            return Command(do="wait", text=episode.id)
        return Command()

    episodes = await collected(
        server,
        policy(choose),
        tasks_of(2, length=3),
        size=8,
        group_size=4,
        order="grouped",
        cut_off=CutOff(complete=3, grace=grace),
    )
    assert len(episodes) == 8
    for episode in episodes:
        if episode.id in ("t0/1", "t1/1"):
            assert episode.outcome == Truncated(reason="cut_off")
            assert episode.return_ == 1
        else:
            assert episode.outcome == Terminated()


async def test_what_never_began_is_cut_off_too(server: Serving) -> None:
    """A group is always whole; an episode that never began has no return."""
    episodes = await collected(
        server,
        Acting(),
        tasks_of(2, length=1),
        size=1,
        group_size=3,
        order="grouped",
        cut_off=CutOff(complete=1),
    )
    assert [episode.id for episode in episodes] == [
        f"t{task}/{index}" for task in range(2) for index in range(3)
    ]
    outcomes = [episode.outcome for episode in episodes]
    assert outcomes == [Terminated(), *[Truncated(reason="cut_off")] * 2] * 2
    assert episodes[1].return_ is None
    assert episodes[1].initial_observation is None


# Retries


@every_policy
async def test_retries_run_the_whole_episode_again(
    server: Serving, policy: Any
) -> None:
    """With the same seed, from its reset; what failed before is recorded."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if episode.attempt < 3 and len(episode.steps) == episode.attempt:
            return Command(do="fail", text=f"attempt {episode.attempt}")
        return Command(text=str(episode.random.random()))

    (episode,) = await collected(
        server,
        policy(choose),
        tasks_of(1, length=4),
        retries=2,
        retry_on=("environment_failed",),
    )
    assert episode.outcome == Terminated()
    assert episode.attempt == 3
    assert [attempt.length for attempt in episode.earlier_attempts] == [1, 2]
    for attempt in episode.earlier_attempts:
        assert isinstance(attempt.outcome, EnvironmentFailure)
    assert episode.return_ == 1 + 2 + 3 + 4
    assert episode.initial_observation is not None
    assert episode.initial_observation.text == f"seed {episode.seed}"
    assert episode.seed == derive_seed(0, "task", "t0")


@every_policy
async def test_retries_end(server: Serving, policy: Any) -> None:
    """The last failure is the episode's outcome."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        raise ValueError(f"attempt {episode.attempt}")

    (episode,) = await collected(
        server, policy(choose), 1, retries=1, retry_on=("policy_failed",)
    )
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.outcome.message == "attempt 2"
    assert episode.attempt == 2


async def test_what_is_not_to_be_retried_is_not(server: Serving) -> None:
    """By default only the infrastructure gets another chance."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        return Command(do="fail")

    (episode,) = await collected(server, Acting(choose), 1, retries=5)
    assert episode.attempt == 1


async def test_what_failed_in_an_earlier_run_is_not_complete(server: Serving) -> None:
    """Two of four failed then: with the two others there are no three to be enough."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        slow = episode.group_index == 3
        return Command(do="sleep", seconds=0.05 if slow else 0.0)

    async def outcomes(**options: Any) -> list[object]:
        episodes = await collected(
            server,
            Acting(choose),
            tasks_of(1, length=2),
            group_size=4,
            cut_off=CutOff(complete=3),
            skip=lambda id: id in ("t0/0", "t0/1"),
            **options,
        )
        return [episode.outcome for episode in episodes]

    failed = await outcomes(failed=lambda id: id in ("t0/0", "t0/1"))
    assert failed == [Terminated()] * 2
    assert await outcomes() == [Terminated(), Truncated(reason="cut_off")]
