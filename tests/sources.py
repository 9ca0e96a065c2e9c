"""Python source as data: the modules of a tree, and what each of them imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["ROOT", "Import", "Module", "Tree", "read_tree"]

ROOT = Path(__file__).parents[1]
"""Where the repository is."""


@dataclass(frozen=True)
class Import:
    """One imported name, resolved: `from ..errors import X` is `package.errors.X`."""

    target: str
    name: str
    """What the module calls it."""
    line: int
    in_function: bool
    for_typing: bool
    """Under `if TYPE_CHECKING:`, so that it does not happen at run time."""

    def is_of(self, *names: str) -> bool:
        """Whether it is one of these modules, or comes from one."""
        return any(f"{self.target}.".startswith(f"{name}.") for name in names)


@dataclass(frozen=True)
class Module:
    """A parsed module of a package."""

    name: str
    path: Path
    is_package: bool
    source: str
    body: ast.Module

    @property
    def imports(self) -> list[Import]:
        """Everything that the module imports, wherever it does."""
        return list(self._walk(self.body, in_function=False, for_typing=False))

    def _walk(
        self, node: ast.AST, *, in_function: bool, for_typing: bool
    ) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                target = f"{self._origin(node)}{alias.name}"
                name = alias.asname or alias.name
                yield Import(target, name, node.lineno, in_function, for_typing)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded: list[ast.stmt] = []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith(
            "TYPE_CHECKING"
        ):
            guarded = node.body
        for child in ast.iter_child_nodes(node):
            yield from self._walk(
                child,
                in_function=in_function or inside,
                for_typing=for_typing or child in guarded,
            )

    def _origin(self, node: ast.Import | ast.ImportFrom) -> str:
        if isinstance(node, ast.Import):
            return ""
        base = node.module or ""
        if node.level:
            ups = node.level - self.is_package
            package = self.name.split(".")[: -ups or None]
            base = ".".join([*package, base] if base else package)
        return f"{base}."


Tree: TypeAlias = dict[str, Module]
"""The modules of one package by their full names."""


def read_tree(package: Path) -> Tree:
    """Parse every module of the package in this folder."""
    tree: Tree = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        source = path.read_text(encoding="utf-8")
        tree[name] = Module(name, path, is_package, source, ast.parse(source))
    return tree
