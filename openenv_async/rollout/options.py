"""How a run behaves, in values that are checked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypedDict

import msgspec

from ..errors import LocalProtocolError
from .episodes import Attempt

__all__ = [
    "AdaptiveConcurrency",
    "Batching",
    "CollectorKeywords",
    "CollectorOptions",
    "CutOff",
    "FailureKind",
    "GroupSeeds",
    "Order",
]

Order = Literal["as_finished", "grouped"]
"""How episodes are delivered: each at once, or all of a group one after the other."""

GroupSeeds = Literal["distinct", "same"]
"""Whether the environments of a group begin alike: `same` compares what a policy makes
of one beginning, as GRPO's baseline assumes."""

FailureKind = Literal["environment_failed", "policy_failed", "infrastructure_failed"]


_LONGEST: Final = 1e8
"""Seconds of the longest duration: three years, which is as good as none."""
_ORDERS: Final[tuple[str, ...]] = ("as_finished", "grouped")
_GROUP_SEEDS: Final[tuple[str, ...]] = ("distinct", "same")
_KINDS: Final[tuple[str, ...]] = (
    "environment_failed",
    "policy_failed",
    "infrastructure_failed",
)


def _at_least(least: float, **values: float | None) -> None:
    _check(f"of at least {least}", lambda value: value >= least, values)


def _above(bound: float, **values: float | None) -> None:
    _check(f"above {bound}", lambda value: value > bound, values)


def _seconds(*, zero: bool = False, **values: float | None) -> None:
    """Check durations: also that a clock of 64-bit nanoseconds can add them."""
    (_at_least if zero else _above)(0, **values)
    _check(f"of at most {_LONGEST:g} seconds", lambda value: value <= _LONGEST, values)


def _check(
    text: str, holds: Callable[[float], bool], values: dict[str, float | None]
) -> None:
    for name, value in values.items():
        if value is not None and not holds(value):
            raise LocalProtocolError(f"expected {name} {text}, got {value!r}")


def _one_of(allowed: tuple[str, ...], **values: str) -> None:
    for name, value in values.items():
        if value not in allowed:
            raise LocalProtocolError(
                f"expected {name} to be one of {list(allowed)!r}, got {value!r}"
            )


class Batching(msgspec.Struct, frozen=True, kw_only=True):
    """When a batch policy is called, and how often at a time.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    min: int = 1
    """Observations to wait for, or all that can still come if those are fewer."""
    max: int | None = 64
    """Observations of one call at most; None takes all that are there."""
    timeout: float | None = 0.005
    """Seconds after which fewer than `min`, but at least one, will do."""
    calls: int = 1
    """Calls at a time; one for a model that computes one batch after the other."""

    def __post_init__(self) -> None:
        _at_least(1, min=self.min, max=self.max, calls=self.calls)
        _seconds(zero=True, timeout=self.timeout)
        if self.max is not None and self.max < self.min:
            raise LocalProtocolError(
                f"expected min <= max, got min={self.min} and max={self.max}"
            )


class AdaptiveConcurrency(msgspec.Struct, frozen=True, kw_only=True):
    """Additive increase, multiplicative decrease of the episodes at a time.

    As in TCP (Chiu and Jain, 1989): every interval without congestion allows a few
    more, and one with it allows a share of what was. Congestion is steps that wait on
    the server for their environment, or a policy that takes too long. Episodes that
    run are never stopped for it.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    start: int = 8
    """Episodes at a time in the beginning."""
    min: int = 1
    increase: int = 4
    """How many more after an interval without congestion."""
    decrease: float = 0.7
    """What is left after one with it."""
    interval: float = 1.0
    """Seconds between decisions."""
    queue_target: float | None = 0.05
    """Mean seconds that a step may wait on the server; None ignores them."""
    policy_target: float | None = None
    """Mean seconds from an observation to its action; None ignores them."""

    def __post_init__(self) -> None:
        _at_least(1, start=self.start, min=self.min, increase=self.increase)
        _seconds(interval=self.interval)
        _above(0, queue_target=self.queue_target, policy_target=self.policy_target)
        if not 0 < self.decrease < 1:
            raise LocalProtocolError(
                f"expected a decrease between 0 and 1, got {self.decrease!r}"
            )


