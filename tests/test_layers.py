"""Who may import whom. Each rule is a function from a source tree to its faults."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.sources import ROOT, Import, Module, Tree, read_tree

_PACKAGE: Final = "openenv_async"

_ROWS: Final = (
    "version",
    "errors",
    "typing",
    "_aio",
    "arrays",
    "messages",
    "protocol",
    "dialect",
    "environment",
    "tools",
    "providers",
    "images",
    "client",
    "ui",
    "server",
    "memory",
    "rollout",
    "viewer",
    "conformance",
    "benchmark",
    "diagnosis",
    "scaffold",
    "openenv",
    "cli",
    "testing",
)
"""A module imports only from its own row and from those before it."""

_STRICTER: Final = {
    "providers": ("version", "errors", "typing", "_aio"),
    "images": ("version", "errors", "typing", "_aio", "providers"),
    "server": tuple(set(_ROWS[: _ROWS.index("server")]) - {"client", "providers"}),
}
"""The rows that these may import from, beside their own."""

_PURE: Final = ("arrays", "messages", "protocol", "dialect")
"""What does no I/O and reads neither a clock nor a random source."""

_IMPURE: Final = (
    *("asyncio", "anyio", "socket", "starlette", "websockets", "uvicorn", "threading"),
    *("time", "random", "secrets", "uuid", "os.urandom", "os.getrandom"),
)

_OPTIONAL: Final = ("numpy", "uvloop", "aiodocker", "aiohttp", "mcp", "openai", "torch")
"""Extras that a function may import when it runs, saying why."""

_SERVING: Final = ("starlette", "uvicorn", f"{_PACKAGE}.server", f"{_PACKAGE}.cli")
"""What models and client of an environment must do without."""


# The rules


def row_faults(tree: Tree) -> list[str]:
    """Imports from a later row, and modules that no row names."""
    return [
        _fault(module, imported, f"a module of {_row(name)!r} imports {target!r}")
        for name, module in tree.items()
        if name != _PACKAGE
        for imported, target in _within(tree, module)
        if not _may_import(_row(name), _row(target))
    ] + [
        f"{module.path}: expected a row of {_ROWS!r}, got {_row(name)!r}"
        for name, module in tree.items()
        if name != _PACKAGE and _row(name) not in _ROWS
    ]


def purity_faults(tree: Tree) -> list[str]:
    """Impure imports of pure modules, and of all that they import at run time."""
    reached = {name for name in tree if _row(name) in _PURE}
    frontier = list(reached)
    while frontier:
        targets = {target for _, target in _runtime(tree, tree[frontier.pop()])}
        frontier += targets - reached
        reached |= targets
    return [
        _fault(tree[name], imported, f"pure modules import {imported.target!r}")
        for name in sorted(reached - {_PACKAGE})
        for imported in tree[name].imports
        if imported.is_of(*_IMPURE)
    ] + [
        f"{tree[name].path}:{node.lineno}: pure modules use {ast.unparse(node)!r}"
        for name in sorted(reached - {_PACKAGE})
        for node in ast.walk(tree[name].body)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _IMPURE
    ]


def cycle_faults(tree: Tree) -> list[str]:
    """Modules that import each other at run time, as paths from one back to itself."""
    targets = {
        name: {target for _, target in _runtime(tree, module)} - {name}
        for name, module in tree.items()
    }
    faults: list[str] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            faults.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(targets[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(targets):
        visit(name, [])
    return faults


def late_import_faults(tree: Tree) -> list[str]:
    """Imports inside functions, but for optional extras with a reason."""
    return [
        _fault(module, imported, f"a function imports {imported.target!r}")
        for module in tree.values()
        for imported in module.imports
        if imported.in_function
        and not (imported.is_of(*_OPTIONAL) and _has_reason(module, imported.line))
    ]


def init_faults(tree: Tree) -> list[str]:
    """Statements of an `__init__.py` that do more than re-export."""
    return [
        f"{module.path}:{statement.lineno}: expected a re-export, "
        f"got {ast.unparse(statement).splitlines()[0]!r}"
        for module in tree.values()
        if module.is_package
        for statement in module.body.body
        if not _is_reexport(statement)
    ]


def serving_faults(tree: Tree) -> list[str]:
    """Imports of an environment's models or client that need its server's half."""
    (package,) = (name for name in tree if "." not in name)
    return [
        _fault(module, imported, f"models and client import {imported.target!r}")
        for name in (package, f"{package}.models", f"{package}.client")
        if (module := tree.get(name))
        for imported in module.imports
        if imported.is_of(*_SERVING, f"{package}.server")
    ]


def _fault(module: Module, imported: Import, text: str) -> str:
    return f"{module.path}:{imported.line}: {text}"


def _row(name: str) -> str:
    """`openenv_async.client.batch` is of the row `client`."""
    return name.split(".")[1] if "." in name else _PACKAGE


def _may_import(row: str, other: str) -> bool:
    if row not in _ROWS or other not in _ROWS:
        # The package re-exports every row, so no row can import from it.
        return row not in _ROWS and other != _PACKAGE
    allowed = _STRICTER.get(row, _ROWS[: _ROWS.index(row)])
    return other == row or other in allowed


def _within(tree: Tree, module: Module) -> Iterator[tuple[Import, str]]:
    """The imports from the tree itself, with the module that each comes from."""
    for imported in module.imports:
        target = imported.target
        while target and target not in tree:
            target = target.rpartition(".")[0]
        if target:
            yield imported, target


def _runtime(tree: Tree, module: Module) -> Iterator[tuple[Import, str]]:
    for imported, target in _within(tree, module):
        if not imported.for_typing and not imported.in_function:
            yield imported, target


def _has_reason(module: Module, line: int) -> bool:
    text = module.source.splitlines()[line - 1]
    return re.search(r"# noqa: PLC0415 \(\w.*\)$", text) is not None


def _is_reexport(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant(value=str())):  # docstring
            return True
        case ast.Assign(value=value) | ast.AnnAssign(value=value):  # __all__, tables
            return not any(map(_acts, ast.walk(value or statement)))
        case ast.FunctionDef(name="__getattr__" | "__dir__"):  # lazy re-export
            return True
        case ast.If(test=test, body=body, orelse=[]):
            return ast.unparse(test).endswith("TYPE_CHECKING") and all(
                map(_is_reexport, body)
            )
        case _:
            return False


def _acts(node: ast.AST) -> bool:
    """Whether it runs something, but for methods of the module's own tables."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return not name.startswith("_")
        case _:
            return isinstance(node, ast.Call | ast.Lambda)


