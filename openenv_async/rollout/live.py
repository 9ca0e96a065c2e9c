"""An episode that is being played: what is recorded of it so far."""

from __future__ import annotations

import asyncio
import enum
from typing import Any, final

import msgspec

from ..client import StepResult
from .episodes import (
    Attempt,
    Episode,
    EpisodeStep,
    EpisodeTiming,
    Outcome,
    StepTiming,
    Task,
    return_of,
)
from .policies import EpisodeContext

__all__ = ["LiveEpisode", "Phase", "Start", "episode_id", "unstarted"]


@final
class Phase(enum.Enum):
    """Whom a live episode waits for."""

    RESET = "reset"
    WAITING = "waiting"
    """For the policy to be called."""
    POLICY = "policy"
    ENVIRONMENT = "environment"
    OVER = "over"


def episode_id(task: Task, index: int) -> str:
    """The name of a task's episode: the same in every run of that task."""
    return f"{task.id}/{index}"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that is still to be played, or to be played again."""

    task: Task
    index: int
    """Within its group."""
    size: int
    """Of its group."""
    seed: int
    policy_seed: int
    order: int
    """Among all starts, for equal priorities."""
    earlier: tuple[Attempt, ...] = ()
    """What failed in earlier runs."""
    attempts: tuple[Attempt, ...] = ()
    """What failed in this one."""
    stale: bool = False
    """Whether its session turned out to have ended before the reset reached it."""

    @property
    def past(self) -> list[Attempt]:
        """All that failed before, the oldest first."""
        return [*self.earlier, *self.attempts]

    @property
    def episode_id(self) -> str:
        """As in `Episode.id`."""
        return episode_id(self.task, self.index)


@final
class LiveEpisode:
    """One attempt of an episode, on one session.

    Args:
        start: What is played.
        context: What the policy is told.
        place: The session's place in the batch.
        now_ns: The clock.
        deadline_ns: When it has to be over.
    """

    __slots__ = (
        "action",
        "context",
        "deadline_ns",
        "environment_ns",
        "extras",
        "first",
        "future",
        "idle_ns",
        "is_away",
        "last_ns",
        "latest",
        "observation",
        "outcome",
        "phase",
        "place",
        "policy_ns",
        "queue_ns",
        "reading",
        "replace",
        "session",
        "since_ns",
        "start",
        "started",
        "started_ns",
        "steps",
        "task",
        "thought_ns",
        "waited_ns",
        "wire_ns",
    )

    def __init__(
        self,
        start: Start,
        context: EpisodeContext,
        *,
        place: int,
        session: str,
        now_ns: int,
        started: float,
        deadline_ns: int | None,
    ) -> None:
        self.start = start
        self.context = context
        self.place = place
        self.session = session
        self.started_ns = self.last_ns = self.since_ns = now_ns
        self.started = started
        self.deadline_ns = deadline_ns
        self.phase = Phase.RESET
        self.first: StepResult[Any] | None = None
        """The result of the reset."""
        self.latest: StepResult[Any] | None = None
        """The result of the last call."""
        self.observation: Any = None
        self.steps = context.steps
        self.action: Any = None
        """On its way to the environment."""
        self.extras: dict[str, object] = {}
        """What the policy said about it."""
        self.thought_ns = 0
        """How long the policy took for it."""
        self.waited_ns = 0
        """How long the observation waited for the policy."""
        self.policy_ns = self.wire_ns = self.queue_ns = self.environment_ns = 0
        self.idle_ns = 0
        self.task: asyncio.Task[None] | None = None
        """Plays it, where the policy acts in one episode at a time."""
        self.future: asyncio.Future[Any] | None = None
        """What that task waits for."""
        self.outcome: Outcome | None = None
        """Known before the end, where an agent has not returned yet."""
        self.reading = False
        """Whether its state is being read."""
        self.is_away = False
        """Whether its connection was lost when somebody last looked."""
        self.replace = False
        """Whether its session cannot be used again."""

    def record_reset(self, result: StepResult[Any], now_ns: int) -> None:
        """The environment has begun the episode."""
        self.first = self.latest = result
        self.observation = result.observation
        self._spend(result)
        self.phase = Phase.WAITING
        self.since_ns = self.last_ns = now_ns

    def record_step(self, result: StepResult[Any], now_ns: int) -> None:
        """The environment has performed the action."""
        self.latest = result
        observation = self.observation = result.observation
        self.steps.append(
            EpisodeStep(
                self.action,
                observation,
                observation.reward,
                observation.terminated,
                observation.truncated,
                self.extras,
                StepTiming(
                    self.thought_ns,
                    self.waited_ns,
                    result.round_trip_ns,
                    result.queue_ns,
                    result.environment_ns,
                    result.encode_ns,
                ),
            )
        )
        self.policy_ns += self.thought_ns
        self.idle_ns += self.waited_ns
        self._spend(result)
        self.phase = Phase.WAITING
        self.since_ns = self.last_ns = now_ns

    def record_failure(self, now_ns: int, *, reached: bool) -> None:
        """The call that it waited for has failed.

        Args:
            now_ns: The clock.
            reached: Whether the environment was there to spend the time.
        """
        waited_ns = now_ns - self.since_ns
        if reached:
            self.environment_ns += waited_ns
        else:
            self.wire_ns += waited_ns
        self.phase = Phase.WAITING
        self.since_ns = self.last_ns = now_ns

    def _spend(self, result: StepResult[Any]) -> None:
        queue_ns, environment_ns = result.queue_ns, result.environment_ns
        wire_ns = result.round_trip_ns - queue_ns - environment_ns
        self.queue_ns += queue_ns
        self.environment_ns += environment_ns
        if wire_ns > 0:
            self.wire_ns += wire_ns

    def timing(self) -> EpisodeTiming:
        """Where its time went so far; what nothing else accounts for was idle."""
        total_ns = self.last_ns - self.started_ns
        known = self.policy_ns + self.wire_ns + self.queue_ns + self.environment_ns
        return EpisodeTiming(
            total_ns=max(total_ns, known),
            policy_ns=self.policy_ns,
            wire_ns=self.wire_ns,
            queue_ns=self.queue_ns,
            environment_ns=self.environment_ns,
            idle_ns=max(0, total_ns - known),
        )

    def attempt(self, outcome: Outcome) -> Attempt:
        """What is left of it when it is tried again."""
        return Attempt(outcome=outcome, length=len(self.steps), timing=self.timing())

    def episode(
        self, outcome: Outcome, metadata: dict[str, object]
    ) -> Episode[Any, Any]:
        """The finished episode."""
        start = self.start
        return Episode(
            id=self.context.id,
            environment=self.context.environment,
            task=start.task,
            seed=start.seed,
            group=start.task.id,
            group_index=start.index,
            group_size=start.size,
            initial_observation=None if self.first is None else self.first.observation,
            steps=self.steps,
            outcome=outcome,
            return_=return_of(outcome, [step.reward for step in self.steps]),
            earlier_attempts=start.past,
            started=self.started,
            timing=self.timing(),
            session=self.session,
            extras=self.context.extras,
            metadata=metadata,
        )


def unstarted(
    start: Start, outcome: Outcome, *, environment: str, metadata: dict[str, object]
) -> Episode[Any, Any]:
    """The episode that a start gives which will never be played."""
    return Episode(
        id=start.episode_id,
        environment=environment,
        task=start.task,
        seed=start.seed,
        group=start.task.id,
        group_index=start.index,
        group_size=start.size,
        steps=[],
        outcome=outcome,
        earlier_attempts=start.past,
        metadata=metadata,
    )
