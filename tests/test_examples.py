"""Every example runs by itself and does what it says."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from openenv_async import SessionLost
from openenv_async.client import Failure
from tests.sources import ROOT

EXAMPLES = ROOT / "examples"

OUTPUT = {
    "echo.py": "hello 0.5",
    "echo_sync.py": "hello 0.5",
    "echo_batch.py": "320 steps",
    "guess.py": "41 found",
}
"""A part of what each prints."""


def _run(name: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", OUTPUT)
def test_example_runs(name: str, tmp_path: Path) -> None:
    """It runs anywhere, without arguments, and prints what is expected."""
    assert OUTPUT[name] in _run(name, cwd=tmp_path)


def test_every_example_is_run() -> None:
    """No example is forgotten here."""
    others = {"cartpole_batch.py", "coding_humaneval.py", "show_episode.py"}
    others |= {"learn_cartpole.py"}  # tests/test_learning.py
    others |= {"cartpole_policy.py"}  # below
    assert {path.name for path in EXAMPLES.glob("*.py")} == OUTPUT.keys() | others


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What a small demo prints, and the episodes that it records."""
    folder = tmp_path_factory.mktemp("demo")
    output = _run("cartpole_batch.py", "--sessions", "24", "--seed", "5", cwd=folder)
    (path,) = folder.glob("runs/demo-*/episodes.jsonl")
    assert str(path.relative_to(folder)) in output
    return output, [json.loads(line) for line in path.read_text().splitlines()]


def test_demo_plays_every_session_to_its_end(
    demo: tuple[str, list[dict[str, Any]]],
) -> None:
    """Each seed has one episode, complete, and the summary counts them."""
    output, episodes = demo
    assert sorted(episode["seed"] for episode in episodes) == list(range(5, 29))
    for episode in episodes:
        steps = episode["steps"]
        assert episode["terminated"] or episode["truncated"]
        assert episode["failure"] is None
        assert episode["return"] == sum(episode["rewards"]) == steps
        assert len(episode["actions"]) == len(episode["step_ms"]) == steps
        assert len(episode["observations"]) == steps + 1
        assert episode["timing_ms"]["environment"] > 0
    total = sum(episode["steps"] for episode in episodes)
    assert f"{total:,} in" in output
    assert "policy" in output


def test_demo_records_what_happened(demo: tuple[str, list[dict[str, Any]]]) -> None:
    """Recorded actions, played again, give the recorded observations."""
    _, episodes = demo
    env = gymnasium.make("CartPole-v1", disable_env_checker=True)
    for episode in episodes[:3]:
        seen = [env.reset(seed=episode["seed"])[0]]
        seen += [env.step(action)[0] for action in episode["actions"]]
        recorded = np.array(episode["observations"], np.float32)
        np.testing.assert_array_equal(recorded, seen)
    env.close()


def test_demo_shows_an_episode(tmp_path: Path) -> None:
    """The command that the demo prints shows the episode."""
    arguments = ("--sessions", "2", "--runs", str(tmp_path))
    output = _run("cartpole_batch.py", *arguments, cwd=tmp_path)
    (path,) = tmp_path.glob("demo-*/episodes.jsonl")
    assert f"show_episode.py {path} 0" in output
    assert "terminated: " in _run("show_episode.py", str(path), "1", cwd=tmp_path)


def test_demo_never_counts_a_failure_as_a_reward() -> None:
    """A failed session has a kind of failure in the summary, and no return."""
    module = _load("cartpole_batch")
    file = io.BytesIO()
    episodes = module.Episodes([7], file)
    going, seen = episodes.take([0], [Failure(SessionLost("it is gone"))])
    assert going == []
    assert len(seen) == 0
    (line,) = file.getvalue().splitlines()
    episode = json.loads(line)
    assert episode["return"] is None
    assert episode["rewards"] == []
    assert episode["failure"]["code"] == "session_lost"
    assert episode["failure"]["executed"] == "unknown"
    assert episodes.returns == []
    assert dict(episodes.failures) == {"SessionLost (session_lost)": 1}


def test_the_policy_of_the_demo_balances(tmp_path: Path) -> None:
    """`make demo` plays with it: far longer than at random, and alike every time."""
    returns = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        command = [sys.executable, "-m", "openenv_async.cli", "rollout"]
        command += ["gymnasium_env?id=CartPole-v1", "--tasks", "8", "--json"]
        command += ["--policy", "examples.cartpole_policy:Balance", "--out"]
        done = subprocess.run(
            [*command, str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        result = json.loads(done.stdout)
        assert result["outcomes"].keys() <= {"terminated", "truncated: environment"}
        returns.append(result["mean_return"])
    assert returns[0] == returns[1] > 60
