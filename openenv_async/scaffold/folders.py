"""Environments in the folder of a package that need not be installed."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, cast

from ..environment import ENTRY_POINTS
from ..errors import LocalProtocolError

__all__ = [
    "importable_module",
    "importable_target",
    "search_path",
    "search_variables",
    "source_folder",
]

_PROJECT: Final = "pyproject.toml"


def importable_target(target: str) -> str:
    """Make a target of the command line one that this process can import.

    The address of a server stays as it is. A folder with a `pyproject.toml` becomes
    the environment that it registers. Packages of the working directory, and those of
    the folder, can be imported afterwards, installed or not; that is a command's to
    do, not a library's.

    Raises:
        LocalProtocolError: The folder registers none, or several.
    """
    if "://" in target:
        return target
    folder = _folder_of(target)
    if folder is not None:
        _add(str(folder))
    importable_module()
    return target if folder is None else _registered(folder)


def importable_module() -> None:
    """Have this process find modules of the working directory, as a command does."""
    _add(os.getcwd())


def _add(place: str) -> None:
    if place not in sys.path:
        sys.path.insert(0, place)


def search_path(target: str) -> dict[str, str]:
    """Variables with which another process finds what `importable_target` names."""
    folder = None if "://" in target else _folder_of(target)
    return {} if folder is None else search_variables(str(folder))


def source_folder(target: str) -> str:
    """The folder whose packages or modules a target needs; empty if it needs none.

    That is the folder it names, or the working directory, if its module is there.
    """
    if "://" in target:
        return ""
    folder = _folder_of(target)
    if folder is not None:
        return str(folder)
    top = target.partition(":")[0].partition(".")[0]
    here = Path.cwd()
    is_here = (
        ":" in target
        and bool(top)
        and ((here / f"{top}.py").is_file() or (here / top).is_dir())
    )
    return str(here) if is_here else ""


def search_variables(folder: str) -> dict[str, str]:
    """Variables with which another process finds modules of a folder."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{before}" if before else str(folder)}


def _folder_of(target: str) -> Path | None:
    folder = Path(target)
    return folder.resolve() if (folder / _PROJECT).is_file() else None


def _registered(folder: Path) -> str:
    path = folder / _PROJECT
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LocalProtocolError(f"expected a readable {path}: {error}") from error
    groups: Any = project.get("project", {}).get("entry-points", {})
    entries = cast(dict[str, str], groups.get(ENTRY_POINTS, {}))
    if len(entries) != 1:
        raise LocalProtocolError(
            f"expected one entry point in the group {ENTRY_POINTS!r} of {path}, got "
            f"{list(entries)!r}: name what to serve instead"
        )
    return next(iter(entries.values()))
