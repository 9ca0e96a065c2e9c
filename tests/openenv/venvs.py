"""Virtual environments with OpenEnv's own packages, made once and kept in a cache.

They do not share our interpreter, because two of OpenEnv's versions are compared, and
because a user of ours need not have it. A test that asks for one is skipped by name
where it neither exists nor can be made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

__all__ = ["PACKAGES", "interpreter"]

_PLAYED: Final = (
    "chess==1.11.2",
    "datasets==5.2.0",
    "gymnasium==1.4.0",
    "reasoning-gym==0.1.25",
    "smolagents==1.26.0",
    "sqlalchemy==2.1.9",
)
"""What the environments of the interoperability suite are made of."""

PACKAGES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "0.10.0": (
        ("openenv==0.10.0", *_PLAYED),
        # Its declared requirement is an older OpenEnv under another name, whose files
        # would replace these.
        ("--no-deps", "openenv-dipg-safety==0.1.67"),
    ),
    "0.2.3": (("openenv-core==0.2.3",),),
    "repository": (
        ("openenv==0.10.0", *_PLAYED, "matplotlib==3.11.2", "moonfish==0.0.1"),
    ),
}
"""What pip is to install, call by call, by OpenEnv's version.

`repository` is 0.10.0 with what environments of OpenEnv's repository need.
"""

_FOLDER: Final = "OPENENV_ASYNC_VENVS"
"""Names another folder for the cache."""
_INSTALL_PATIENCE: Final = 900.0
_MADE: Final = "complete"
"""A file that an interrupted installation does not leave."""


def interpreter(version: str) -> Path:
    """The interpreter that has OpenEnv of a version; makes it if need be.

    Blocks: call it from a fixture that is no coroutine.
    """
    # Another list of packages is another environment.
    digest = hashlib.sha256(repr(PACKAGES[version]).encode()).hexdigest()[:8]
    python_version = f"py{sys.version_info[0]}{sys.version_info[1]}"
    folder = _cache() / f"openenv-{version}-{digest}-{python_version}"
    python = folder / "bin" / "python"
    if not (folder / _MADE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Test processes run at the same time; the second waits for the first.
        with _locked(folder.with_name(f"{folder.name}.lock")):
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


def _make(folder: Path, python: Path, packages: Sequence[Sequence[str]]) -> None:
    install = [str(python), "-m", "pip", "install", "--quiet"]
    try:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            *([*install, *each] for each in packages),
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
        pytest.skip(f"{packages[0][0]} cannot be installed: {said.strip()[-300:]}")
    (folder / _MADE).touch()
