"""How the zygote is started: in namespaces of its own where bubblewrap can make them.

One bubblewrap around the zygote serves all workers that it forks: no network but a
loopback device of its own, nothing but system and Python to read, and a table of
processes in which the server does not exist.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from .fences import ENVIRONMENT

__all__ = ["command", "find"]

_CAPABILITIES: Final = ("SETUID", "SETGID", "KILL", "CHOWN", "DAC_OVERRIDE", "FOWNER")
"""What a zygote of root needs to give workers users of their own, and to remove what
those leave. It is dropped with the user by each worker."""
_SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
)
_PATIENCE: Final = 10.0
"""Seconds for a trial that takes milliseconds."""


@functools.cache
def find() -> str | None:
    """The path of a bubblewrap that works here, or None.

    Blocks for milliseconds the first time.
    """
    path = shutil.which("bwrap")
    if path is None:
        return None
    trial = [path, *_options(()), sys.executable, *_FLAGS, "-S", "-c", ""]
    try:
        done = subprocess.run(
            trial,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path if done.returncode == 0 else None


def command(
    bwrap: str | None, *, control: int, base: str, hidden: Sequence[str]
) -> list[str]:
    """The command that starts a zygote.

    Args:
        bwrap: From `find`.
        control: Descriptor of its channel, which it inherits.
        base: The only directory that it may write to.
        hidden: Paths that nothing in it may read.
    """
    python = [sys.executable, *_FLAGS, "-c", _MAIN, str(control), *_search_path()]
    if bwrap is None:
        return python
    writable = [*_passable(base), "--bind", base, base]
    return [bwrap, *_options(hidden), *writable, "--chdir", "/", "--", *python]


def _passable(path: str) -> Iterator[str]:
    """Make the directories above a mount, so that every user may pass through them."""
    for parent in reversed(Path(path).parents):
        yield from ("--perms", "0755", "--dir", str(parent))


_FLAGS: Final = ("-P", "-s")
"""Neither the current directory nor a user's site. What the server can import is found
through its search path, which is passed on."""
_MAIN: Final = (
    "import sys; sys.path += [path for path in sys.argv[2:] if path not in sys.path]; "
    "from coding_env.sandbox.zygote import main; main()"
)


def _search_path() -> list[str]:
    return [path for path in sys.path if path and os.path.isabs(path)]


def _options(hidden: Sequence[str]) -> Iterator[str]:
    yield from ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
    yield "--unshare-cgroup-try"
    if os.geteuid() == 0:
        yield from ("--cap-drop", "ALL")
        for capability in _CAPABILITIES:
            yield from ("--cap-add", f"CAP_{capability}")
    for path in _SYSTEM:
        # Links, such as /lib to usr/lib, are made anew.
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind-try", path, path)
    # A new, empty one, before what may lie in the real one.
    yield from ("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp")
    for path in sorted(_python_paths()):
        yield from _passable(path)
        yield from ("--ro-bind-try", path, path)
    for path in hidden:
        if os.path.isdir(path):
            yield from ("--tmpfs", path)
        elif os.path.exists(path):
            yield from ("--ro-bind", os.devnull, path)


def _python_paths() -> set[str]:
    """Where Python and the modules that the server can import lie."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    roots |= set(_search_path())
    roots.add(str(Path(sys.executable).parent))
    roots.add(str(Path(sys.executable).resolve().parent))
    # A script's directory can be anything, such as the one of all temporary files.
    temporary = Path(tempfile.gettempdir()).resolve()
    return {
        root
        for root in roots
        if os.path.exists(root) and not temporary.is_relative_to(Path(root).resolve())
    }
