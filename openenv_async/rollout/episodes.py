"""What a rollout yields: episodes, their steps, and how they ended.

Everything here is a frozen struct that msgspec encodes as it is, arrays included. An
episode is a map in JSON and msgpack; outcomes carry their kind in `status`, arrays in
`kind`. Only an episode that ended by itself or was cut off has a return: what failed
has none, which is not the same as a return of zero.
"""

from __future__ import annotations

import math
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec

from ..errors import Executed

__all__ = [
    "Attempt",
    "EnvironmentFailure",
    "Episode",
    "EpisodeStep",
    "EpisodeTiming",
    "InfrastructureFailure",
    "Outcome",
    "PolicyFailure",
    "StepTiming",
    "Task",
    "Terminated",
    "Truncated",
    "TruncationReason",
    "has_failed",
    "outcome_label",
    "return_of",
]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What an episode is about; a group of episodes shares one."""

    id: str
    """Unique in a run: ids and seeds of the episodes derive from it."""
    seed: int | None = None
    """Of the first episode of the group; None derives one from the run's seed."""
    options: dict[str, object] | None = None
    """Passed to the environment's `reset`."""
    metadata: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """The caller's own: an answer to compare with, a split, a weight."""
    priority: int = 0
    """Among the tasks that wait for an environment, the highest starts first."""


# How an episode ended

TruncationReason = Literal[
    "environment", "max_steps", "episode_timeout", "agent", "cut_off", "cancelled"
]
"""Who cut an episode off.

- `environment`: it said `truncated`.
- `max_steps`, `episode_timeout`: the limits of the run.
- `agent`: an agent that plays by itself returned before the end.
- `cut_off`: its group had enough episodes, or no more time.
- `cancelled`: the run was cancelled.
"""


class Terminated(msgspec.Struct, frozen=True, tag_field="status", tag="terminated"):
    """The task reached its end."""


class Truncated(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="truncated"
):
    """The episode was cut off: the task would have gone on.

    What was recorded until then did happen. With `episode_timeout`, `cut_off` and
    `cancelled` a step may have been on its way, of which nothing is recorded.
    """

    reason: TruncationReason


class EnvironmentFailure(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="status",
    tag="environment_failed",
):
    """The environment's own code raised, or took longer than a step may take."""

    exception: str
    """Name of the exception's class; `DeadlineExceeded` for a step that took too
    long."""
    message: str
    traceback: str = ""
    """As the server formatted it; empty where the server keeps it to itself."""
    executed: Executed = "unknown"


class PolicyFailure(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="policy_failed"
):
    """The policy raised, or returned what is no action of the environment."""

    exception: str
    """Name of the exception's class."""
    message: str
    traceback: str = ""


class InfrastructureFailure(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="status",
    tag="infrastructure_failed",
):
    """Something between policy and environment broke: a server, a socket, a worker."""

    kind: str
    """The error's code, such as `session_lost` (docs/protocol.md, section 9)."""
    executed: Executed
    """Whether the environment ran the last request."""
    retryable: bool
    """Whether the same call may succeed later."""
    message: str


Outcome: TypeAlias = (
    Terminated | Truncated | EnvironmentFailure | PolicyFailure | InfrastructureFailure
)
"""How an episode ended."""

_FAILURES = (EnvironmentFailure, PolicyFailure, InfrastructureFailure)


def has_failed(outcome: Outcome) -> bool:
    """Whether nothing can be learned from a return, because there is none."""
    return isinstance(outcome, _FAILURES)


def outcome_label(outcome: Outcome) -> str:
    """A short text that tells kinds of outcomes apart, for tables and counters."""
    match outcome:
        case Terminated():
            return "terminated"
        case Truncated():
            return f"truncated: {outcome.reason}"
        case EnvironmentFailure():
            return f"environment_failed: {outcome.exception}"
        case PolicyFailure():
            return f"policy_failed: {outcome.exception}"
        case InfrastructureFailure():
            return f"infrastructure_failed: {outcome.kind}"


# Where the time went; nanoseconds, so that sums are exact


