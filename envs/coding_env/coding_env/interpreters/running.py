"""How a run or a call of submitted code becomes an outcome, whatever it raises."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping

from .base import ErrorInfo, Outcome
from .literals import from_literal, to_literal

__all__ = ["UNPARSABLE", "called", "describe", "exit_status", "failed", "guarded"]

UNPARSABLE = (SyntaxError, ValueError, MemoryError, RecursionError)
"""What Python's parser raises: wrong code, null bytes, too large, nested too deeply."""

_MAX_MESSAGE = 4_000
"""Characters; what a message has beyond is cut, and says so."""


def guarded(
    act: Callable[[], Outcome], *, line: Callable[[BaseException], int | None]
) -> Outcome:
    """Run submitted code; all that it raises ends here.

    Args:
        act: Runs it.
        line: Finds the line at which it raised.
    """
    try:
        return act()
    except BaseException as error:  # noqa: BLE001 (what the code raises is its own)
        found = line(error)
        # What filled the memory hangs on these frames.
        traceback.clear_frames(error.__traceback__)
        return failed(error, line=found)
    finally:
        for stream in (sys.stdout, sys.stderr):
            # The code may have closed or replaced them.
            with contextlib.suppress(Exception):
                stream.flush()


def called(names: Mapping[str, object], name: str, arguments: str) -> Outcome:
    """Call a function that the code defined, with plain data for plain data.

    Raises:
        NameError: The code defined no such name.
        TypeError: It is no function, or the arguments are no tuple.
        LiteralFault: The arguments or the result are no plain data.
    """
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    function = names[name]
    if not callable(function):
        raise TypeError(f"{name!r} is not callable")
    values = from_literal(arguments)
    if not isinstance(values, tuple):
        raise TypeError(f"expected a tuple of arguments, got {arguments[:80]!r}")
    return Outcome(value=to_literal(function(*values)))


def failed(error: BaseException, *, line: int | None) -> Outcome:
    """Make an outcome of what the code raised."""
    return Outcome(error=describe(error, line), exit_code=exit_status(error))


def describe(error: BaseException, line: int | None) -> ErrorInfo:
    """Describe an exception, whose methods may do anything."""
    try:
        # A SyntaxError's own text repeats file and line.
        unparsable = isinstance(error, SyntaxError) and error.args
        message = str(error.args[0] if unparsable else error)
    except BaseException as fault:  # noqa: BLE001 (a `__str__` of the code's own)
        message = f"(its text cannot be made: {type(fault).__name__})"
    if len(message) > _MAX_MESSAGE:
        message = f"{message[:_MAX_MESSAGE]} ... ({len(message)} characters)"
    # A lone surrogate cannot travel.
    message = message.encode("utf-8", "backslashreplace").decode()
    return ErrorInfo(type=str(type(error).__name__), message=message, line=line)


def exit_status(error: BaseException) -> int:
    """What a process exits with that ends with this exception."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
