"""Every way in which an episode can end, with every shape of policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

from openenv_async import (
    Environment,
    EpisodeDone,
    InvalidAction,
    OpenEnvError,
    State,
    StepInterrupted,
    StepResult,
)
from openenv_async.rollout import (
    AgentEnv,
    Decision,
    EnvironmentFailure,
    EpisodeContext,
    InfrastructureFailure,
    PolicyFailure,
    Task,
    Terminated,
    Truncated,
    calls,
    options,
)
from tests.clients import connections, holding
from tests.environments import Command, Report
from tests.rollout.players import (
    Acting,
    Batching,
    ScriptedEpisode,
    collected,
    collector_of,
    policies,
    tasks_of,
)
from tests.serving import Serving, serving

every_policy = pytest.mark.parametrize("policy", policies)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        assert connections() == 0
        assert running.sessions == 0


def _at_second(deed: str, text: str = "") -> Any:
    """Do something in the second step of task `t1`; count otherwise."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if episode.task.id == "t1" and len(episode.steps) == 1:
            return Command(do=deed, text=text)
        return Command()

    return choose


def _others_terminated(episodes: list[ScriptedEpisode]) -> ScriptedEpisode:
    """All but that of `t1` are complete; returns that one."""
    assert sorted(episode.id for episode in episodes) == ["t0/0", "t1/0", "t2/0"]
    found = {episode.group: episode for episode in episodes}
    odd = found.pop("t1")
    for episode in found.values():
        assert episode.outcome == Terminated()
        assert episode.return_ == 1 + 2 + 3
        assert [step.reward for step in episode.steps] == [1, 2, 3]
    return odd


@every_policy
async def test_a_terminated_episode_has_everything(
    server: Serving, policy: Any
) -> None:
    """Observations, actions, rewards and extras are recorded, and the sum is right."""

    def choose(episode: EpisodeContext, observation: Report) -> Decision[Command]:
        text = f"{episode.id} {len(episode.steps)}"
        episode.extras["last"] = text
        return Decision(Command(text=text), {"logprob": -0.5, "token_ids": [1, 2]})

    (episode,) = await collected(
        server,
        policy(choose),
        [Task(id="x", seed=7, options={"length": 2}, metadata={"answer": 42})],
        metadata={"run": "r"},
    )
    assert episode.outcome == Terminated()
    assert episode.return_ == 3
    assert episode.length == 2
    assert not episode.failed
    assert episode.seed == 7
    assert episode.environment == "scripted"
    assert episode.task.metadata == {"answer": 42}
    assert episode.metadata == {"run": "r"}
    assert episode.extras == {"last": "x/0 1"}
    assert episode.initial_observation is not None
    assert episode.initial_observation.text == "seed 7"
    for number, step in enumerate(episode.steps):
        assert step.action.text == step.observation.text == f"x/0 {number}"
        assert step.observation.count == number + 1
        assert step.extras == {"logprob": -0.5, "token_ids": [1, 2]}
        assert step.timing.round_trip_ns > 0
    assert [step.terminated for step in episode.steps] == [False, True]
    timing = episode.timing
    parts = timing.policy_ns + timing.wire_ns + timing.queue_ns
    assert timing.total_ns == parts + timing.environment_ns + timing.idle_ns
    assert episode.attempt == 1
    assert episode.session


@every_policy
async def test_the_environment_may_truncate(server: Serving, policy: Any) -> None:
    """What the environment cuts off has a return, and says who did it."""
    episode = _others_terminated(
        await collected(server, policy(_at_second("truncate")), tasks_of(3, length=3))
    )
    assert episode.outcome == Truncated(reason="environment")
    assert episode.return_ == 1
    assert episode.steps[-1].truncated


@every_policy
async def test_max_steps_truncates(server: Serving, policy: Any) -> None:
    """An episode without end ends after so many steps, and keeps its return."""
    episodes = await collected(server, policy(_at_second("count")), 3, max_steps=5)
    assert [episode.outcome for episode in episodes] == [
        Truncated(reason="max_steps")
    ] * 3
    assert [episode.return_ for episode in episodes] == [15.0] * 3
    assert not any(episode.steps[-1].truncated for episode in episodes)


