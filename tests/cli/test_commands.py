"""Commands are listed, completed and found, and imported only when they run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from openenv_async.cli.commands import COMMANDS
from tests.chaos.processes import ROOT
from tests.cli.commands import Outcome

Command = Callable[..., Outcome]


def test_help_lists_every_command(command: Command) -> None:
    """--help has them all, in their order, each with its first sentence."""
    outcome = command("--help")
    assert outcome.status == 0
    places = [outcome.output.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command: Command, name: str) -> None:
    """NAME --help shows usage and options of the command."""
    outcome = command(name, "--help")
    assert outcome.status == 0, outcome
    # Before it stands how this process was started.
    assert f" {name} [OPTIONS]" in outcome.output


def test_an_unknown_command_is_wrong_usage(command: Command) -> None:
    """It is named, and the status is 2."""
    outcome = command("nonsense")
    assert outcome.status == 2
    assert "No such command 'nonsense'" in outcome.errors


_MAIN = """
import sys
from openenv_async.cli import main
sys.argv = ["openenv-async"]
main()
"""


def _complete(words: str) -> list[str]:
    """What bash would offer for the last word."""
    done = subprocess.run(
        [sys.executable, "-c", _MAIN],
        cwd=ROOT,
        env={
            **os.environ,
            "_OPENENV_ASYNC_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("openenv-async va", ["validate"]),
        ("openenv-async b", ["bench", "build"]),
        ("openenv-async validate --js", ["--json"]),
        ("openenv-async serve --exec", ["--execution"]),
    ],
)
def test_a_shell_completes(words: str, offered: list[str]) -> None:
    """Names of commands and of their options are completed."""
    assert _complete(words) == offered


_IMPORTS = """
import sys
from openenv_async.cli.commands import LazyGroup
from openenv_async.cli.main import app
import typer.main
typer.main.get_command(app).get_command(None, "serve")
names = "rich", "aiodocker", "openenv_async.client"
print([name for name in names if name in sys.modules])
"""


def test_serving_imports_no_other_command() -> None:
    """What other commands need does not delay the start of a server."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=15,
        check=True,
    )
    assert done.stdout.strip() == "[]"