class CutOff(msgspec.Struct, frozen=True, kw_only=True):
    """When the stragglers of a group are not waited for any longer.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    complete: int
    """Episodes of the group that must have ended without failure."""
    grace: float = 0.0
    """Seconds that the others still have then."""

    def __post_init__(self) -> None:
        _at_least(1, complete=self.complete)
        _seconds(zero=True, grace=self.grace)


class CollectorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a run behaves; seconds for all durations.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    seed: int = 0
    """Where all seeds derive from that the tasks do not name."""
    group_size: int = 1
    """Episodes of each task."""
    group_seeds: GroupSeeds = "distinct"
    order: Order = "as_finished"
    cut_off: CutOff | None = None
    concurrency: int | None = None
    """Episodes at a time; None takes all sessions of the batch."""
    adaptive: AdaptiveConcurrency | None = None
    """Finds the concurrency, up to `concurrency`."""
    batching: Batching = Batching()
    """For batch policies."""
    step_timeout: float | None = None
    """For each step in the environment; what takes longer has failed."""
    reset_timeout: float | None = None
    """The same for resets; None takes that of steps."""
    episode_timeout: float | None = None
    """From reset to end; what takes longer is truncated. Pauses do not count."""
    policy_timeout: float | None = None
    """For each call of the policy, but not for an agent; then the policy failed."""
    max_steps: int | None = None
    """After which an episode is truncated."""
    retries: int = 0
    """How often a failed episode is run again from its reset, with the same seed."""
    retry_on: tuple[FailureKind, ...] = ("infrastructure_failed",)
    queue_size: int | None = None
    """Finished episodes that may wait for the consumer before no new one starts; None
    takes the concurrency."""
    lookahead: int | None = None
    """Tasks that are read before they can start, which is how far priorities reach;
    None takes the concurrency."""
    recovery_timeout: float = 60.0
    """Seconds without any reachable session after which the run fails, however often it
    was tried meanwhile; until then lost connections are tried again, and lost sessions
    replaced, as soon as there is a server. Episodes that waited are not delivered."""
    skip: Callable[[str], bool] | None = None
    """Whether not to play the episode of that id, because it is recorded already."""
    failed: Callable[[str], bool] | None = None
    """Whether the episode of that id, which `skip` leaves out, has failed: then it does
    not count as complete for `cut_off`. None takes it that none has."""
    earlier: Callable[[str], Sequence[Attempt]] | None = None
    """What became of the episode of that id when it was played before; recorded in it,
    and no reason to try less often."""
    metadata: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """Recorded in every episode."""

    def __post_init__(self) -> None:
        _at_least(1, group_size=self.group_size, concurrency=self.concurrency)
        _at_least(1, max_steps=self.max_steps, queue_size=self.queue_size)
        _at_least(1, lookahead=self.lookahead)
        _at_least(0, retries=self.retries)
        _seconds(zero=True, recovery_timeout=self.recovery_timeout)
        _seconds(step_timeout=self.step_timeout, reset_timeout=self.reset_timeout)
        _seconds(
            episode_timeout=self.episode_timeout, policy_timeout=self.policy_timeout
        )
        _one_of(_ORDERS, order=self.order)
        _one_of(_GROUP_SEEDS, group_seeds=self.group_seeds)
        for kind in self.retry_on:
            _one_of(_KINDS, retry_on=kind)
        if self.cut_off is not None and self.cut_off.complete > self.group_size:
            raise LocalProtocolError(
                f"expected a cut-off at {self.group_size} complete episodes at most, "
                f"got {self.cut_off.complete}"
            )


class CollectorKeywords(TypedDict, total=False):
    """The same as keywords of `collect`."""

    seed: int
    group_size: int
    group_seeds: GroupSeeds
    order: Order
    cut_off: CutOff | None
    concurrency: int | None
    adaptive: AdaptiveConcurrency | None
    batching: Batching
    step_timeout: float | None
    reset_timeout: float | None
    episode_timeout: float | None
    policy_timeout: float | None
    max_steps: int | None
    retries: int
    retry_on: tuple[FailureKind, ...]
    queue_size: int | None
    lookahead: int | None
    recovery_timeout: float
    skip: Callable[[str], bool] | None
    failed: Callable[[str], bool] | None
    earlier: Callable[[str], Sequence[Attempt]] | None
    metadata: dict[str, object]
