"""Episodes as columns, for a trainer: what failed is masked, never a zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from ..errors import LocalProtocolError
from .episodes import Episode, Truncated, TruncationReason, outcome_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EpisodeBatch", "StepColumns", "to_batch"]

_NO_REWARD: Final = "no reward"
_NOT_FINITE: Final = "return is not finite"
_REASONS: Final[tuple[str, ...]] = get_args(TruncationReason)


class StepColumns(msgspec.Struct, frozen=True, kw_only=True):
    """One row a step, the steps of an episode one after the other."""

    episode: list[int]
    """The row of the step's episode."""
    index: list[int]
    """The step's place in its episode, from 0."""
    mask: list[bool]
    """That of the episode."""
    observations: list[object]
    """What the policy saw."""
    actions: list[object]
    next_observations: list[object]
    """What followed."""
    rewards: list[float]
    """NaN where the environment gave none."""
    terminated: list[bool]
    truncated: list[bool]
    """Also for the last step of an episode that a limit of the run cut off: whatever
    bootstraps has to do so there, too."""
    extras: dict[str, list[object]]
    """A column for each key that a policy gave anywhere; None where it did not."""


class EpisodeBatch(msgspec.Struct, frozen=True, kw_only=True):
    """One row an episode, failed ones included, so that groups stay whole."""

    ids: list[str]
    groups: list[str]
    group_indices: list[int]
    mask: list[bool]
    """Whether the row counts."""
    returns: list[float]
    """NaN where the row does not count: a mean that forgets the mask shows it, where a
    zero would pass for a bad episode."""
    lengths: list[int]
    outcomes: list[str]
    """As in `RunStatistics.outcomes`."""
    extras: dict[str, list[object]]
    """A column for each key that a policy gave for whole episodes."""
    steps: StepColumns
    masked: dict[str, int]
    """Why rows do not count, and how many for each reason."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def masked_count(self) -> int:
        """How many rows do not count."""
        return sum(self.masked.values())

    def numpy(self) -> dict[str, NDArray[Any]]:
        """The columns of numbers as NumPy arrays; those of steps begin with `step_`."""
        import numpy as np  # noqa: PLC0415 (NumPy is an optional extra)

        steps = self.steps
        columns: list[tuple[str, list[Any], Any]] = [
            ("group_indices", self.group_indices, np.int64),
            ("mask", self.mask, np.bool_),
            ("returns", self.returns, np.float64),
            ("lengths", self.lengths, np.int64),
            ("step_episode", steps.episode, np.int64),
            ("step_index", steps.index, np.int64),
            ("step_mask", steps.mask, np.bool_),
            ("step_rewards", steps.rewards, np.float64),
            ("step_terminated", steps.terminated, np.bool_),
            ("step_truncated", steps.truncated, np.bool_),
        ]
        # The groups as numbers, in the order of their first episode.
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(group, len(numbers)) for group in self.groups]
        return {
            "groups": np.asarray(groups, dtype=np.int64),
            **{name: np.asarray(column, dtype=kind) for name, column, kind in columns},
        }


def to_batch(
    episodes: Iterable[Episode[Any, Any]],
    *,
    mask_truncated: Iterable[TruncationReason] = (),
) -> EpisodeBatch:
    """Arrange episodes in columns, in their order.

    An episode that failed is masked, and so is one without any reward, or with one
    that is NaN or infinite: such a return is none.

    Args:
        episodes: What to arrange.
        mask_truncated: Reasons for which truncated episodes are masked, too.

    Raises:
        LocalProtocolError: An episode occurs twice, or there is no such reason.
    """
    unwanted = _checked(mask_truncated)
    rows = list(episodes)
    ids = [episode.id for episode in rows]
    if len(set(ids)) != len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise LocalProtocolError(f"expected each episode once, got {twice!r} twice")
    reasons = [_mask_reason(episode, unwanted) for episode in rows]
    return EpisodeBatch(
        ids=ids,
        groups=[episode.group for episode in rows],
        group_indices=[episode.group_index for episode in rows],
        mask=[not reason for reason in reasons],
        returns=[
            math.nan if reason or episode.return_ is None else episode.return_
            for episode, reason in zip(rows, reasons, strict=True)
        ],
        lengths=[episode.length for episode in rows],
        outcomes=[outcome_label(episode.outcome) for episode in rows],
        extras=_columns([episode.extras for episode in rows]),
        steps=_step_columns(rows, reasons),
        masked=dict(Counter(reason for reason in reasons if reason)),
    )


def _mask_reason(episode: Episode[Any, Any], unwanted: frozenset[str]) -> str:
    """Why an episode does not count; empty if it does."""
    outcome = episode.outcome
    if episode.failed or (
        isinstance(outcome, Truncated) and outcome.reason in unwanted
    ):
        return outcome_label(outcome)
    if episode.return_ is None:
        return _NO_REWARD
    return "" if episode.has_return else _NOT_FINITE


def _checked(reasons: Iterable[TruncationReason]) -> frozenset[str]:
    # A text is an iterable, too: of letters, which would mask nothing.
    given = (reasons,) if isinstance(reasons, str) else tuple(reasons)
    if isinstance(reasons, str) or not set(given) <= set(_REASONS):
        raise LocalProtocolError(
            f"expected mask_truncated as a list of {list(_REASONS)!r}, got {reasons!r}"
        )
    return frozenset(given)


def _step_columns(rows: list[Episode[Any, Any]], reasons: list[str]) -> StepColumns:
    columns = StepColumns(
        episode=[],
        index=[],
        mask=[],
        observations=[],
        actions=[],
        next_observations=[],
        rewards=[],
        terminated=[],
        truncated=[],
        extras=_columns([step.extras for episode in rows for step in episode.steps]),
    )
    for row, (episode, reason) in enumerate(zip(rows, reasons, strict=True)):
        count = len(episode.steps)
        columns.episode.extend([row] * count)
        columns.index.extend(range(count))
        columns.mask.extend([not reason] * count)
        observation = episode.initial_observation
        for step in episode.steps:
            columns.observations.append(observation)
            observation = step.observation
            columns.actions.append(step.action)
            columns.next_observations.append(observation)
            columns.rewards.append(math.nan if step.reward is None else step.reward)
            columns.terminated.append(step.terminated)
            columns.truncated.append(step.truncated)
        if count and isinstance(episode.outcome, Truncated):
            columns.truncated[-1] = True
    return columns


def _columns(rows: list[dict[str, object]]) -> dict[str, list[object]]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}
