"""Tries each fence from inside: what is reported is what was seen to hold."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from typing import Final

from . import system
from .fences import ENVIRONMENT
from .frames import Fence

__all__ = ["verify"]

_SPREAD: Final = 1024
"""Descriptors that are looked at."""


def verify(fences: list[Fence], uid: int | None) -> list[Fence]:
    """Attack each fence of this process that is said to hold, and correct the list."""
    checks: dict[str, Callable[[], str]] = {
        "session": _session,
        "descriptors": _descriptors,
        "environment": _environment,
        "limits": _limits,
        "user": lambda: _user(uid),
        "privileges": _privileges,
        "landlock": _landlock,
        "seccomp": _seccomp,
    }
    return [_corrected(fence, checks.get(fence.name)) for fence in fences]


def _corrected(fence: Fence, check: Callable[[], str] | None) -> Fence:
    fault = check() if fence.in_force and check is not None else ""
    return Fence.missing(fence.name, fault) if fault else fence


def _refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False


def _session() -> str:
    own = os.getsid(0) == os.getpid()
    return "" if own else "the session is somebody else's"


def _descriptors() -> str:
    found: list[int] = []
    for descriptor in range(_SPREAD):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        found.append(descriptor)
    return "" if found == [0, 1, 2, 3] else f"open descriptors: {found}"


def _environment() -> str:
    foreign = sorted(set(os.environ) - set(ENVIRONMENT))
    return f"inherited variables: {foreign}" if foreign else ""


def _limits() -> str:
    bounded = ("AS", "CPU", "FSIZE", "NOFILE", "CORE", "STACK")
    missing = [
        name
        for name in bounded
        if resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        == resource.RLIM_INFINITY
    ]
    return f"not limited: {missing}" if missing else ""


def _user(uid: int | None) -> str:
    if os.getresuid() != (uid, uid, uid) or os.getgroups():
        return "the user could not be changed"
    return "" if _refused(lambda: os.setuid(0)) else "it can become root again"


def _privileges() -> str:
    if system.prctl(system.PR_GET_NO_NEW_PRIVS) != 1:
        return "it can gain privileges"
    if system.has_capabilities():
        return "it has capabilities"
    readable = system.prctl(system.PR_GET_DUMPABLE) != 0
    return "its memory is readable for others" if readable else ""


def _landlock() -> str:
    # Whoever it is, it could list the root directory otherwise.
    return "" if _refused(lambda: os.listdir("/")) else "it can read the root directory"


def _seccomp() -> str:
    if not _refused(_fork):
        return "it can start processes"
    with_socket = not _refused(lambda: socket.socket().close())
    return "it can open sockets" if with_socket else ""


def _fork() -> None:
    if not (child := os.fork()):
        os._exit(0)
    os.waitpid(child, 0)