@every_policy
async def test_episode_timeout_truncates(server: Serving, policy: Any) -> None:
    """A hanging step costs its own episode, which keeps what it had."""
    await holding("hang")
    episode = _others_terminated(
        await collected(
            server,
            policy(_at_second("wait", "hang")),
            tasks_of(3, length=3),
            episode_timeout=1.0,
        )
    )
    assert episode.outcome == Truncated(reason="episode_timeout")
    assert episode.return_ == 1
    assert episode.length == 1


@every_policy
async def test_a_failure_of_the_environment_has_no_return(
    server: Serving, policy: Any
) -> None:
    """What it raised is recorded; the steps before are kept, the return is not."""
    episode = _others_terminated(
        await collected(
            server, policy(_at_second("fail", "broken")), tasks_of(3, length=3)
        )
    )
    assert isinstance(episode.outcome, EnvironmentFailure)
    assert episode.outcome.exception == "ValueError"
    assert "broken" in episode.outcome.message
    assert "Traceback" in episode.outcome.traceback
    assert episode.failed
    assert episode.return_ is None
    assert episode.length == 1


@every_policy
async def test_a_step_that_takes_too_long_is_the_environments(
    server: Serving, policy: Any
) -> None:
    """The step's deadline makes the episode a failure, never a short one."""
    await holding("late")
    episode = _others_terminated(
        await collected(
            server,
            policy(_at_second("wait", "late")),
            tasks_of(3, length=3),
            step_timeout=1.0,
        )
    )
    assert isinstance(episode.outcome, EnvironmentFailure)
    assert episode.outcome.exception == "DeadlineExceeded"
    assert episode.return_ is None


@every_policy
async def test_a_failing_reset_fails_the_episode(server: Serving, policy: Any) -> None:
    """There is no observation, no step and no return."""
    tasks = [
        *tasks_of(1, length=3),
        Task(id="t1", options={"do": "fail", "text": "no"}),
        Task(id="t2", options={"length": 3}),
    ]
    episode = _others_terminated(
        await collected(server, policy(_at_second("count")), tasks)
    )
    assert isinstance(episode.outcome, EnvironmentFailure)
    assert episode.initial_observation is None
    assert episode.steps == []
    assert episode.return_ is None


@every_policy
async def test_options_that_do_not_fit_are_not_the_policys(
    server: Serving, policy: Any
) -> None:
    """A reset that the environment refuses fails before any policy was asked."""
    task = Task(id="x", options={"do": "refuse", "text": "no such level"})
    (episode,) = await collected(server, policy(_at_second("count")), [task])
    assert isinstance(episode.outcome, EnvironmentFailure)
    assert episode.outcome.exception == "InvalidAction"
    assert episode.outcome.executed == "no"


