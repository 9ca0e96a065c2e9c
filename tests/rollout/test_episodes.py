"""Episodes as data: they encode as they are, and a failure is never a number."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openenv_async import Array
from openenv_async.rollout import (
    Attempt,
    EnvironmentFailure,
    Episode,
    EpisodeStep,
    EpisodeTiming,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    StepTiming,
    Task,
    Terminated,
    Truncated,
)
from openenv_async.rollout.episodes import has_failed, outcome_label, return_of

_OUTCOMES: list[tuple[Outcome, str, bool]] = [
    (Terminated(), "terminated", False),
    (Truncated(reason="max_steps"), "truncated: max_steps", False),
    (
        EnvironmentFailure(exception="ValueError", message="x"),
        "environment_failed: ValueError",
        True,
    ),
    (
        PolicyFailure(exception="KeyError", message="x"),
        "policy_failed: KeyError",
        True,
    ),
    (
        InfrastructureFailure(
            kind="session_lost", executed="unknown", retryable=False, message="x"
        ),
        "infrastructure_failed: session_lost",
        True,
    ),
]
every_outcome = pytest.mark.parametrize(("outcome", "label", "failed"), _OUTCOMES)


def _episode(outcome: Outcome) -> Episode[dict[str, Any], dict[str, Any]]:
    return Episode(
        id="a/1",
        environment="e",
        task=Task(id="a", seed=3, options={"level": 1}, metadata={"m": [1]}),
        seed=4,
        group="a",
        group_index=1,
        group_size=2,
        initial_observation={"pixels": [1, 2]},
        steps=[
            EpisodeStep(
                {"move": 1},
                {"place": 1},
                0.5,
                extras={"logprobs": [-0.1], "token_ids": [7]},
                timing=StepTiming(1, 2, 9, 3, 4, 1),
            )
        ],
        outcome=outcome,
        return_=return_of(outcome, [0.5]),
        earlier_attempts=[Attempt(outcome=_OUTCOMES[4][0], length=2)],
        timing=EpisodeTiming(total_ns=10, policy_ns=1, wire_ns=2),
    )


@every_outcome
@pytest.mark.parametrize("module", [msgspec.json, msgspec.msgpack])
def test_an_episode_survives_encoding(
    module: Any, outcome: Outcome, label: str, failed: bool
) -> None:
    """Every field and every kind of outcome comes back."""
    episode = _episode(outcome)
    kind = Episode[dict[str, Any], dict[str, Any]]
    assert module.decode(module.encode(episode), type=kind) == episode


@every_outcome
def test_only_what_ended_has_a_return(
    outcome: Outcome, label: str, failed: bool
) -> None:
    """A failure has none, which is no zero."""
    assert outcome_label(outcome) == label
    assert has_failed(outcome) is failed
    assert return_of(outcome, [1.0, None, 2.0]) == (None if failed else 3.0)
    assert return_of(outcome, [None]) is None
    assert return_of(outcome, []) is None
    assert _episode(outcome).failed is failed


def test_arrays_travel_through() -> None:
    """An array is the same behind msgpack and JSON."""
    array = Array("<f4", (2,), memoryview(b"\x00" * 8))
    step: EpisodeStep[Any, Any] = EpisodeStep({}, array, None, extras={"hidden": array})
    kind = EpisodeStep[dict[str, Any], Array]
    for module in (msgspec.msgpack, msgspec.json):
        assert module.decode(module.encode(step), type=kind).observation == array


def test_derived_facts() -> None:
    """Length and attempt follow from what is recorded."""
    episode = _episode(Terminated())
    assert episode.length == 1
    assert episode.attempt == 2
    assert episode.steps[0].timing.wire_ns == 9 - 3 - 4 - 1
