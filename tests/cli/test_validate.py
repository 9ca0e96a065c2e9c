"""`openenv-async validate` tells what an environment keeps, in words and in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openenv_async.conformance import CHECKS
from openenv_async.scaffold import make_environment
from tests.chaos.processes import running, serve_arguments, short_folder
from tests.cli.commands import Outcome

_SOUND = "tests.conformance.broken:Sound"
_BROKEN = "tests.conformance.broken:_Random"
Command = Callable[..., Outcome]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    with short_folder() as folder:
        yield folder


def test_a_sound_environment_passes(command: Command) -> None:
    """Each check has its line, the last line sums up, and the status is 0."""
    outcome = command("validate", _SOUND)
    lines = outcome.output.splitlines()
    assert outcome.status == 0, outcome
    assert lines[-1] == f"{len(CHECKS)} passed, 0 failed, 0 not checked"
    for line, name in zip(lines, CHECKS, strict=False):
        assert line.startswith("passed")
        assert name in line


def test_a_broken_environment_fails(command: Command) -> None:
    """The line of the failed check says why, and the status is 1."""
    outcome = command("validate", _BROKEN)
    assert outcome.status == 1
    (line,) = [
        line for line in outcome.output.splitlines() if line.startswith("failed")
    ]
    assert "determinism by seed" in line
    assert "$.luck" in line
    assert "not checked" in outcome.output.splitlines()[-1]


def test_results_come_as_json(command: Command) -> None:
    """--json prints nothing but a list of results."""
    outcome = command("validate", _BROKEN, "--json")
    checks = json.loads(outcome.output)
    assert [check["name"] for check in checks] == list(CHECKS)
    assert [check["name"] for check in checks if not check["passed"]] == [
        "determinism by seed"
    ]
    assert outcome.status == 1


def test_some_checks_can_be_chosen(command: Command) -> None:
    """--only makes these alone; an unknown one is wrong usage."""
    outcome = command("validate", _BROKEN, "--only", "schema", "--only", "state")
    assert (outcome.status, len(outcome.output.splitlines())) == (0, 3)
    outcome = command("validate", _SOUND, "--only", "beauty")
    assert outcome.status == 2
    assert "'beauty'" in outcome.errors


def test_what_may_differ_is_ignored(command: Command) -> None:
    """--ignore leaves a path out."""
    assert command("validate", _BROKEN, "--ignore", "$.luck").status == 0


def test_actions_come_from_a_file(command: Command, tmp_path: Path) -> None:
    """--actions plays them; a line that is no JSON is wrong usage."""
    file = tmp_path / "actions"
    file.write_text('{"by": 1}\n\n{"by": 2}\n')
    arguments = ("--only", "actions", "--steps", "4", "--options", "{}")
    outcome = command("validate", _SOUND, "--actions", str(file), *arguments)
    assert "4 of 4 accepted" in outcome.output
    file.write_text("by 1\n")
    outcome = command("validate", _SOUND, "--actions", str(file))
    assert outcome.status == 2
    assert "expected JSON as a line of" in outcome.errors


def test_a_folder_is_checked_as_it_is(command: Command, tmp_path: Path) -> None:
    """A new package passes before anybody installs it."""
    folder = make_environment("checked-here", parent=tmp_path)
    outcome = command("validate", str(folder))
    assert outcome.status == 0, outcome
    assert "12 passed, 0 failed, 0 not checked" in outcome.output


def test_a_running_server_is_checked(command: Command, folder: Path) -> None:
    """An address works like a name, with its token."""
    arguments = serve_arguments(_SOUND, "--port", "0", "--token", "sesame")
    with running(arguments, folder) as server:
        url = server.line("serving ").partition(" at ")[2]
        named = (url, "--environment", "walk")
        outcome = command("validate", *named, "--token", "sesame")
        assert outcome.status == 0, outcome
        outcome = command("validate", url, "--token", "wrong")
        assert (outcome.status, "token" in outcome.errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["no_such_package"], 2, "no_such_package"),
        (["ws://127.0.0.1:1"], 1, "ws://127.0.0.1:1"),
        ([_SOUND, "--options", "{"], 2, "expected JSON as --options"),
        ([_SOUND, "--actions", "/nowhere"], 2, "/nowhere"),
        ([_SOUND, "--steps", "0"], 2, "--steps"),
        ([], 2, "ENV_OR_URL"),
    ],
)
def test_wrong_usage_is_told(
    command: Command, arguments: list[str], status: int, text: str
) -> None:
    """What is wrong is named, without a traceback."""
    outcome = command("validate", *arguments)
    assert (outcome.status, outcome.output) == (status, "")
    assert text in outcome.errors
    assert "Traceback" not in outcome.errors
