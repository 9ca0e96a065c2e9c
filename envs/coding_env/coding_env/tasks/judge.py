"""Decides whether a submission passes hidden tests.

Tests and submission run in two workers that share nothing. The tests' worker asks for
each call of the function, and this module passes it on to the submission's worker and
the answer back, both as text that it never reads:

    tests' worker --ask(arguments)--> judge --call(arguments)--> submission's worker
                  <-----value------         <------value--------

So nothing that the submission does in its own process (patching built-ins, looking at
frames, exiting, lying about equality) touches the tests. What it can learn is what any
function is told: its arguments. `judge_code` therefore throws its worker away, so that
a later step cannot ask it what it was called with.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from typing import Protocol, final

import anyio
import msgspec

from ..interpreters.base import ErrorInfo
from ..interpreters.judge import lost_reply, raised_reply, value_reply
from .base import Task

__all__ = ["JudgeFault", "Verdict", "Worker", "WorkerPool", "judge", "judge_code"]

_EXITS = frozenset({"SystemExit", "KeyboardInterrupt", "GeneratorExit"})
_MOST_OF_A_NAME = 100

_GRACE = 1.0
"""Seconds that the tests have beyond the submission: who is late is then known."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a submission passed."""

    passed: bool
    message: str
    """For the agent. It says nothing about the tests."""


class JudgeFault(Exception):
    """The tests themselves are wrong; no submission's fault."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason

    def __str__(self) -> str:
        return f"the tests of task {self.task_id!r} do not run: {self.reason}"


class _Execution(Protocol):
    @property
    def value(self) -> str | None: ...
    @property
    def error(self) -> ErrorInfo | None: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def killed(self) -> str | None: ...


class Worker(Protocol):
    """A process that runs code: `coding_env.sandbox.Sandbox`."""

    async def run(
        self,
        code: str,
        *,
        timeout: float,
        on_ask: Callable[[str], Awaitable[str]] | None = None,
    ) -> _Execution:
        """Run code, and answer what it asks meanwhile."""
        ...

    async def call(self, name: str, arguments: str, *, timeout: float) -> _Execution:
        """Call a function that the code defined."""
        ...

    async def aclose(self) -> None:
        """End the process."""
        ...


class WorkerPool(Protocol):
    """Starts workers: `coding_env.sandbox.SandboxPool`."""

    async def start(self, kind: str) -> Worker:
        """Start a fresh worker."""
        ...


async def judge_code(
    task: Task, code: str, pool: WorkerPool, *, kind: str, timeout: float
) -> Verdict:
    """Judge code in a worker of its own, which sees the tests' arguments and is gone.

    What is judged is this code alone, after the task's setup: not what earlier code
    defined in another worker.

    Cancelling ends both workers.

    Args:
        task: Whose tests to run.
        code: The submission.
        pool: Starts workers.
        kind: Of the worker that runs the submission.
        timeout: Seconds for all of it.

    Raises:
        JudgeFault: The tests themselves do not run.
    """
    deadline = anyio.current_time() + timeout
    worker = await pool.start(kind)
    try:
        for part in filter(None, (task.setup, code)):
            left = deadline - anyio.current_time()
            execution = await worker.run(part, timeout=max(left, 0))
            if execution.killed is not None:
                return _no(_ended(execution.killed))
            if execution.error is not None:
                return _no("the code raised an error, so it was not tested")
        left = deadline - anyio.current_time()
        return await judge(task, worker, pool, timeout=max(left, 0))
    finally:
        await worker.aclose()


async def judge(
    task: Task, sandbox: Worker, pool: WorkerPool, timeout: float
) -> Verdict:
    """Judge what a worker's code has defined.

    The worker's code learns the tests' arguments: discard the worker, or let the agent
    see nothing that it does later. Cancelling ends the tests' worker.

    Args:
        task: Whose tests to run.
        sandbox: Has run the submission. It may be gone afterwards.
        pool: Starts the tests' worker.
        timeout: Seconds for all of it.

    Raises:
        JudgeFault: The tests themselves do not run.
    """
    line = _Line(task, sandbox, anyio.current_time() + timeout)
    tests = await pool.start("judge")
    try:
        execution = await tests.run(
            task.tests, timeout=timeout + _GRACE, on_ask=line.answer
        )
    finally:
        await tests.aclose()
    return _decide(task, line, execution)


@final
class _Line:
    """Passes calls on to the submission, and remembers what kept it from passing."""

    def __init__(self, task: Task, sandbox: Worker, deadline: float) -> None:
        self._name = task.entry_point
        self._sandbox = sandbox
        self._deadline = deadline
        self.asked = 0
        self.answered = 0
        self.trouble: str | None = None
        """What keeps it from passing."""
        self.raised: str | None = None
        """What the last call raised, which tests may expect."""

    async def answer(self, arguments: str) -> str:
        self.asked += 1
        left = self._deadline - anyio.current_time()
        if self.trouble is not None or left <= 0:
            return self._lost(self.trouble or _ended("timeout"))
        execution = await self._sandbox.call(self._name, arguments, timeout=left)
        if execution.killed is not None:
            return self._lost(_ended(execution.killed))
        if execution.error is not None or execution.value is None:
            return self._raised(execution.error)
        self.answered += 1
        self.raised = None
        return value_reply(execution.value)

    def _lost(self, trouble: str) -> str:
        self.trouble = trouble
        return lost_reply(trouble)

    def _raised(self, error: ErrorInfo | None) -> str:
        kind = "RuntimeError" if error is None else error.type[:_MOST_OF_A_NAME]
        if kind in _EXITS:
            # An exit is no answer, whatever the tests expect.
            return self._lost(f"{self._name}() ended its process ({kind})")
        if kind == "NameError" and not self.answered:
            return self._lost(f"{self._name}() is not defined, or uses such a name")
        # The name of a class of its own could carry arguments out.
        shown = kind if hasattr(builtins, kind) else "an exception of its own"
        if kind == "LiteralFault":
            shown = "an error: it returned something other than plain data"
        self.raised = f"{self._name}() raised {shown}"
        return raised_reply(kind)


def _decide(task: Task, line: _Line, execution: _Execution) -> Verdict:
    if line.trouble is not None:
        return _no(line.trouble)
    if execution.killed in ("timeout", "cpu"):
        return _no(_ended("timeout"))
    error = execution.error
    if not line.asked:
        reason = "they never call the function"
        if execution.killed is not None:
            reason = f"their worker is gone ({execution.killed})"
        elif error is not None:
            reason = f"{error.type}: {error.message}"
        raise JudgeFault(task.task_id, reason)
    if execution.killed is not None or error is not None or execution.exit_code:
        return _no(line.raised or "a hidden test failed")
    if execution.value != str(line.answered) or not line.answered:
        return _no("no hidden test got an answer")
    return Verdict(passed=True, message="all hidden tests passed")


def _no(message: str) -> Verdict:
    return Verdict(passed=False, message=message)


def _ended(reason: str) -> str:
    return "out of time" if reason == "timeout" else f"the worker is gone ({reason})"
