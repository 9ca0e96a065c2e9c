"""smolagents' `LocalPythonExecutor` as an interpreter of the coding environment.

Of HumanEval's canonical solutions, 155 or 156 of 164 pass with smolagents 1.26 as it
comes. With `dialect`, all that do not need what it lacks on purpose do.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from smolagents.local_python_executor import LocalPythonExecutor

from .base import Outcome
from .dialect import Scope, evaluate
from .fences import make_tools
from .running import UNPARSABLE, called, failed, guarded
from .statements import install

__all__ = ["SmolagentsInterpreter"]

_RECURSION = 8_000
"""Frames of Python's own stack: a call in the code takes about a dozen of them."""


class SmolagentsInterpreter:
    """Evaluates code with smolagents, statement by statement.

    Args:
        authorized_imports: Modules that the code may import beyond smolagents' own
            list, as smolagents writes them: `numpy`, `numpy.*`.

    Raises:
        ValueError: A module is not installed.
    """

    def __init__(self, authorized_imports: Sequence[str]) -> None:
        install()
        # Its own time limit stops nothing: a thread goes on until it is done. Whoever
        # runs this process kills it instead.
        self._executor = LocalPythonExecutor(
            list(authorized_imports), timeout_seconds=None
        )
        self._executor.additional_functions = make_tools(
            self._executor.authorized_imports
        )
        # Without this there are no built-in functions.
        self._executor.send_tools({})
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _RECURSION))

    @property
    def _state(self) -> Scope:
        state: Scope = self._executor.state
        return state

    def run(self, code: str) -> Outcome:
        """Run code. Names that earlier runs defined are there."""
        try:
            tree = ast.parse(code)
        except UNPARSABLE as error:
            return failed(error, line=getattr(error, "lineno", None))
        return guarded(lambda: self._run(tree), line=lambda error: _line(error, tree))

    def _run(self, tree: ast.Module) -> Outcome:
        value = None
        for statement in tree.body:
            value = self._evaluate(statement)
        shown = tree.body and isinstance(tree.body[-1], ast.Expr) and value is not None
        return Outcome(result=repr(value) if shown else None)

    def call(self, name: str, arguments: str) -> Outcome:
        """Call a function that the code defined."""
        return guarded(
            lambda: called(self._state, name, arguments), line=lambda _: None
        )

    def _evaluate(self, statement: ast.stmt) -> Any:
        executor = self._executor
        return evaluate(
            statement,
            self._state,
            executor.static_tools,
            executor.custom_tools,
            executor.authorized_imports,
        )


def _line(error: BaseException, tree: ast.Module) -> int | None:
    """Find the line of the code that was evaluated when the error was raised.

    Functions of earlier runs have lines of their own, which would mislead here.
    """
    own = {id(node) for node in ast.walk(tree)}
    line = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is evaluate.__code__:
            node = frame.f_locals["node"]
            if id(node) in own:
                line = getattr(node, "lineno", line)
    return line
