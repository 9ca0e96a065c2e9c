"""`openenv-async doctor` says what is there, and fails only where it has to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from openenv_async.diagnosis import EXAMINATIONS, Finding
from tests.cli.commands import Outcome

Command = Callable[..., Outcome]


def _answer(monkeypatch: pytest.MonkeyPatch, **answers: Finding) -> None:
    """Let examinations find what a test wants them to."""
    for name in list(EXAMINATIONS):
        finding = answers.get(name, Finding(name=name, status="ok", found="there"))

        async def examine(finding: Finding = finding) -> Finding:
            return finding

        monkeypatch.setitem(EXAMINATIONS, name, examine)


_NO_BROWSER = Finding(
    name="browser", status="missing", found="no [browser]", advice="get one"
)


def test_everything_has_its_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is followed by a way to get it, and does not fail."""
    _answer(monkeypatch, browser=_NO_BROWSER)
    outcome = command("doctor")
    lines = outcome.output.splitlines()
    assert (outcome.status, len(lines)) == (0, len(EXAMINATIONS) + 1)
    place = next(i for i, line in enumerate(lines) if "no [browser]" in line)
    assert lines[place].split()[:2] == ["missing", "browser"]
    assert lines[place + 1].strip() == "-> get one"


def test_what_is_required_fails(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A required thing that is missing is broken, and the status is 1."""
    _answer(monkeypatch, browser=_NO_BROWSER)
    outcome = command("doctor", "--require", "browser")
    assert outcome.status == 1
    assert "broken   browser" in outcome.output


def test_what_is_broken_fails(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken thing fails without being required."""
    _answer(
        monkeypatch,
        sockets=Finding(name="sockets", status="broken", found="no", advice="x"),
    )
    assert command("doctor").status == 1


def test_findings_come_as_json(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--json prints nothing but a list of findings."""
    _answer(monkeypatch, browser=_NO_BROWSER)
    outcome = command("doctor", "--json")
    findings = json.loads(outcome.output)
    assert [finding["name"] for finding in findings] == list(EXAMINATIONS)
    assert {finding["status"] for finding in findings} == {"ok", "missing"}


def test_an_unknown_name_is_wrong_usage(command: Command) -> None:
    """The names that there are are told."""
    outcome = command("doctor", "--require", "motor")
    assert outcome.status == 2
    assert "'engine'" in outcome.errors


def test_this_machine_is_examined(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is faked here: what these tests run on is not broken."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    outcome = command("doctor", "--json")
    by_name = {finding["name"]: finding for finding in json.loads(outcome.output)}
    for name in ("versions", "server", "sockets"):
        assert by_name[name]["status"] == "ok", by_name[name]
    for name in ("browser", "bubblewrap"):
        assert by_name[name]["status"] == "missing"
