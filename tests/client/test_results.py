"""Values that calls return: where time went, untyped observations, pickling."""

from __future__ import annotations

import pickle

import pytest

from openenv_async import (
    Array,
    AutoresetMode,
    EnvironmentFailed,
    Failure,
    GenericObservation,
    Observation,
    OpenEnvError,
    Ready,
    StepInterrupted,
    StepResult,
    Timing,
    errors,
)
from openenv_async.client.results import revive


def test_what_nobody_accounts_for_is_the_wire() -> None:
    """`wire_ns` is the rest of the round trip, and never negative."""
    assert Timing(100, 10, 20, 30).wire_ns == 40
    assert Timing(10, 10, 20, 30).wire_ns == 0


def test_a_result_shows_what_its_observation_says() -> None:
    """Reward, ends and info are the observation's."""
    observation = Observation(reward=2.0, truncated=True, metadata={"a": 1})
    result = StepResult(observation, 5, 1, 2, 3)
    assert (result.reward, result.terminated, result.truncated) == (2.0, False, True)
    assert result.done
    assert result.info == {"a": 1}
    assert result.timing == Timing(5, 1, 2, 3)
    assert (result.is_reset, result.final) == (False, None)


@pytest.mark.parametrize(
    ("fields", "reward", "terminated", "truncated", "metadata"),
    [
        ({}, None, False, False, {}),
        ({"reward": 1.5, "terminated": True}, 1.5, True, False, {}),
        ({"truncated": True, "metadata": {"k": "v"}}, None, False, True, {"k": "v"}),
        ({"metadata": None}, None, False, False, {}),
    ],
)
def test_a_generic_observation_has_the_common_fields(
    fields: dict[str, object],
    reward: float | None,
    terminated: bool,
    truncated: bool,
    metadata: dict[str, object],
) -> None:
    """What every observation has is a property, present on the wire or not."""
    observation = GenericObservation(fields)
    assert observation.reward == reward
    assert observation.terminated is terminated
    assert observation.truncated is truncated
    assert observation.done is (terminated or truncated)
    assert observation.metadata == metadata
    assert StepResult(observation).done is observation.done


def test_modes_are_named_as_in_gymnasium() -> None:
    """The names are those of `gymnasium.vector.AutoresetMode`."""
    gymnasium = pytest.importorskip("gymnasium.vector")
    ours = {mode.name: mode.value for mode in AutoresetMode}
    assert ours == {
        mode.name: mode.value for mode in gymnasium.AutoresetMode.__members__.values()
    }


def test_a_failure_says_whether_it_was_executed() -> None:
    """`executed` is the error's, and there is no reward."""
    failure = Failure(EnvironmentFailed("broken", executed="yes"))
    assert failure.executed == "yes"
    assert not hasattr(failure, "reward")


def test_ready_counts_its_sessions() -> None:
    """The length of `Ready` is the number of sessions."""
    assert len(Ready([3, 1], [])) == 2


# Untyped arrays


def _wire(data: bytes = b"\0\1") -> dict[str, object]:
    return {"kind": "array", "dtype": "|u1", "shape": [2], "data": data}


def test_arrays_are_revived_at_any_depth() -> None:
    """Maps that describe arrays become `Array`, in maps and lists."""
    array = Array("|u1", (2,), memoryview(b"\0\1"))
    assert revive({"a": [{"b": _wire()}, 1], "c": "d"}) == {
        "a": [{"b": array}, 1],
        "c": "d",
    }


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "array"},
        {**_wire(), "more": 1},
        {"kind": "array", "dtype": 3, "shape": [2], "data": b""},
        {"kind": "array", "dtype": "|u1", "shape": "2", "data": b""},
        {"kind": "dict", "dtype": "|u1", "shape": [2], "data": b""},
    ],
)
def test_maps_that_only_look_like_arrays_stay_maps(value: dict[str, object]) -> None:
    """An environment may use the same words for something else."""
    assert revive(value) == value


# Pickling


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickling(name: str) -> None:
    """Class and attributes are the same on the other side of a process."""
    kind = getattr(errors, name)
    if not (isinstance(kind, type) and issubclass(kind, OpenEnvError)):
        return
    error = kind(
        "broken",
        code="odd",
        executed="yes",
        retryable=True,
        fault="environment",
        detail={"traceback": "line 1", "log": "line 2"},
    )
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
    assert copy.args == error.args


def test_the_result_of_an_interrupted_step_survives_pickling() -> None:
    """What was set on an error later travels, too."""
    error = StepInterrupted("cancelled")
    error.result = StepResult(Observation(reward=1.0))
    assert pickle.loads(pickle.dumps(error)).result.reward == 1.0


def test_results_survive_pickling() -> None:
    """Results and failures can be sent to another process."""
    result = StepResult(Observation(reward=1.0), 1, 2, 3, 4, True)
    assert pickle.loads(pickle.dumps(result)) == result
    failure = pickle.loads(pickle.dumps(Failure(EnvironmentFailed("x"), result)))
    assert isinstance(failure.error, EnvironmentFailed)
    assert failure.final == result
