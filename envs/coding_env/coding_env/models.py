"""What travels between agent and environment."""

from __future__ import annotations

import msgspec

from openenv_async import Action, Observation, State

__all__ = ["CodeError", "CodingAction", "CodingObservation", "CodingState"]


class CodingAction(Action):
    """Run code; names that earlier steps of the episode defined are there."""

    code: str
    timeout: float | None = None
    """Seconds until the code is killed; None takes the server's default."""


class CodeError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the code did not come to its end."""

    type: str
    """Name of the exception's class."""
    message: str
    line: int | None = None
    """In the action's code; None where it cannot be told."""


class CodingObservation(Observation):
    """What the code wrote and how it ended.

    `truncated` is set when the worker is gone, and all variables with it: the next
    call is `reset()`.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    """As a shell would tell it: 0, 1 after an exception, what the code passed to
    `sys.exit`, 124 out of time, 128 plus the number of the signal that ended it."""
    result: str | None = None
    """`repr` of the last statement's value, when that is an expression."""
    error: CodeError | None = None
    stdout_truncated: bool = False
    """Whether more was written than `stdout` holds."""
    stderr_truncated: bool = False
    result_truncated: bool = False
    prompt: str | None = None
    """What to write, after the reset of an episode that has a task."""
    task_id: str | None = None
    passed: bool | None = None
    """Whether the code passed the task's tests; null without a task."""


class CodingState(State):
    """Where the episode stands."""

    interpreter: str
    """`smolagents` or `cpython`."""
    authorized_imports: list[str] = msgspec.field(default_factory=list)
    """What code may import beyond what the interpreter allows anyway."""
    alive: bool = False
    """Whether the worker that holds the episode's variables is there."""
    task_id: str | None = None
    attempts: int = 0
    """Steps that were judged."""