class StepTiming(msgspec.Struct, frozen=True, gc=False):
    """Where one step's time went, in nanoseconds."""

    policy_ns: int = 0
    """From the call of the policy to its return; of the whole batch, because the
    episode waited for all of it."""
    idle_ns: int = 0
    """From the observation's arrival to the call of the policy: waiting for a batch to
    fill, for a policy that is busy, or while the run was paused."""
    round_trip_ns: int = 0
    """From sending the action to its result, on the client's clock."""
    queue_ns: int = 0
    """Waiting on the server for the environment."""
    environment_ns: int = 0
    """In the environment's own code."""
    encode_ns: int = 0
    """Encoding the observation on the server, where that was measured."""

    @property
    def wire_ns(self) -> int:
        """What is left of the round trip: both event loops, the kernel, the network."""
        known = self.queue_ns + self.environment_ns + self.encode_ns
        return max(0, self.round_trip_ns - known)


class EpisodeTiming(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where one episode's time went, in nanoseconds; the parts add up to the total."""

    total_ns: int = 0
    """From sending the reset to the last result, of the attempt that counts."""
    policy_ns: int = 0
    """In the policy."""
    wire_ns: int = 0
    """On the way: both event loops, the kernel, the network, encoding."""
    queue_ns: int = 0
    """Waiting on the server for the environment."""
    environment_ns: int = 0
    """In the environment's code, the reset included."""
    idle_ns: int = 0
    """Everything else: waiting for a policy or for a batch, or paused."""


# Episodes


class EpisodeStep(msgspec.Struct, Generic[ActT, ObsT], frozen=True):
    """An action, and what followed."""

    action: ActT
    observation: ObsT
    """After the action. Arrays in it are views of the frame that they came in: copy
    what is kept for long."""
    reward: float | None
    """None where the environment gave none."""
    terminated: bool = False
    truncated: bool = False
    """By the environment; limits of the run show in the episode's outcome only."""
    extras: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """What the policy said beside its action: token ids, log-probabilities, values."""
    timing: StepTiming = StepTiming()


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier try of an episode, which failed and was run again from its reset."""

    outcome: Outcome
    length: int
    """Steps until it failed."""
    timing: EpisodeTiming = EpisodeTiming()


class Episode(msgspec.Struct, Generic[ActT, ObsT], frozen=True, kw_only=True):
    """One episode from its reset to its outcome."""

    id: str
    """`TASK/INDEX`: the same in every run of the same tasks, and in every attempt."""
    environment: str
    """Name of the environment; empty where the server chose its default."""
    task: Task
    seed: int
    """What the environment was reset with; the same in every attempt."""
    group: str
    """Id of the task: what the episodes of a group have in common."""
    group_index: int = 0
    group_size: int = 1
    initial_observation: ObsT | None = None
    """None if the reset failed."""
    steps: list[EpisodeStep[ActT, ObsT]]
    """Complete also where the episode failed later on."""
    outcome: Outcome
    return_: float | None = msgspec.field(name="return", default=None)
    """Undiscounted sum of the rewards. None if the episode failed, and if the
    environment never gave a reward; one that is not finite counts like None."""
    earlier_attempts: list[Attempt] = msgspec.field(default_factory=list[Attempt])
    """What failed before and was tried again, the oldest first."""
    started: float = 0.0
    """When the reset was sent, in seconds since the epoch."""
    timing: EpisodeTiming = EpisodeTiming()
    session: str = ""
    """Public id of the session that it was played on."""
    extras: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """What the policy said about the whole episode."""
    metadata: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """The caller's own, the same for all episodes of a run."""

    @property
    def length(self) -> int:
        """How many steps it has."""
        return len(self.steps)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return len(self.earlier_attempts) + 1

    @property
    def has_return(self) -> bool:
        """Whether its return is a number that counts: there, and finite."""
        return self.return_ is not None and math.isfinite(self.return_)

    @property
    def failed(self) -> bool:
        """Whether it has no return because something broke."""
        return has_failed(self.outcome)


def return_of(outcome: Outcome, rewards: list[float | None]) -> float | None:
    """The return of an episode that ended so, with these rewards.

    None for what failed, and where no step had a reward: neither is a zero.
    """
    given = [reward for reward in rewards if reward is not None]
    if has_failed(outcome) or not given:
        return None
    return float(sum(given))
