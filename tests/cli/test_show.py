"""`openenv-async show` tells what a run holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.cli.commands import Outcome
from tests.rollout.runs import make_episode, write_run

Command = Callable[..., Outcome]


def test_a_run_is_shown_in_tables(tmp_path: Path, command: Command) -> None:
    """Outcomes, distributions and a histogram of the returns."""
    write_run(tmp_path, [make_episode(number, length=number) for number in range(30)])
    shown = command("show", str(tmp_path)).output
    assert re.search(r"environment\s+made", shown)
    assert re.search(r"return\s+30\s+7.25\s", shown)
    assert "0 to 1.45" in shown
    assert "environment" in shown.splitlines()[-1]
    with_json = json.loads(command("show", str(tmp_path), "--json").output)
    assert with_json["manifest"]["environment"]["name"] == "made"
    assert with_json["summary"]["returns"]["mean"] == 7.25


def test_an_episode_is_shown_step_by_step(tmp_path: Path, command: Command) -> None:
    """Each step with action, observation and reward; as JSON with everything."""
    write_run(tmp_path, [make_episode(3, text="x" * 100)])
    shown = command("show", str(tmp_path), "--episode", "1/1").output
    assert re.search(r'^\s*3\s+\{"move":3\}\s+\{"step":3.*\.\.\.\s+1.5', shown, re.M)
    assert "x" * 100 not in shown
    full = command("show", str(tmp_path), "--episode", "1/1", "--full").output
    assert "x" * 100 in full
    found = json.loads(
        command("show", str(tmp_path), "--episode", "1/1", "--json").output
    )
    assert found["steps"][2]["extras"]["token_ids"] == [3, 7]
    assert found["steps"][2]["observation"]["x"]["dtype"] == "<f4"
    missing = command("show", str(tmp_path), "--episode", "9/9")
    assert missing.status == 2
    assert "got '9/9'" in missing.errors
