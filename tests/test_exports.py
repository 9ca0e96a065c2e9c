"""What a module offers, it lists; what the package offers, its modules list too."""

from __future__ import annotations

import ast
import importlib

import pytest

import openenv_async
from openenv_async import errors
from tests.sources import ROOT, Import, Module, read_tree

_TREE = read_tree(ROOT / "openenv_async")


def _listed(module: Module) -> list[str]:
    """The literal `__all__`; empty if the module has none."""
    for statement in module.body.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names: list[str] = ast.literal_eval(value)
                return names
    return []


def _rank(name: str) -> tuple[int, str]:
    """Ruff's order: CONSTANTS, then Classes, then functions."""
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name[0].isupper() else 2), name


def _has_content(module: Module) -> bool:
    return len(module.body.body) > 1 and not module.name.endswith("__main__")


_MODULES = [
    pytest.param(module, id=name)
    for name, module in _TREE.items()
    if _has_content(module)
]


@pytest.mark.parametrize("module", _MODULES)
def test_module_lists_its_exports(module: Module) -> None:
    """Every module has an `__all__`, sorted, without repetition."""
    listed = _listed(module)
    assert listed, f"{module.name} has no literal __all__"
    assert listed == sorted(set(listed), key=_rank)


@pytest.mark.parametrize("module", _MODULES)
def test_module_has_what_it_lists(module: Module) -> None:
    """Every name in `__all__` exists."""
    imported = importlib.import_module(module.name)
    assert [name for name in _listed(module) if not hasattr(imported, name)] == []


_REEXPORTS = [
    pytest.param(imported, id=imported.name)
    for imported in _TREE["openenv_async"].imports
    if imported.is_of("openenv_async")
]


def test_package_lists_what_it_reexports() -> None:
    """What type checkers see of the package is what it lists."""
    listed = _listed(_TREE["openenv_async"])
    assert {param.id for param in _REEXPORTS} == set(listed)


@pytest.mark.parametrize("imported", _REEXPORTS)
def test_module_lists_what_the_package_reexports(imported: Import) -> None:
    """A re-export is the same object as in its module, which lists it."""
    home, _, name = imported.target.rpartition(".")
    assert name in _listed(_TREE[home])
    module = importlib.import_module(home)
    assert getattr(openenv_async, imported.name) is getattr(module, name)


def test_package_lists_every_error() -> None:
    """Whatever we raise can be caught by a name of the package."""
    raised = {
        name
        for name in errors.__all__
        if isinstance(getattr(errors, name), type)
        and issubclass(getattr(errors, name), errors.OpenEnvError)
    }
    assert raised - set(openenv_async.__all__) == set()


def test_package_offers_nothing_else_in_public() -> None:
    """`dir()` of the package shows what `__all__` lists, and its modules."""
    public = {name for name in dir(openenv_async) if not name.startswith("_")}
    modules = {name.split(".")[1] for name in _TREE if "." in name}
    assert public - modules - set(_listed(_TREE["openenv_async"])) == set()