@every_policy
async def test_a_failure_of_the_policy_is_its_own(server: Serving, policy: Any) -> None:
    """An exception fails the episode that it is about, with its traceback."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        if episode.task.id == "t1" and len(episode.steps) == 1:
            raise KeyError("no idea")
        return Command()

    episode = _others_terminated(
        await collected(server, policy(choose), tasks_of(3, length=3))
    )
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.outcome.exception == "KeyError"
    assert "no idea" in episode.outcome.message
    assert "choose" in episode.outcome.traceback
    assert episode.return_ is None
    assert episode.length == 1


@every_policy
@pytest.mark.parametrize("action", [Command(do="refuse"), object(), 2**80])
async def test_what_is_no_action_is_the_policys(
    server: Serving, policy: Any, action: Any
) -> None:
    """An action that does not fit or cannot be sent fails its episode alone."""

    def choose(episode: EpisodeContext, observation: Report) -> Any:
        bad = episode.task.id == "t1" and len(episode.steps) == 1
        return action if bad else Command()

    episode = _others_terminated(
        await collected(server, policy(choose), tasks_of(3, length=3))
    )
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.return_ is None


@every_policy
async def test_a_cancellation_out_of_the_policy_is_a_failure(
    server: Serving, policy: Any
) -> None:
    """A policy that raises `CancelledError` itself does not take the run with it."""

    def choose(episode: EpisodeContext, observation: Report) -> Command:
        raise asyncio.CancelledError("mine")

    episodes = await collected(server, policy(choose), 3)
    assert len(episodes) == 3
    for episode in episodes:
        assert isinstance(episode.outcome, PolicyFailure)
        assert episode.outcome.exception == "CancelledError"


async def test_a_batch_fails_together_if_the_policy_raises() -> None:
    """All episodes of the call have failed, and the run goes on with the next."""

    class Broken:
        calls = 0

        async def act_batch(self, observations: list[Report]) -> list[Command]:
            self.calls += 1
            if self.calls == 1:
                raise ValueError("out of memory")
            return [Command()] * len(observations)

    async with serving() as server:
        episodes = await collected(server, Broken(), tasks_of(8, length=2))
    failed = [episode for episode in episodes if episode.failed]
    assert failed
    assert len(failed) <= 4
    assert len(episodes) == 8
    for episode in failed:
        assert isinstance(episode.outcome, PolicyFailure)
        assert episode.outcome.message == "out of memory"


async def test_a_batch_of_the_wrong_length_fails(server: Serving) -> None:
    """The text names both numbers."""

    class Short:
        async def act_batch(self, observations: list[Report]) -> list[Command]:
            return []

    (episode,) = await collected(server, Short(), 1)
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.outcome.message == "expected 1 actions from the policy, got 0"


@pytest.mark.parametrize("policy", [Acting, Batching])
async def test_policy_timeout_is_the_policys(server: Serving, policy: Any) -> None:
    """A call that takes too long fails its episodes."""

    class Thinking:
        async def act(self, observation: Report, episode: EpisodeContext) -> Command:
            await anyio.sleep(60)
            return Command()

        async def act_batch(self, observations: list[Report]) -> list[Command]:
            await anyio.sleep(60)
            return []

    thinking: Any = Thinking()
    shape: Any = policy()
    name = "act_batch" if policy is Batching else "act"
    setattr(shape, name, getattr(thinking, name))
    (episode,) = await collected(server, shape, 1, policy_timeout=0.05)
    assert isinstance(episode.outcome, PolicyFailure)
    assert episode.outcome.exception == "TimeoutError"


@every_policy
async def test_a_lost_session_is_infrastructure(policy: Any) -> None:
    """The outcome says what was lost, whether the step ran, and has no return."""
    async with serving() as server:
        lost: list[str] = []

        def choose(episode: EpisodeContext, observation: Report) -> Command:
            if episode.task.id == "t1" and len(episode.steps) == 1:
                lost.append(episode.id)
                return Command(do="exit", text="gone")
            return Command()

        episodes = await collected(server, policy(choose), tasks_of(3, length=3))
    assert lost
    episode = _others_terminated(episodes)
    assert isinstance(episode.outcome, InfrastructureFailure | EnvironmentFailure), (
        episode.outcome
    )
    assert episode.return_ is None


async def test_done_at_reset_is_an_episode_without_steps(server: Serving) -> None:
    """Nobody is asked, and there is no return where there was no reward."""

    class Never:
        async def act(self, observation: Report, episode: EpisodeContext) -> Command:
            raise AssertionError("nobody asked")

    class Born(Environment[Command, Report, State]):
        name = "scripted"

        async def reset(self, **_: Any) -> Report:
            return Report(terminated=True)

        async def step(self, action: Command) -> Report:
            raise AssertionError("no step")

        def state(self) -> State:
            return State()

    async with serving(Born) as other:
        (episode,) = await collected(other, Never(), 1)
    assert episode.outcome == Terminated()
    assert episode.return_ is None
    assert episode.length == 0


# Agents


class _Agent:
    def __init__(self, play: Any) -> None:
        self.play = play


async def test_an_agent_that_returns_early_is_truncated(server: Serving) -> None:
    """What it did is recorded, with the return so far."""

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        await env.step(Command())
        env.episode.extras["note"] = "bored"

    (episode,) = await collected(server, _Agent(play), 1)
    assert episode.outcome == Truncated(reason="agent")
    assert episode.return_ == 1
    assert episode.extras == {"note": "bored"}


async def test_an_agent_may_correct_an_invalid_action(server: Serving) -> None:
    """The refusal reaches it, nothing is recorded, and the episode goes on."""

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        with pytest.raises(InvalidAction):
            await env.step(Command(do="refuse"))
        await env.step(Command(), extras={"second": True})

    (episode,) = await collected(server, _Agent(play), tasks_of(1, length=1))
    assert episode.outcome == Terminated()
    assert [step.extras for step in episode.steps] == [{"second": True}]


async def test_an_agent_cannot_hide_a_failure(server: Serving) -> None:
    """Swallowing the error does not make the episode a good one."""

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        await env.step(Command())
        with pytest.raises(OpenEnvError):
            await env.step(Command(do="fail"))
        assert env.done
        with pytest.raises(EpisodeDone):
            await env.step(Command())

    (episode,) = await collected(server, _Agent(play), 1)
    assert isinstance(episode.outcome, EnvironmentFailure)
    assert episode.return_ is None


async def test_an_agent_has_time_behind_the_end(server: Serving) -> None:
    """What it notes after the last step is recorded; what it raises changes nothing."""

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        await env.step(Command())
        assert env.done
        env.episode.extras["grade"] = 1
        raise ValueError("too late to matter")

    (episode,) = await collected(server, _Agent(play), tasks_of(1, length=1))
    assert episode.outcome == Terminated()
    assert episode.extras == {"grade": 1}


async def test_an_agent_may_read_the_state(server: Serving) -> None:
    """Reading it is no step."""
    states: list[Any] = []

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        await env.step(Command())
        states.append(await env.state())
        await env.step(Command())

    (episode,) = await collected(server, _Agent(play), tasks_of(1, length=2))
    assert [state.step_count for state in states] == [1]
    assert episode.outcome == Terminated()


async def test_an_agent_plays_one_episode(server: Serving) -> None:
    """A second reset is refused."""

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        await env.reset()
        await env.reset()

    (episode,) = await collected(server, _Agent(play), 1)
    assert isinstance(episode.outcome, PolicyFailure)
    assert "one reset" in episode.outcome.message


async def test_a_step_that_the_agent_cancelled_is_recorded(server: Serving) -> None:
    """It happened: the next call says so and has its result."""
    gate = await holding("slow")

    async def play(env: AgentEnv[Command, Report], task: Task) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await env.step(Command(do="wait", text="slow"))
        gate.set()
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert isinstance(caught.value.result, StepResult)
        await env.step(Command())

    (episode,) = await collected(server, _Agent(play), tasks_of(1, length=2))
    assert episode.outcome == Terminated(), episode.outcome
    assert [step.action.text for step in episode.steps] == ["slow", ""]


class _Stubborn:
    """Swallows every cancellation until it is let go, in one episode of the run."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.swallowed = 0

    async def _stay(self) -> None:
        while not self.free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.free.wait()
                return
            self.swallowed += 1


