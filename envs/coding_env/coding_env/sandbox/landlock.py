"""Landlock: which files a process, and all that it becomes, may open.

The kernel's own interface (its system calls have the same numbers on every
architecture). A ruleset allows what its rules name and denies all the rest; once
entered it cannot be left. See landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from . import system

__all__ = ["Paths", "abi", "open_paths", "restrict"]

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_MAKE_FIFO: Final = 1 << 10
_MAKE_SYM: Final = 1 << 12
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14

# By ABI: all rights on files that it knows, TCP, and what is scoped to the domain.
_FILE_RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_FILE_RIGHTS_5: Final = (1 << 16) - 1
_NET_ABI: Final = 4
_NET_RIGHTS: Final = 0b11
_SCOPE_ABI: Final = 6
_SCOPES: Final = 0b11
"""Abstract Unix sockets, and signals."""

_READ: Final = _READ_FILE | _READ_DIR
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""Rights that a rule for something that is no directory may carry."""
_SCRATCH: Final = (
    _READ
    | _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_FIFO
    | _MAKE_SYM
    | _REFER
    | _TRUNCATE
)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random")

Paths = list[tuple[int, int]]
"""Descriptors and the rights beneath them."""


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The version that the kernel speaks.

    Raises:
        OSError: It has no Landlock, or something forbids to use it.
    """
    return system.syscall(_CREATE_RULESET, 0, 0, _VERSION)


def open_paths(readable: Iterable[str]) -> Paths:
    """Open what every worker may read, once, so that entering costs little.

    Paths that are not there are left out.
    """
    paths: Paths = []
    for path in readable:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        paths.append((descriptor, _READ if is_directory else _READ_FILE))
    for path in _DEVICES:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        paths.append((descriptor, _READ_FILE | _WRITE_FILE))
    return paths


def restrict(paths: Paths, scratch: str, *, version: int) -> None:
    """Allow this process what `paths` say, `scratch`, and nothing else, for good.

    Args:
        paths: From `open_paths`.
        scratch: A directory in which everything may be done but execute.
        version: From `abi`.

    Raises:
        OSError: The kernel refused.
    """
    handled = (
        _FILE_RIGHTS_5 if version >= 5 else _FILE_RIGHTS.get(version, (1 << 15) - 1)
    )
    attr = _RulesetAttr(
        handled,
        _NET_RIGHTS if version >= _NET_ABI else 0,
        _SCOPES if version >= _SCOPE_ABI else 0,
    )
    # Older kernels refuse a longer struct than they know, unless its rest is zero.
    ruleset = system.syscall(
        _CREATE_RULESET, ctypes.addressof(attr), ctypes.sizeof(attr), 0
    )
    directory = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
    try:
        for descriptor, rights in [*paths, (directory, _SCRATCH)]:
            rule = _PathBeneathAttr(rights & handled, descriptor)
            system.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.addressof(rule), 0)
        system.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(directory)
        os.close(ruleset)
