"""Real Python as an interpreter of the coding environment.

It has the full language and full speed, and nothing between the code and the process it
runs in: only the process's own fences and the container hold.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import linecache
import sys
import traceback
from types import ModuleType, TracebackType

from .base import Outcome
from .running import UNPARSABLE, called, failed, guarded

__all__ = ["CPythonInterpreter"]


class CPythonInterpreter:
    """Runs code in a module `__main__` of its own.

    A traceback goes to `sys.stderr`, as in Python itself.
    """

    def __init__(self) -> None:
        module = ModuleType("__main__")
        self._names = vars(module)
        self._names["__builtins__"] = builtins
        # Some modules look themselves up there: dataclasses, pickle.
        sys.modules["__main__"] = module
        self._runs = itertools.count(1)

    def run(self, code: str) -> Outcome:
        """Run code. Names that earlier runs defined are there."""
        file = f"<step {next(self._runs)}>"
        try:
            tree = ast.parse(code, file)
        except UNPARSABLE as error:
            _show(error, None)
            return failed(error, line=getattr(error, "lineno", None))
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)

        def line(error: BaseException) -> int | None:
            _show(error, file)
            return _line(error, file)

        return guarded(lambda: self._run(tree, file), line=line)

    def _run(self, tree: ast.Module, file: str) -> Outcome:
        last = tree.body[-1] if tree.body else None
        if not isinstance(last, ast.Expr):
            exec(compile(tree, file, "exec"), self._names)
            return Outcome()
        tree.body.pop()
        exec(compile(tree, file, "exec"), self._names)
        expression = compile(ast.Expression(last.value), file, "eval")
        value = eval(expression, self._names)
        return Outcome(result=None if value is None else repr(value))

    def call(self, name: str, arguments: str) -> Outcome:
        """Call a function that the code defined."""
        return guarded(
            lambda: called(self._names, name, arguments), line=lambda _: None
        )


def _line(error: BaseException, file: str) -> int | None:
    """Find the innermost line of this run's code."""
    line = None
    if isinstance(error, SyntaxError) and error.filename == file:
        # The parser let it pass, the compiler did not: `return` outside a function.
        line = error.lineno
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == file:
            line = number
    return line


def _show(error: BaseException, file: str | None) -> None:
    """Write the traceback to `sys.stderr`, without the frames around the code's."""
    if isinstance(error, SystemExit):
        if error.code is not None and not isinstance(error.code, int):
            _write(f"{error.code}\n")
        return
    shown = error.__traceback__ if file else None
    while shown is not None and shown.tb_frame.f_code.co_filename != file:
        shown = shown.tb_next
    _write(_text(error, shown))


def _text(error: BaseException, shown: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, shown))
    except BaseException as fault:  # noqa: BLE001 (the exception's methods are the code's)
        return f"(no traceback can be made: {type(fault).__name__})\n"


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
    except BaseException:  # noqa: BLE001 (the code may have closed or replaced it)
        return