class _StubbornActing(_Stubborn):
    async def act(self, observation: Report, episode: EpisodeContext) -> Command:
        """Act, if it is another episode."""
        if episode.id == "t0/0":
            await self._stay()
        return Command()


class _StubbornBatching(_Stubborn):
    async def act_batch(
        self, observations: Sequence[Report], episodes: Sequence[EpisodeContext]
    ) -> list[Command]:
        """Act, if the episode is not among them."""
        if any(episode.id == "t0/0" for episode in episodes):
            await self._stay()
        return [Command()] * len(episodes)


@pytest.mark.parametrize("shape", [_StubbornActing, _StubbornBatching])
async def test_a_policy_that_swallows_its_timeout_is_abandoned(
    server: Serving,
    shape: type[_Stubborn],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its episodes have failed a moment later, and the others are played."""
    monkeypatch.setattr(calls, "_GRACE", 0.05)
    policy = shape()
    single = options.Batching(max=1)
    tasks = tasks_of(6, length=2)
    async with asyncio.timeout(10):
        async with collector_of(
            server, policy, tasks, size=2, batching=single, policy_timeout=0.05
        ) as collector:
            episodes = [episode async for episode in collector]
            await collector.wait_quiet()
            # Whatever it returns one day is of no use.
            policy.free.set()
    by_id = {episode.id: episode.outcome for episode in episodes}
    failure = by_id.pop("t0/0")
    assert isinstance(failure, PolicyFailure)
    assert failure.exception == "TimeoutError"
    assert "expected an answer within 0.05 s" in failure.message
    assert list(by_id.values()) == [Terminated()] * 5
    assert policy.swallowed
    assert "a call of the policy is abandoned" in caplog.text
