from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.commands import Outcome, run_command


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs `openenv-async` with arguments, in this process."""
    return lambda *arguments: run_command(monkeypatch, capsys, *arguments)
