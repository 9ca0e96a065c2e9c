"""Calls into the C library that Python does not wrap."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["PR_GET_DUMPABLE", "PR_GET_NO_NEW_PRIVS", "PR_SET_CHILD_SUBREAPER"]
__all__ += ["PR_SET_DUMPABLE", "PR_SET_NO_NEW_PRIVS", "PR_SET_PDEATHSIG"]
__all__ += ["PR_SET_SECCOMP", "SECCOMP_MODE_FILTER", "drop_capabilities"]
__all__ += ["flush_c_streams", "has_capabilities", "prctl", "syscall"]

PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
SECCOMP_MODE_FILTER: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_ULONG = ctypes.c_ulong


def prctl(option: int, first: int = 0, second: int = 0) -> int:
    """Call `prctl(2)`; an address is passed as an integer.

    Raises:
        OSError: The kernel refused.
    """
    return _checked(
        _libc.prctl(option, _ULONG(first), _ULONG(second), _ULONG(0), _ULONG(0))
    )


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with integer arguments.

    Raises:
        OSError: The kernel refused.
    """
    return _checked(
        _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITY_VERSION: Final = 0x20080522
_Capabilities = ctypes.c_uint32 * 6
"""Two sets of effective, permitted and inheritable ones."""


def drop_capabilities() -> None:
    """Give up all capabilities.

    Raises:
        OSError: The kernel refused.
    """
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(_Capabilities())))


def has_capabilities() -> bool:
    """Whether this process has any capability, or may get one back.

    Raises:
        OSError: The kernel refused.
    """
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    held = _Capabilities()
    _checked(_libc.capget(ctypes.byref(header), ctypes.byref(held)))
    return any(held)


def flush_c_streams() -> None:
    """Write out what C code has buffered for stdout and stderr."""
    _libc.fflush(None)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
