"""Episodes as columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from openenv_async import LocalProtocolError
from openenv_async.rollout import (
    Episode,
    EpisodeStep,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    Task,
    Terminated,
    Truncated,
    to_batch,
)
from openenv_async.rollout.episodes import return_of

_LOST = InfrastructureFailure(
    kind="session_lost", executed="unknown", retryable=False, message="gone"
)


def _episode(
    name: str, outcome: Outcome, rewards: list[float | None]
) -> Episode[Any, Any]:
    steps: list[EpisodeStep[Any, Any]] = [
        EpisodeStep(f"{name}{index}", index + 1, reward, extras={"logprob": -index})
        for index, reward in enumerate(rewards)
    ]
    group, _, index = name.partition("/")
    return Episode(
        id=name,
        environment="e",
        task=Task(id=group),
        seed=0,
        group=group,
        group_index=int(index),
        initial_observation=0,
        steps=steps,
        outcome=outcome,
        return_=return_of(outcome, rewards),
        extras={"judge": 1} if index == "0" else {},
    )


_ENDED = Terminated()
_EPISODES = [
    _episode("a/0", Terminated(), [1.0, 2.0]),
    _episode("a/1", _LOST, [1.0]),
    _episode("b/0", Truncated(reason="max_steps"), [0.5, None]),
    _episode("b/1", PolicyFailure(exception="E", message=""), []),
    _episode("c/0", Terminated(), [None]),
]


def test_failures_are_masked_and_counted() -> None:
    """Their rows stay, so that groups stay whole; their returns are no numbers."""
    batch = to_batch(_EPISODES)
    assert len(batch) == 5
    assert batch.mask == [True, False, True, False, False]
    assert batch.returns[0] == 3.0
    assert batch.returns[2] == 0.5
    for row in (1, 3, 4):
        assert math.isnan(batch.returns[row])
    assert batch.masked == {
        "infrastructure_failed: session_lost": 1,
        "policy_failed: E": 1,
        "no reward": 1,
    }
    assert batch.masked_count == 3
    assert batch.lengths == [2, 1, 2, 0, 1]


def test_truncated_episodes_may_be_masked() -> None:
    """By reason, and the reason is counted."""
    batch = to_batch(_EPISODES, mask_truncated=["max_steps"])
    assert batch.mask == [True, False, False, False, False]
    assert batch.masked["truncated: max_steps"] == 1
    assert math.isnan(batch.returns[2])


def test_steps_are_rows() -> None:
    """Each with what the policy saw, did and got, and with its episode's mask."""
    steps = to_batch(_EPISODES).steps
    assert steps.episode == [0, 0, 1, 2, 2, 4]
    assert steps.index == [0, 1, 0, 0, 1, 0]
    assert steps.mask == [True, True, False, True, True, False]
    assert steps.observations == [0, 1, 0, 0, 1, 0]
    assert steps.next_observations == [1, 2, 1, 1, 2, 1]
    assert steps.actions[:2] == ["a/00", "a/01"]
    assert steps.rewards[:4] == [1.0, 2.0, 1.0, 0.5]
    assert math.isnan(steps.rewards[4])
    assert steps.extras == {"logprob": [0, -1, 0, 0, -1, 0]}
    # Where a limit of the run cut it off, values are bootstrapped, too.
    assert steps.truncated == [False, False, False, False, True, False]


def test_extras_of_episodes_are_columns() -> None:
    """With None where an episode has none."""
    assert to_batch(_EPISODES).extras == {"judge": [1, None, 1, None, 1]}


def test_numpy_has_the_numbers() -> None:
    """A mean that forgets the mask is NaN, and one that does not is right."""
    columns = to_batch(_EPISODES).numpy()
    assert columns["groups"].tolist() == [0, 0, 1, 1, 2]
    assert columns["returns"].dtype == np.float64
    assert np.isnan(columns["returns"].mean())
    assert columns["returns"][columns["mask"]].mean() == 1.75
    assert columns["step_mask"].dtype == np.bool_
    assert all(column.ndim == 1 for column in columns.values())


def test_an_episode_twice_is_refused() -> None:
    """Learning from one twice would be an error of bookkeeping."""
    with pytest.raises(LocalProtocolError, match="got 'a/0' twice"):
        to_batch([_EPISODES[0], _EPISODES[0]])


def test_nothing_is_a_batch() -> None:
    """An empty one."""
    batch = to_batch([])
    assert len(batch) == 0
    assert batch.masked_count == 0
    assert batch.numpy()["returns"].shape == (0,)


@pytest.mark.parametrize(
    "rewards", [[math.nan], [1.0, math.inf], [-math.inf, 1.0], [1e308, 1e308]]
)
def test_a_return_that_is_not_finite_is_masked(rewards: list[float | None]) -> None:
    """It counts as none, and says why."""
    odd = _episode("a/0", _ENDED, rewards)
    assert not odd.has_return
    batch = to_batch([odd, _episode("a/1", _ENDED, [2.0])])
    assert batch.mask == [False, True]
    assert math.isnan(batch.returns[0])
    assert batch.returns[1] == 2.0
    assert batch.masked == {"return is not finite": 1}


@pytest.mark.parametrize("reasons", ["max_steps", ["max-steps"], ["agent", 3]])
def test_reasons_are_checked(reasons: Any) -> None:
    """A text would be an iterable of letters, and mask nothing."""
    with pytest.raises(LocalProtocolError, match="expected mask_truncated as a list"):
        to_batch([_episode("a/0", _ENDED, [1.0])], mask_truncated=reasons)
