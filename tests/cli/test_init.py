"""`openenv-async init` makes a package and says what to do with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Outcome

Command = Callable[..., Outcome]


def test_a_package_is_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the working directory; the next commands name it."""
    monkeypatch.chdir(tmp_path)
    outcome = command("init", "word-guess")
    assert outcome.status == 0, outcome
    assert (tmp_path / "word_guess" / "pyproject.toml").is_file()
    for text in ("pip install -e 'word_guess", "validate word_guess", "cd word_guess"):
        assert text in outcome.output


def test_a_package_is_made_elsewhere(command: Command, tmp_path: Path) -> None:
    """--path says where; it is made if it is not there."""
    outcome = command("init", "guess", "--path", str(tmp_path / "new"))
    assert outcome.status == 0, outcome
    assert (tmp_path / "new" / "guess" / "guess" / "models.py").is_file()


def test_a_second_one_is_refused(command: Command, tmp_path: Path) -> None:
    """Nothing is overwritten; the status is that of wrong usage."""
    assert command("init", "guess", "--path", str(tmp_path)).status == 0
    changed = tmp_path / "guess" / "README.md"
    changed.write_text("mine")
    outcome = command("init", "guess", "--path", str(tmp_path))
    assert (outcome.status, changed.read_text()) == (2, "mine")
    assert "there already" in outcome.errors


@pytest.mark.parametrize("name", ["", "1st", "a/b", "class"])
def test_impossible_names_are_refused(
    command: Command, tmp_path: Path, name: str
) -> None:
    """The name and the reason are told, and nothing is made."""
    outcome = command("init", name, "--path", str(tmp_path))
    assert outcome.status == 2
    assert f"got {name!r}: " in outcome.errors
    assert not list(tmp_path.iterdir())
