"""The demo: what it counts, and that it fails when a broken submission passes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coding_env import CodingObservation
from coding_env.tasks import Task
from openenv_async import Failure, SessionLost, StepResult

_DEMO = Path(__file__).parents[3] / "examples" / "coding_humaneval.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The demo as a module."""
    spec = importlib.util.spec_from_file_location("coding_humaneval", _DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_demo_judges_and_says_what_it_found(tmp_path: Path) -> None:
    """In processes of this machine, a few tasks go as they should."""
    done = subprocess.run(
        [sys.executable, str(_DEMO), "--where", "local", "--tasks", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.count("0 of 3 ") == 14
    assert done.stdout.count(" 3 of 3 ") == 2
    assert "48 submissions judged in" in done.stdout


_TASK = Task(task_id="t/1", prompt="", entry_point="f", tests="")


def _result(*, passed: bool) -> StepResult[CodingObservation]:
    return StepResult(CodingObservation(passed=passed))


def _score(demo: Any, wrong: str = "") -> Any:
    score = demo.Score("cpython", len(demo.VARIANTS))
    for variant in demo.VARIANTS:
        passed = variant.is_right or variant.name == wrong
        score.note(_TASK, variant, _result(passed=passed))
    return score


def test_only_what_is_right_may_pass(demo: Any) -> None:
    """One broken submission that passes makes the run a failure."""
    assert _score(demo).is_as_expected(1)
    for variant in demo.VARIANTS:
        if not variant.is_right:
            assert not _score(demo, variant.name).is_as_expected(1)


def test_too_few_right_ones_are_a_failure(demo: Any) -> None:
    """Real Python passes everything; smolagents may miss four of 164."""
    for interpreter, missing, is_good in (
        ("cpython", 0, True),
        ("cpython", 1, False),
        ("smolagents", 4, True),
        ("smolagents", 5, False),
    ):
        score = demo.Score(interpreter, 164)
        for number in range(164):
            passed = number >= missing
            score.note(_TASK, demo.VARIANTS[-1], _result(passed=passed))
        assert score.is_as_expected(164) is is_good


def test_what_was_lost_is_no_verdict(demo: Any) -> None:
    """A lost session counts neither as passed nor as judged, and fails the run."""
    score = _score(demo)
    score.note(_TASK, demo.VARIANTS[0], Failure(SessionLost("it is gone")))
    assert score.judged.total() == len(demo.VARIANTS)
    assert not score.is_as_expected(1)
    (lost,) = score.lost
    assert lost.startswith("t/1, wrong value: it is gone")


def test_every_kind_of_submission_is_python(demo: Any) -> None:
    """Each variant of each task compiles, so that no syntax error does its work."""
    for task in demo.pick(164):
        for variant in demo.VARIANTS:
            compile(variant.code(task), variant.name, "exec")