_RULES: Final[list[Callable[[Tree], list[str]]]] = [
    row_faults,
    purity_faults,
    cycle_faults,
    late_import_faults,
    init_faults,
]


# The promises


@pytest.mark.parametrize("rule", _RULES)
def test_package_keeps(rule: Callable[[Tree], list[str]]) -> None:
    """The package keeps the rule."""
    faults = rule(read_tree(ROOT / _PACKAGE))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "package",
    [
        pytest.param(path.parent, id=path.parent.name)
        for path in sorted(ROOT.glob("envs/*/*/__init__.py"))
    ],
)
def test_environment_needs_no_server_for_its_client(package: Path) -> None:
    """Models and client are importable without what the server needs."""
    faults = serving_faults(read_tree(package))
    assert not faults, "\n".join(faults)


# Each rule can fail


def _write(folder: Path, sources: dict[str, str]) -> Tree:
    """Make a package of these files; folders get an empty `__init__.py`."""
    for name, source in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    for path in {*folder.rglob("*.py")}:
        if path.parent != folder:
            (path.parent / "__init__.py").touch()
    (package,) = folder.iterdir()
    return read_tree(package)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("errors", "from .typing import X"),
        ("errors", "from . import typing"),
        ("errors", "import openenv_async.typing"),
        ("errors", "from openenv_async.typing import X"),
        ("typing", "from openenv_async import X"),
        ("typing", "from . import X"),
        ("arrays", "if TYPE_CHECKING:\n    from .client import X"),
        ("client/session", "from ..server import X"),
        ("server/app", "from ..client.session import X"),
        ("server/app", "def late():\n    from ..providers import X"),
        ("providers/local", "from ..messages import X"),
        ("client/session", "from ..testing.memory import X"),
        ("helpers", ""),
    ],
)
def test_row_faults_finds(tmp_path: Path, name: str, source: str) -> None:
    """An import from a later row is found, however it is spelled."""
    tree = _write(
        tmp_path,
        {f"{_PACKAGE}/{row}.py": "" for row in ("errors", "typing", "messages")}
        | {
            f"{_PACKAGE}/{row}/x.py": ""
            for row in ("client", "server", "providers", "testing")
        }
        | {f"{_PACKAGE}/{name}.py": source}
        | {f"{_PACKAGE}/client/other.py": "from ..errors import X\nfrom .x import Y"},
    )
    (fault,) = row_faults(tree)
    assert f"{name}.py" in fault


