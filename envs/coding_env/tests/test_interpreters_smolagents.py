from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from smolagents import local_python_executor

from coding_env.interpreters import Interpreter, make_interpreter


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    """Restore what an interpreter changes in the process that it has for itself."""
    main, limit = sys.modules["__main__"], sys.getrecursionlimit()
    yield
    sys.modules["__main__"] = main
    sys.setrecursionlimit(limit)


@pytest.fixture
def interpreter() -> Interpreter:
    """One with two modules authorized."""
    return make_interpreter("smolagents", authorized_imports=["typing", "dataclasses"])


# The language

_FILE = Path(__file__).with_name("test_interpreters_snippets.txt")
_SNIPPETS = dict(
    piece.split("\n", 1) for piece in _FILE.read_text().split("\n### ")[1:]
)


@pytest.mark.parametrize("name", _SNIPPETS)
def test_code_means_what_it_means_in_python(
    interpreter: Interpreter, name: str
) -> None:
    """smolagents' interpreter and Python agree on result, error and exit code."""
    real = make_interpreter("cpython").run(_SNIPPETS[name])
    assert real.result is not None or real.error is not None
    assert interpreter.run(_SNIPPETS[name]) == real


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("f()", "f() missing a required argument: 'a'"),
        ("f(1, 2)", "f() too many positional arguments"),
        ("f(b=1)", "f() missing a required argument: 'a'"),
        ("f(1, a=1)", "f() multiple values for argument 'a'"),
    ],
)
def test_wrong_arguments_are_a_type_error(
    interpreter: Interpreter, call: str, message: str
) -> None:
    """A function takes the arguments that it declares, and no others."""
    error = interpreter.run(f"def f(a):\n    return a\n{call}").error
    assert error is not None
    assert (error.type, error.message, error.line) == ("TypeError", message, 3)


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("def f():\n    yield 1\nlist(f())", "Yield"),
        ("match 1:\n    case 1:\n        pass", "Match"),
        ("async def f():\n    pass", "AsyncFunctionDef"),
        ("global x", "Global"),
        (
            "def f():\n    x = 1\n    def g():\n        nonlocal x\n    g()\nf()",
            "Nonlocal",
        ),
    ],
)
def test_what_smolagents_lacks_is_named(
    interpreter: Interpreter, code: str, missing: str
) -> None:
    """Unsupported statements are an InterpreterError that names them."""
    error = interpreter.run(code).error
    assert error is not None
    assert error.type == "InterpreterError"
    assert error.message == f"{missing} is not supported."


