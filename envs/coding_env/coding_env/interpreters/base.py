"""What every interpreter of the coding environment offers to the worker it runs in.

A worker has one interpreter, which keeps its state from run to run. Everything here is
synchronous: the worker is a process of its own, and whoever waits for it, kills it.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from .literals import LiteralFault, from_literal, to_literal

__all__ = ["Ask", "ErrorInfo", "Interpreter", "Kind", "LiteralFault", "Outcome"]
__all__ += ["from_literal", "make_interpreter", "to_literal", "warm_up"]

Kind: TypeAlias = Literal["smolagents", "cpython", "judge"]
"""smolagents' interpreter, real Python, or real Python that runs hidden tests."""

Ask: TypeAlias = Callable[[str], str]
"""Sends text to whoever runs the worker and blocks until the reply is there."""


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An exception that the code did not catch."""

    type: str
    """Name of its class."""
    message: str
    line: int | None = None
    """In the code that was run; None where the code itself cannot be read."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run or a call ended."""

    result: str | None = None
    """`repr` of the last statement's value, when that is an expression."""
    error: ErrorInfo | None = None
    exit_code: int = 0
    """0, 1 after an error, or what the code passed to `sys.exit`."""
    value: str | None = None
    """What a call returned, written by `to_literal`."""


class Interpreter(Protocol):
    """Runs code, and calls what it defined.

    Neither method raises, whatever the code does. What the code prints goes to
    `sys.stdout` and `sys.stderr` while it runs.
    """

    def run(self, code: str) -> Outcome:
        """Run code. Names that earlier runs defined are there."""
        ...

    def call(self, name: str, arguments: str) -> Outcome:
        """Call a function that the code defined.

        Args:
            name: What the code called it.
            arguments: The positional ones: a tuple, written by `to_literal`.
        """
        ...


def make_interpreter(
    kind: Kind, *, authorized_imports: Sequence[str] = (), ask: Ask | None = None
) -> Interpreter:
    """Make a fresh interpreter.

    Args:
        kind: Which one.
        authorized_imports: Modules that code may import beyond those that smolagents
            allows anyway. Real Python imports everything.
        ask: How the judge calls the submitted function.

    Raises:
        ValueError: There is no such kind, a module is not installed, or the judge has
            nobody to ask.
    """
    # Late imports: smolagents takes a second, and a judge does not need it.
    match kind:
        case "smolagents":
            from .smolagents_interpreter import (  # noqa: PLC0415 (see above)
                SmolagentsInterpreter,
            )

            return SmolagentsInterpreter(authorized_imports)
        case "cpython":
            from .cpython import CPythonInterpreter  # noqa: PLC0415 (see above)

            return CPythonInterpreter()
        case "judge":
            from .judge import JudgeInterpreter  # noqa: PLC0415 (see above)

            if ask is None:
                raise ValueError("expected ask= for a judge, got None")
            return JudgeInterpreter(ask)
    raise ValueError(f"expected 'smolagents', 'cpython' or 'judge', got {kind!r}")


def warm_up(kind: Kind, authorized_imports: Sequence[str] = ()) -> None:
    """Import all that `kind` needs, so that forked workers have it already.

    Raises:
        ValueError: There is no such kind, or an authorized module is not installed.
    """
    main = sys.modules["__main__"]
    interpreter = make_interpreter(
        kind, authorized_imports=authorized_imports, ask=lambda text: text
    )
    with contextlib.redirect_stderr(io.StringIO()):
        for module in authorized_imports:
            # As smolagents writes them: `numpy.*`, or `*` for all there are.
            if name := module.removesuffix("*").rstrip("."):
                interpreter.run(f"import {name}")
        # What the first run, the first error and the first call import.
        interpreter.run("def warm(x):\n    return x\nwarm(1 / 1)")
        interpreter.run("1 / 0")
        interpreter.call("warm", "(1,)")
    sys.modules["__main__"] = main
