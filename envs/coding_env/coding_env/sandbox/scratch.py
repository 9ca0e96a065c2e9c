"""Directories that come and go with workers: made, measured and removed.

What is inside was put there by hostile code: symbolic links are never followed, depth
costs neither stack nor descriptors, and modes that would keep us out are changed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Final

__all__ = ["make", "measure", "remove"]

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512
"""Bytes in a unit of `st_blocks`."""
_DEPTH: Final = 64
"""Directories in one another that are measured: deeper ones count as too many."""


def make(path: str, uid: int | None) -> None:
    """Make an empty directory that only `uid` may enter."""
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)


def measure(path: str, *, most_files: int) -> tuple[int, int]:
    """Bytes on disk and number of entries below a directory.

    Stops counting above `most_files`, because what is above is too much anyway; a
    directory that was made unreadable counts as too much.
    """
    size = count = 0
    pending = [(path, 0)]
    while pending:
        directory, depth = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except PermissionError:
            # What it hides may be anything.
            return size, most_files + 1
        except OSError:
            continue  # gone meanwhile
        for entry in entries:
            count += 1
            if count > most_files:
                return size, count
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            size += found.st_blocks * _BLOCK
            if stat.S_ISDIR(found.st_mode):
                if depth >= _DEPTH:
                    return size, most_files + 1
                pending.append((entry.path, depth + 1))
    return size, count


def remove(path: str) -> None:
    """Remove a directory with all that is in it; what is gone meanwhile is no error.

    Directories inside directories are moved to the top before they are emptied, so
    that no path is ever longer than two names.

    Raises:
        OSError: Something in it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        top = os.open(path, _OPEN)
        try:
            numbers = itertools.count()
            while _empty(top, top, numbers):
                pass
        finally:
            os.close(top)
        os.rmdir(path)


def _empty(directory: int, top: int, numbers: Iterator[int]) -> bool:
    """Remove the files in a directory; says whether directories were there.

    Those in the top directory are emptied and removed; those below move up.
    """
    found = False
    with os.scandir(directory) as entries:
        names = [(one.name, one.is_dir(follow_symlinks=False)) for one in entries]
    for name, is_directory in names:
        found = found or is_directory
        with contextlib.suppress(FileNotFoundError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
            elif directory == top:
                _remove_inner(name, top, numbers)
            else:
                _move_up(name, directory, top, numbers)
    return found


def _remove_inner(name: str, top: int, numbers: Iterator[int]) -> None:
    # Without this, a user that is not root could not list it.
    os.chmod(name, 0o700, dir_fd=top)
    inner = os.open(name, _OPEN, dir_fd=top)
    try:
        _empty(inner, top, numbers)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _move_up(name: str, directory: int, top: int, numbers: Iterator[int]) -> None:
    # Without this, a user that is not root could not move it.
    os.chmod(name, 0o700, dir_fd=directory)
    for number in numbers:
        free = f"moved-{number}"
        try:
            os.lstat(free, dir_fd=top)
        except FileNotFoundError:
            os.rename(name, free, src_dir_fd=directory, dst_dir_fd=top)
            return
