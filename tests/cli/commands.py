"""Runs commands in this process, as their users would in a shell."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from openenv_async.cli import main

__all__ = ["Outcome", "run_command"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    output: str
    errors: str


def run_command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> Outcome:
    """Run `openenv-async` with arguments, in a wide terminal that is none."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "argv", ["openenv-async", *arguments])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
        # Commands that just return end in this way, too.
        raise SystemExit(0)
    output, errors = capsys.readouterr()
    code = ended.value.code
    return Outcome(code if isinstance(code, int) else int(bool(code)), output, errors)
