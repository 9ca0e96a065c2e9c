"""`openenv-async bench` measures an environment, and prints a table or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from openenv_async.scaffold import make_environment
from tests.cli.commands import Outcome

Command = Callable[..., Outcome]
_QUICK = ("--seconds", "0.2", "--sessions", "2")


def test_a_table_is_printed(command: Command) -> None:
    """Each way of stepping has its line, with numbers."""
    outcome = command("bench", "echo_env", *_QUICK)
    assert outcome.status == 0, outcome
    rows = [line.split() for line in outcome.output.splitlines()]
    ways = [row[:2] for row in rows if row and row[0] in ("awaited", "batched")]
    assert ways == [["awaited", "1"], ["awaited", "2"], ["batched", "2"]]
    assert "echo_env, runs inline" in outcome.output


def test_results_come_as_json(command: Command, tmp_path: Path) -> None:
    """--json prints the report alone; a folder is served as it is."""
    folder = make_environment("benched-here", parent=tmp_path)
    outcome = command("bench", str(folder), "--json", *_QUICK)
    assert outcome.status == 0, outcome
    report = json.loads(outcome.output)
    assert report["environment"] == "benched_here"
    assert all(row["steps"] > 0 and not row["failures"] for row in report["rows"])


def test_no_step_at_all_is_a_failure(command: Command) -> None:
    """An environment that answers nothing ends with status 1, after the table."""
    outcome = command("bench", "tests.test_benchmark:_Failing", *_QUICK)
    assert outcome.status == 1
    assert "EnvironmentFailed" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["ws://127.0.0.1:1"], 1, "ws://127.0.0.1:1"),
        (["no_such_package"], 2, "no_such_package"),
        (["echo_env", "--sessions", "0"], 2, "--sessions"),
        ([], 2, "URL_OR_ENV"),
    ],
)
def test_wrong_usage_is_told(
    command: Command, arguments: list[str], status: int, text: str
) -> None:
    """What is wrong is named, without a traceback."""
    outcome = command("bench", *arguments)
    assert (outcome.status, outcome.output) == (status, "")
    assert text in outcome.errors
