"""Whatever an episode holds comes back from both formats as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openenv_async import Array, LocalProtocolError, RunDamaged
from openenv_async.client import GenericObservation
from openenv_async.rollout.episodes import (
    Attempt,
    EnvironmentFailure,
    Episode,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    Terminated,
    Truncated,
)
from openenv_async.rollout.runs import EpisodeFormat, open_run
from openenv_async.rollout.runs.rows import JsonRow, pack, unpack
from tests.rollout.runs import (
    FORMATS,
    any_episode,
    exact,
    floats,
    make_episode,
    write_run,
)

formats = pytest.mark.parametrize("episode_format", FORMATS)


def _packed_and_back(episode: Episode[Any, Any]) -> Episode[Any, Any]:
    packed = pack(episode, file="a", offset=0)
    data = memoryview(b"".join(packed.buffers))
    row = msgspec.json.decode(packed.line, type=JsonRow)

    def load(index: int) -> memoryview:
        place = row.arrays[index]
        return data[place.offset : place.offset + place.nbytes]

    return unpack(row, row.arrays, load)


@given(any_episode())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_any_episode_comes_back(episode: Episode[Any, Any]) -> None:
    """An episode is the same after it was a row."""
    assert exact(_packed_and_back(episode)) == exact(episode)


@formats
@given(episodes=st.lists(any_episode(), max_size=5, unique_by=lambda e: e.id))
@example(episodes=[])
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@pytest.mark.timeout(60)
def test_any_run_comes_back(
    episodes: list[Episode[Any, Any]], episode_format: EpisodeFormat
) -> None:
    """Episodes of any kind are the same after they were files."""
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), episodes, episode_format=episode_format)
        run = open_run(folder)
        found = {episode.id: exact(episode) for episode in run}
        assert found == {episode.id: exact(episode) for episode in episodes}
        for episode in episodes:
            assert exact(run.episode(episode.id)) == exact(episode)
        summaries = {summary.id: summary for summary in run.summaries()}
        assert {id: row.length for id, row in summaries.items()} == {
            episode.id: episode.length for episode in episodes
        }


@formats
@pytest.mark.parametrize(
    "outcome",
    [
        Terminated(),
        Truncated(reason="max_steps"),
        EnvironmentFailure(exception="E", message="m", traceback="t", executed="yes"),
        PolicyFailure(exception="P", message="m", traceback="t"),
        InfrastructureFailure(
            kind="session_lost", executed="unknown", retryable=True, message="m"
        ),
    ],
)
def test_every_outcome_comes_back(
    tmp_path: Path, outcome: Outcome, episode_format: EpisodeFormat
) -> None:
    """Each kind of outcome is there with its facts, and a failure without a return."""
    episode = make_episode(1, outcome=outcome)
    episode = msgspec.structs.replace(
        episode, earlier_attempts=[Attempt(outcome=outcome, length=2)]
    )
    write_run(tmp_path, [episode], episode_format=episode_format)
    (found,) = open_run(tmp_path)
    assert exact(found) == exact(episode)
    assert (found.return_ is None) is episode.failed
    (summary,) = open_run(tmp_path).summaries()
    assert summary.status == msgspec.to_builtins(outcome)["status"]


def test_observations_have_their_common_fields() -> None:
    """What comes back has `reward` and `done`, whatever the environment."""
    episode = _packed_and_back(make_episode(0, length=1))
    observation = episode.steps[0].observation
    assert isinstance(observation, GenericObservation)
    assert observation["x"] == floats(1, 0)


def test_numpy_values_are_written() -> None:
    """NumPy's arrays come back as `Array`, its scalars as plain numbers."""
    np = pytest.importorskip("numpy")
    made = make_episode(0)
    extras = {"values": np.arange(3, dtype="<i2"), "scalar": np.float32(0.5)}
    episode = _packed_and_back(msgspec.structs.replace(made, extras=extras))
    assert episode.extras == {
        "values": Array.of(np.arange(3, dtype="<i2")),
        "scalar": 0.5,
    }


@pytest.mark.parametrize("value", [object(), {1: {2: object()}}, "\ud800", {(): 1}])
def test_what_cannot_be_written_is_refused(value: object) -> None:
    """A value without an encoding is an error that names the episode."""
    episode = msgspec.structs.replace(make_episode(3), extras={"value": value})
    with pytest.raises(LocalProtocolError, match="in episode '1/1'"):
        pack(episode, file="a", offset=0)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "other"},
        {"extras": "{"},
        {"extras": '{"x":{"$array":9}}'},
        {"extras": '{"x":{"$float":"x"}}'},
        {"task_spec": '{"priority":"x"}'},
        {"nonfinite": '{"1":"x"}'},
    ],
)
def test_a_changed_row_is_damaged(change: dict[str, str]) -> None:
    """A row that `pack` did not make is an error that names the episode."""
    packed = pack(make_episode(3, arrays=False), file="a", offset=0)
    row = msgspec.json.decode(packed.line, type=JsonRow)
    with pytest.raises(RunDamaged, match="episode '1/1'"):
        unpack(msgspec.structs.replace(row, **change), [], lambda _: b"")