def test_it_has_no_limit_of_operations(
    interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long loops run to their end, whatever smolagents' own limits are."""
    monkeypatch.setattr(local_python_executor, "MAX_OPERATIONS", 100)
    monkeypatch.setattr(local_python_executor, "MAX_WHILE_ITERATIONS", 100)
    code = "i = 0\nwhile i < 1_000:\n    i += 1\ni"
    assert interpreter.run(code).result == "1000"


def test_a_relative_import_is_an_import_error(interpreter: Interpreter) -> None:
    """As in a program that is no package."""
    for code in ("from . import x", "from .x import y"):
        error = interpreter.run(code).error
        assert error is not None
        assert error.type == "ImportError"
        assert error.message.startswith("attempted relative import with no known")


# Fences

_MARKER = "THE_MARKER"

_STOPPED = {
    # What smolagents forbids by its lists.
    "import os": "import os",
    "import subprocess": "import subprocess",
    "from os import system": "from os import system",
    "submodule": "import os.path",
    "open": "open('/etc/passwd')",
    "exec": "exec('1')",
    "compile": "compile('1', '', 'eval')",
    "__import__": "__import__('os')",
    "globals": "globals()",
    "eval of import": "eval(\"__import__('os')\")",
    "eval of open": "eval(\"open('/etc/passwd')\")",
    "eval with a scope": "eval('x', {'x': 1})",
    "eval of code": "eval(compile)",
    "eval of no text": "eval(1)",
    "a built-in that is no tool": "import random\nrandom._test.__call__()",
    "a dunder as a value": "m = [1]\nlist(map(m.__len__, []))",
    "eval in eval": "eval(\"eval('().__class__')\")",
    "ctypes": "import ctypes",
    # CVE-2025-5120: modules that allowed modules have imported.
    "random._os": "import random\nrandom._os.getpid()",
    "from random import _os": "from random import _os\n_os.getpid()",
    "getattr of a module": "import random\ngetattr(random, '_os').getpid()",
    "getattr with default": "import random\ngetattr(random, '_os', 1).getpid()",
    "statistics": "import statistics\nstatistics.sys.modules",
    "queue": "import queue\nqueue.threading._os",
    "map of getattr": "import random\nlist(map(getattr, [random], ['_os']))[0]",
    "key": (
        "import random\nf = []\n"
        "sorted([random], key=lambda m: f.append(getattr(m, '_os')))"
    ),
    # CVE-2025-9959: dunder attributes and what they lead to.
    "__class__": "().__class__",
    "__subclasses__": "().__class__.__base__.__subclasses__()",
    "object.__subclasses__": "object.__subclasses__()",
    "call of a dunder": "(1).__class__()",
    "type and __subclasses__": "type(1).__subclasses__()",
    "getattr of a dunder": "getattr(1, '__class__')",
    "getattr of a made-up str": (
        "class S(str):\n    def startswith(self, x):\n        return False\n"
        "getattr(1, S('__class__'))"
    ),
    "map of getattr of a dunder": "list(map(getattr, [1], ['__class__']))",
    "__globals__": "def f():\n    pass\nf.__globals__",
    "__builtins__": "import random\nrandom.__builtins__",
    "__dict__": "import random\nrandom.__dict__",
    "__traceback__": "try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__",
    # CVE-2026-4963: the ways in which attributes are written or asked for.
    "assignment": "def f():\n    pass\nf.__code__ = 1",
    "in place": "def f():\n    pass\nf.__code__ += 1",
    "tuple target": "def f():\n    pass\nf.__code__, x = 1, 2",
    "loop target": "def f():\n    pass\nfor f.__code__ in [1]:\n    pass",
    "setattr": "def f():\n    pass\nsetattr(f, '__code__', 1)",
    "hasattr": "hasattr(1, '__class__')",
    "with target": (
        "class C:\n    def __enter__(self):\n        return 1\n"
        "    def __exit__(self, *a):\n        pass\n"
        "with C() as C.__name__:\n    pass"
    ),
    # Frames of the interpreter itself.
    "gi_frame": "g = (x for x in [1])\ng.gi_frame.f_globals",
    "getattr of gi_frame": "g = (x for x in [1])\ngetattr(g, 'gi_frame')",
    # Text that other modules evaluate.
    "get_type_hints": "import typing\ntyping.get_type_hints",
    "from typing": "from typing import get_type_hints",
    "ForwardRef": (
        "from typing import List, get_args\n"
        "get_args(List['1'])[0]._evaluate({}, {}, frozenset())"
    ),
    "_eval_type": "import typing\ntyping._eval_type(typing.List['1'], {}, {})",
}


@pytest.mark.parametrize("name", _STOPPED)
def test_a_known_way_out_is_closed(interpreter: Interpreter, name: str) -> None:
    """Each ends in an error of the interpreter, before anything happened."""
    error = interpreter.run(_STOPPED[name]).error
    assert error is not None
    assert error.type in ("InterpreterError", "TypeError", "NameError"), error
    assert error.type != "NameError" or "not defined" in error.message


_LET_THROUGH = {
    # CPython itself reads the attributes; the code gets their text only.
    "format": ("'{0.__class__}'.format(1)", "\"<class 'int'>\""),
    "format_map": ("'{a.__class__}'.format_map({'a': 1})", "\"<class 'int'>\""),
    # Objects may run code when they are shown or collected.
    "__repr__": (
        "class R:\n    def __repr__(self):\n        return 'mine'\nR()",
        "mine",
    ),
    "__del__": (
        "r = []\nclass D:\n    def __del__(self):\n        r.append(1)\n"
        "d = D()\ndel d\nr",
        "[1]",
    ),
}


@pytest.mark.parametrize("name", _LET_THROUGH)
def test_what_the_interpreter_lets_through(interpreter: Interpreter, name: str) -> None:
    """These pass: the process's fences, not the interpreter's, bound what they do."""
    code, result = _LET_THROUGH[name]
    assert interpreter.run(code).result == result


def test_an_authorized_module_opens_what_it_opens(tmp_path: Path) -> None:
    """Who authorizes `operator` or `string` gives the code all of Python.

    Their functions read attributes without the interpreter. The process's fences are
    what is left, so this is named here and in the README.
    """
    for module, code in {
        "operator": "operator.attrgetter('_os.getpid')(random)()",
        "string": "string.Formatter().get_field('0._os.getpid', (random,), {})[0]()",
    }.items():
        interpreter = make_interpreter("smolagents", authorized_imports=[module])
        outcome = interpreter.run(f"import random, {module}\n{code}")
        assert outcome.result == str(os.getpid())
