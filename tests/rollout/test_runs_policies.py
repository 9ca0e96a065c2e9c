"""Policies by name: what is found, and what is said when it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from openenv_async import LocalProtocolError
from openenv_async.rollout.runs import EnvironmentRecord
from openenv_async.rollout.runs.policies import policy_from_spec

_MODULE = """
class Fine:
    async def act(self, observation, episode): ...
class Broken:
    def __init__(self): raise RuntimeError("no weights")
number = 7
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "policy_module.py").write_text(_MODULE)
    (tmp_path / "policy_broken.py").write_text("1 / 0\n")
    (tmp_path / "policy_wrong.py").write_text("class\n")
    (tmp_path / "policy_folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("policy_module:Broken", r"got RuntimeError: no weights \(at .*module.py:5\)"),
        ("policy_module:number", r"got int"),
        ("policy_module:nothing", r"no attribute 'nothing'"),
        ("policy_nowhere:Fine", r"No module named 'policy_nowhere'"),
        ("policy_broken:Fine", r"ZeroDivisionError: .* \(at .*policy_broken.py:1\)"),
        ("policy_wrong:Fine", r"SyntaxError"),
        ("policy_folder:Fine", r"is a folder without `__init__.py`: \['.*folder'\]"),
    ],
)
def test_what_is_no_policy_is_said_in_one_error(
    modules: Path, spec: str, text: str
) -> None:
    """Whatever goes wrong in somebody's module is a misuse that names the place."""
    with pytest.raises(LocalProtocolError, match=text):
        policy_from_spec(spec, EnvironmentRecord(name="made"))


def test_a_class_is_made_an_object_of(modules: Path) -> None:
    """Named on the command line, a class is called without arguments."""
    policy = policy_from_spec("policy_module:Fine", EnvironmentRecord(name="made"))
    assert type(policy) is sys.modules["policy_module"].Fine
