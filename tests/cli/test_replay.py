"""`openenv-async replay` reports the first difference, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from openenv_async.rollout.runs import open_run
from openenv_async.scaffold import make_environment
from tests.cli.commands import Outcome
from tests.cli.run_commands import actions_file, run_command
from tests.rollout.runs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_difference_is_reported_with_status_1(tmp_path: Path) -> None:
    """A changed reward is found, with episode, step and both values."""
    policy = actions_file(tmp_path, {"message": "hello"})
    run, changed = tmp_path / "run", tmp_path / "changed"
    arguments = ("--policy", policy, "--tasks", "3", "--max-steps", "4")
    run_command("rollout", "echo_env", *arguments, "--out", str(run))
    opened = open_run(run)
    episodes = list(opened)
    steps = [*episodes[1].steps]
    steps[2] = msgspec.structs.replace(steps[2], reward=7.5)
    episodes[1] = msgspec.structs.replace(episodes[1], steps=steps)
    write_run(changed, episodes)

    there = ("--env", "echo_env", "--environment", "echo_env")
    done = run_command("replay", str(changed), *there, status=1)
    assert f"{episodes[1].id}, step 3: expected reward 7.5, got 0.5" in done.stdout
    assert "3 episodes with 11 steps played again, 1 differ" in done.stdout
    done = run_command("replay", str(changed), *there, "--episode", episodes[0].id)
    assert "1 episodes with 4 steps played again, 0 differ" in done.stdout
    run_command("replay", str(changed), *there, "--ignore", "reward")


def test_a_run_that_does_not_say_where_it_was_played_needs_to_be_told(
    tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    """Without a target in the manifest, --env or --image is needed, and not both."""
    write_run(tmp_path, [])
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text().replace('"target": "made"', '"target": ""')
    manifest.write_text(text)
    outcome = command("replay", str(tmp_path))
    assert outcome.status == 2
    assert "expected --env or --image: the run does not say" in outcome.errors
    outcome = command("replay", str(tmp_path), "--env", "echo_env", "--image", "x")
    assert outcome.status == 2
    assert "and not both" in outcome.errors


@pytest.mark.parametrize("target", ["folder", "module"])
def test_an_environment_that_is_not_installed_is_found_again(
    tmp_path: Path, target: str
) -> None:
    """The run remembers the folder, wherever it is replayed from."""
    folder = make_environment("word-guess", parent=tmp_path)
    arguments = [f"./{folder.name}"]
    if target == "module":
        arguments = ["word_guess.server.environment:WordGuessEnvironment"]
    run = tmp_path / "run"
    play = ("rollout", *arguments, "--tasks", "2", "--max-steps", "3")
    here = folder if target == "module" else tmp_path
    run_command(*play, "--out", str(run), cwd=here)
    assert open_run(run).manifest.environment.source == str(folder)
    done = run_command("replay", str(run))
    assert "2 episodes with" in done.stdout
    folder.rename(tmp_path / "elsewhere")
    done = run_command("replay", str(run), status=2)
    assert f"in {str(folder)!r} as when the run was played" in done.stderr
    run_command("replay", str(run), "--env", str(tmp_path / "elsewhere"))
