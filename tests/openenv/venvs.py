"""Virtual environments with OpenEnv's own packages, made once and kept in a cache.

They can't share our interpreter: OpenEnv pins other versions of what we use. A test
that asks for one is skipped by name where it neither exists nor can be made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

__all__ = ["PACKAGES", "interpreter"]

PACKAGES: Final = {"0.10.0": "openenv==0.10.0", "0.2.3": "openenv-core==0.2.3"}
"""What to install, by OpenEnv's version."""

_FOLDER: Final = "OPENENV_ASYNC_VENVS"
"""Names another folder for the cache."""
_INSTALL_PATIENCE: Final = 900.0
_MADE: Final = "complete"
"""A file that an interrupted installation does not leave."""


def interpreter(version: str) -> Path:
    """The interpreter that has OpenEnv of a version; makes it if need be.

    Blocks: call it from a fixture that is no coroutine.
    """
    folder = (
        _cache() / f"openenv-{version}-py{sys.version_info[0]}{sys.version_info[1]}"
    )
    python = folder / "bin" / "python"
    if not (folder / _MADE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Test processes run at the same time; the second waits for the first.
        with _locked(folder.with_suffix(".lock")):
            if not (folder / _MADE).exists():
                _make(folder, python, PACKAGES[version])
    return python


def _cache() -> Path:
    named = os.environ.get(_FOLDER)
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "openenv-async-tests"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, python: Path, package: str) -> None:
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", package],
        ):
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                timeout=_INSTALL_PATIENCE,
            )
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"{package} cannot be installed: {said.strip()[-300:]}")
    (folder / _MADE).touch()
