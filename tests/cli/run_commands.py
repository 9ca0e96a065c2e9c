"""Runs the command in a process of its own, as a shell does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chaos.processes import ROOT

__all__ = ["ENVIRONMENT", "actions_file", "run_command", "run_json"]

ENVIRONMENT = {"NO_COLOR": "1", "COLUMNS": "100"}


def run_command(
    *arguments: str, status: int = 0, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, which has to have that status."""
    done = subprocess.run(
        [sys.executable, "-m", "openenv_async.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def run_json(*arguments: str, status: int = 0) -> Any:
    """The same with --json; returns what it printed."""
    return json.loads(run_command(*arguments, "--json", status=status).stdout)


def actions_file(folder: Path, *actions: dict[str, Any]) -> str:
    """Write actions to a file; returns the name of a policy that performs them."""
    path = folder / "actions.jsonl"
    path.write_text("".join(json.dumps(action) + "\n" for action in actions))
    return f"scripted:{path}"