@pytest.mark.parametrize(
    "sources",
    [
        {"messages.py": "import time"},
        {"arrays.py": "from uuid import uuid4"},
        {"protocol/client.py": "def key():\n    import secrets"},
        {"protocol/client.py": "from os import urandom"},
        {"protocol/client.py": "import os\nkey = os.urandom(16)"},
        {"protocol/client.py": "import asyncio.events"},
        {"protocol/client.py": "from .. import _aio", "_aio.py": "import anyio"},
    ],
)
def test_purity_faults_finds(tmp_path: Path, sources: dict[str, str]) -> None:
    """Clock, socket, loop and random source are found, through other modules too."""
    tree = _write(tmp_path, {f"{_PACKAGE}/{k}": v for k, v in sources.items()})
    assert len(purity_faults(tree)) == 1


def test_cycle_faults_finds(tmp_path: Path) -> None:
    """A cycle is found; one that exists only for type checkers is none."""
    tree = _write(
        tmp_path,
        {
            f"{_PACKAGE}/client/a.py": "from .b import X",
            f"{_PACKAGE}/client/b.py": "from . import c",
            f"{_PACKAGE}/client/c.py": "import openenv_async.client.a",
            f"{_PACKAGE}/client/d.py": "if TYPE_CHECKING:\n    from .e import X",
            f"{_PACKAGE}/client/e.py": "from .d import X",
        },
    )
    (cycle,) = cycle_faults(tree)
    assert cycle.replace("openenv_async.client.", "") == "a -> b -> c -> a"


@pytest.mark.parametrize(
    "line",
    [
        "import json",
        "import numpy as np",
        "import numpy as np  # noqa: PLC0415",
        "from .errors import X  # noqa: PLC0415 (a cycle)",
    ],
)
def test_late_import_faults_finds(tmp_path: Path, line: str) -> None:
    """An import inside a function is found, unless an extra's with a reason."""
    good = "def f():\n    import numpy  # noqa: PLC0415 (an optional extra)\n"
    source = f"{good}async def g():\n    if True:\n        {line}"
    tree = _write(tmp_path, {f"{_PACKAGE}/arrays.py": source})
    (fault,) = late_import_faults(tree)
    assert "arrays.py:5" in fault


@pytest.mark.parametrize(
    "statement",
    ["def f(): pass", "X = make()", "try:\n    import numpy\nfinally: pass"],
)
def test_init_faults_finds(tmp_path: Path, statement: str) -> None:
    """A statement that does more than re-export is found."""
    good = '"""Doc."""\nfrom .a import X\n__all__ = ["X"]\ndef __getattr__(n): pass\n'
    tree = _write(tmp_path, {f"{_PACKAGE}/client/__init__.py": good + statement})
    (fault,) = init_faults(tree)
    assert "client/__init__.py:5" in fault


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("models", "import uvicorn"),
        ("client", "from openenv_async.server import create_app"),
        ("client", "from .server.environment import X"),
        ("__init__", "from .server import X"),
    ],
)
def test_serving_faults_finds(tmp_path: Path, name: str, line: str) -> None:
    """What drags the server into models, client or package is found."""
    tree = _write(
        tmp_path,
        {
            f"echo_env/{name}.py": line,
            "echo_env/server/app.py": "from openenv_async.server import create_app",
        },
    )
    assert len(serving_faults(tree)) == 1
