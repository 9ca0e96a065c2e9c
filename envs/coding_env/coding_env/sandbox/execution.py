"""What came of running code in a sandbox."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..interpreters.base import ErrorInfo

__all__ = ["Execution", "Killed"]

Killed = Literal[
    "timeout", "cpu", "disk", "threads", "signal", "exit", "protocol", "cancelled"
]
"""Why a worker is gone: out of time, of processor time, of disk, of threads; by a
signal that we did not send; by its own exit; because it broke the rules of its socket;
because whoever waited for it was cancelled."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one run or call, and what the code wrote meanwhile."""

    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_bytes: int = 0
    """How much was written, of which `stdout` is the beginning."""
    stderr_bytes: int = 0
    result: str | None = None
    """`repr` of the last expression."""
    result_truncated: bool = False
    value: str | None = None
    """Literal text of what a called function returned."""
    error: ErrorInfo | None = None
    exit_code: int = 0
    """As a shell would tell it: 0, 1 after an exception, 124 out of time, 128 plus the
    number of the signal that ended the worker."""
    killed: Killed | None = None
    """Set when the worker is gone, and the state of the code with it."""
