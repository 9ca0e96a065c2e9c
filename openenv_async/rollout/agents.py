"""Agents that play by themselves, on an environment that records what they do."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

from ..client import StepResult
from ..errors import (
    EpisodeDone,
    LocalProtocolError,
    OpenEnvError,
    SessionBusy,
    StepInterrupted,
)
from .calls import PolicyMisuse, check_awaitable, is_foreign_cancellation
from .episodes import Outcome, PolicyFailure, Truncated
from .live import LiveEpisode, Phase
from .outcomes import outcome_of_policy_error
from .policies import Agent, Decision, EpisodeContext

if TYPE_CHECKING:
    from .run import Run

__all__ = ["AgentDriver", "AgentEnv"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")

_BY_AGENT = Truncated(reason="agent")


@final
class AgentEnv(Generic[ActT, ObsT]):
    """What an agent plays on: one episode, of which every step is recorded.

    It has begun when `play` is called; `reset` returns how, once.
    """

    def __init__(self, run: Run, live: LiveEpisode) -> None:
        self._run = run
        self._live = live
        self._was_reset = False

    @property
    def episode(self) -> EpisodeContext:
        """What is known about the episode; its `extras` are recorded."""
        return self._live.context

    @property
    def observation(self) -> ObsT:
        """The latest one."""
        return cast(ObsT, self._live.observation)

    @property
    def done(self) -> bool:
        """Whether no further step is possible."""
        return self._live.outcome is not None or self._live.phase is Phase.OVER

    async def reset(self) -> StepResult[ObsT]:
        """Return how the episode began.

        Raises:
            LocalProtocolError: This is the second call: an agent plays one episode.
        """
        if self._was_reset:
            raise LocalProtocolError("expected one reset: an agent plays one episode")
        self._was_reset = True
        assert self._live.first is not None
        return self._live.first

    async def step(
        self, action: ActT | Decision[ActT], *, extras: dict[str, object] | None = None
    ) -> StepResult[ObsT]:
        """Perform an action, and record it.

        Cancelling it does not stop the step: its result is recorded, and the next
        call raises `StepInterrupted` with it.

        Args:
            action: Alone or as a `Decision`.
            extras: What else to record about it.

        Raises:
            EpisodeDone: The episode is over.
            SessionBusy: Another step is on its way.
            InvalidAction: The action does not fit; the episode goes on.
            OpenEnvError: As for `EnvClient.step`; the episode has failed.
        """
        run, live = self._run, self._live
        self._check()
        if live.phase is Phase.ENVIRONMENT:
            await self._tell_of_interrupted()
        await run.wait_resumed()
        self._check()
        if isinstance(action, Decision):
            live.extras = {**action.extras, **(extras or {})}
            action = cast(ActT, cast(Any, action).action)
        else:
            live.extras = dict(extras or {})
        live.thought_ns = perf_counter_ns() - live.since_ns
        live.waited_ns = 0
        future = live.future = asyncio.get_running_loop().create_future()
        run.post([live], [action])
        return cast("StepResult[ObsT]", await future)

    async def state(self) -> object:
        """Read the environment's state, as its type describes it.

        Raises:
            EpisodeDone: The episode is over.
            OpenEnvError: As for `EnvClient.state`; the episode goes on.
        """
        if self._live.phase is Phase.OVER:
            self._check()
        return await self._run.state(self._live)

    def _check(self) -> None:
        live = self._live
        if self.done:
            raise EpisodeDone(
                f"expected an episode that goes on, but {live.context.id!r} is over"
            )
        if live.future is not None and not live.future.done():
            raise SessionBusy("expected one call at a time on an episode")

    async def _tell_of_interrupted(self) -> None:
        """Wait for the result of a step whose caller was cancelled, and raise it."""
        future = self._live.future = asyncio.get_running_loop().create_future()
        result = await future
        interrupted = StepInterrupted(
            "an earlier call was cancelled, but the environment executed it",
            executed="yes",
        )
        interrupted.result = result
        raise interrupted


@final
class AgentDriver:
    """Plays each episode in a task of its own, which belongs to the agent.

    Args:
        agent: Has a method `play`.
    """

    batches = False

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._run: Run

    async def run(self, run: Run) -> None:
        """Nothing more is to do than what the episodes' tasks do."""
        self._run = run

    def ready(self, live: LiveEpisode) -> None:
        """An observation has come, and the episode goes on."""
        if live.task is None:
            live.task = self._run.spawn(self._play(live), "openenv-async-episode")
        else:
            self._resolve(live)

    def ended(self, live: LiveEpisode, outcome: Outcome) -> None:
        """The last observation has come; the agent may still have things to do."""
        if live.task is None:
            self._run.finish(live, outcome)
            return
        live.outcome = outcome
        self._resolve(live)

    def failed(self, live: LiveEpisode, error: OpenEnvError, outcome: Outcome) -> None:
        """A call failed; the agent is told."""
        if live.task is None:
            self._run.finish(live, outcome)
            return
        live.phase = Phase.POLICY
        if not (isinstance(outcome, PolicyFailure) and error.executed == "no"):
            live.outcome = outcome
        if live.future is not None and not live.future.done():
            live.future.set_exception(error)

    def gone(self, live: LiveEpisode) -> None:
        """Nobody waits for the episode any more: the agent is stopped."""
        if live.task is not None and live.task is not asyncio.current_task():
            live.task.cancel()

    def _resolve(self, live: LiveEpisode) -> None:
        live.phase = Phase.POLICY
        if live.future is not None and not live.future.done():
            live.future.set_result(live.latest)

    async def _play(self, live: LiveEpisode) -> None:
        run = self._run
        await run.wait_resumed()
        began_ns = perf_counter_ns()
        live.idle_ns += began_ns - live.since_ns
        live.since_ns = began_ns
        live.phase = Phase.POLICY
        env: AgentEnv[Any, Any] = AgentEnv(run, live)
        run.meter.policy_began(began_ns, 1)
        failure: PolicyFailure | None = None
        try:
            await check_awaitable(self._agent.play(env, live.start.task), "play")
        except asyncio.CancelledError as error:
            if not is_foreign_cancellation():
                raise
            failure = outcome_of_policy_error(error)
        except PolicyMisuse:
            raise
        except Exception as error:  # noqa: BLE001 (recorded in the episode)
            failure = outcome_of_policy_error(error)
        finally:
            run.meter.policy_ended(began_ns, perf_counter_ns())
        run.finish(live, live.outcome or failure or _BY_AGENT)
