"""Other tools open the episodes of a run, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from openenv_async.rollout.episodes import Episode, InfrastructureFailure
from openenv_async.rollout.runs import EpisodeFormat, open_run
from tests.chaos.processes import ROOT
from tests.rollout.runs import FORMATS, make_episode, write_run

_LOST = InfrastructureFailure(
    kind="session_lost", executed="unknown", retryable=True, message="gone"
)


def _episodes() -> list[Episode[Any, Any]]:
    """Many failures before the first success: what hides the types of columns."""
    failed = [make_episode(number, length=0, outcome=_LOST) for number in range(120)]
    played = [make_episode(number, length=number % 3) for number in range(120, 200)]
    return [*failed, *played]


def _expected(episode: Episode[Any, Any]) -> dict[str, Any]:
    failed = episode.outcome is _LOST
    return {
        "id": episode.id,
        "return": episode.return_,
        "status": "infrastructure_failed" if failed else "terminated",
        "failure": "session_lost" if failed else "",
        "rewards": [step.reward for step in episode.steps],
        "token_ids": [step.extras["token_ids"] for step in episode.steps],
        "actions": [step.action for step in episode.steps],
        "policy_ns": [step.timing.policy_ns for step in episode.steps],
    }


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("episode_format", FORMATS)
def test_other_tools_see_every_episode(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """pandas, Polars and datasets see the same episodes with the same types."""
    run = tmp_path / "run"
    episodes = _episodes()
    write_run(run, episodes, episode_format=episode_format, flush=7)
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.runs_tools", str(run), episode_format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {episode.id: _expected(episode) for episode in episodes}
    for tool, rows in json.loads(done.stdout).items():
        assert len(rows) == len(episodes), tool
        assert {row["id"]: row for row in rows} == expected, tool


def test_arrays_in_parquet_are_binary(tmp_path: Path) -> None:
    """An array is a row of dtype, shape and bytes, whatever the tool."""
    write_run(tmp_path, [make_episode(0, length=1)], episode_format="parquet")
    (path,) = tmp_path.glob("*.parquet")
    table = pyarrow.parquet.read_table(path)
    assert table.schema.metadata[b"openenv_async.format_version"] == b"1"
    (arrays,) = table.column("arrays").to_pylist()
    first = {"dtype": "<f4", "shape": [2], "data": b"\0" * 8}
    assert arrays[0] == first
    assert len(arrays) == 2


def test_arrays_beside_json_lines_are_binary(tmp_path: Path) -> None:
    """A file of arrays can be mapped and viewed with NumPy alone."""
    numpy = pytest.importorskip("numpy")
    write_run(tmp_path, [make_episode(3, length=2)])
    view = numpy.memmap(tmp_path / "arrays-00000.bin", dtype="u1", mode="r")
    (episode,) = open_run(tmp_path)
    places = [0, 8, 16]
    for place, step in zip(places[1:], episode.steps, strict=True):
        stored = view[place : place + 8].view("<f4")
        assert stored.tolist() == step.observation["x"].numpy().tolist()
    del view
