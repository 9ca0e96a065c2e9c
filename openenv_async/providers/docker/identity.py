"""Who owns a container: a process of a host, told apart from all that had its number.

A process is named by its host, the boot of that host, its number and the moment in
which it was started. Numbers are used again, hosts boot again, and a container's
processes have numbers of their own; each of these must not make a living owner look
gone, because its containers would be removed under it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import socket
from pathlib import Path
from typing import Final

__all__ = ["Owner", "current_owner", "default_name"]

_MACHINE_ID: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_START_FIELD: Final = 19
"""Place of the start time in `/proc/<pid>/stat`, counted behind the name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """A process that owns containers.

    Args:
        host: Names the host, and where it matters the container on it.
        boot: Names the boot of the host; empty where the system tells none.
        pid: Number of the process.
        start: When it was started, in the system's own unit; empty if unknown.
    """

    host: str
    boot: str
    pid: int
    start: str

    def is_alive(self) -> bool | None:
        """Whether the process runs; None if that cannot be told from here.

        It cannot for another host. Nor for another boot of this one: cloned machines
        share their names, so the owner may live on a twin of this machine.
        """
        here = current_owner()
        if (self.host, self.boot) != (here.host, here.boot):
            return None
        start = _start_of(self.pid)
        if start is None:
            return False
        return not (start and self.start) or start == self.start


def current_owner() -> Owner:
    """This process; reads some small files."""
    pid = os.getpid()
    return Owner(host=_host(), boot=_boot(), pid=pid, start=_start_of(pid) or "")


def default_name() -> str:
    """Name of the user whose process this is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in a container's list, before 3.13
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _host() -> str:
    parts = [socket.gethostname()]
    for name in _MACHINE_ID:
        with contextlib.suppress(OSError):
            parts.append(Path(name).read_text().strip())
            break
    # Processes of containers on one machine do not see each other's numbers.
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
        parts.append(namespace.removeprefix("pid:[").removesuffix("]"))
    return "/".join(parts)


def _boot() -> str:
    try:
        return Path(_BOOT_ID).read_text().strip()
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process was started; empty if it runs but does not say, else None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "" if _exists(pid) else None
    # The name before it is in brackets, and may hold any character.
    fields = stat.rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        return None  # it has ended, but nobody waited for it
    return fields[_START_FIELD].decode()


def _exists(pid: int) -> bool:
    """Ask the kernel, where `/proc` is missing or hides the processes of others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
