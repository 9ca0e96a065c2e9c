"""Finds a task set by name."""

from __future__ import annotations

import importlib

from .base import TaskSet
from .human_eval import human_eval

__all__ = ["find_tasks", "hidden_of"]

_KNOWN = {"human_eval": human_eval}
_EXPECTED = "expected 'human_eval' or 'module:attribute' as tasks"


def find_tasks(name: str) -> TaskSet:
    """Find a task set; this reads files, and imports a module of yours.

    Args:
        name: `human_eval`, or `module:attribute` of an object with `TaskSet`'s methods.

    Raises:
        ValueError: There is none of that name, or it lacks a method.
    """
    if name in _KNOWN:
        return _KNOWN[name]()
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{_EXPECTED}, got {name!r}")
    try:
        found: TaskSet = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{_EXPECTED}, got {name!r}: {error}") from error
    for method in ("choose", "task_ids", "imports", "hidden"):
        if not hasattr(found, method):
            raise ValueError(f"{_EXPECTED}, got {name!r}, which has no {method!r}")
    return found


def hidden_of(name: str, tasks: TaskSet) -> tuple[str, ...]:
    """What no submitted code may read: what the task set says, and its own module.

    Args:
        name: What `find_tasks` found it by.
        tasks: What it found.
    """
    name_of_module, colon, _ = name.partition(":")
    if not colon:
        return tuple(tasks.hidden)
    module = importlib.import_module(name_of_module)
    # A package's folder holds what its `__init__` imports; a file may be compiled.
    files = (getattr(module, "__file__", None), getattr(module, "__cached__", None))
    own = getattr(module, "__path__", files)
    return (*tasks.hidden, *(path for path in own if path))
