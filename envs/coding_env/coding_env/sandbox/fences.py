"""The fences of a worker: each is put up by a function, which says whether it holds.

They are put up in the forked child, in the order of `enclose`, and none can be taken
down again. A fence that the machine does not offer is reported, never silently left
out; see README.md for what each of them stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from . import landlock, seccomp, system
from .frames import Fence
from .limits import Limits

__all__ = ["ENVIRONMENT", "Equipment", "beneath", "enclose", "equip", "namespaces"]

_MIB: Final = 1024 * 1024
_STACK: Final = 8 * _MIB
_CHANNEL: Final = 3
"""The descriptor of the worker's channel, behind those of its standard streams."""
_NICENESS: Final = 5
"""Below the server, which has to answer for all other sessions meanwhile."""
_SYSTEM_LIBRARIES: Final = {
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
}
ENVIRONMENT: Final = {
    "HOME": "/",
    "LANG": "C.UTF-8",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Libraries that start threads when they are imported could not be forked.
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    # An episode that is played again shall go the same way.
    "PYTHONHASHSEED": "0",
    "TMPDIR": "/",
    "TZ": "UTC",
}
"""All variables of a worker; the zygote starts with them."""
_NAMESPACES: Final = ("net", "pid", "mnt", "ipc", "uts")


@dataclasses.dataclass(frozen=True)
class Equipment:
    """What the zygote prepared once for the fences of all workers."""

    limits: Limits
    namespaces: Fence
    seccomp_filter: bytes | None
    seccomp_fault: str
    landlock_abi: int
    landlock_fault: str
    readable: landlock.Paths


def equip(limits: Limits, *, hidden: Sequence[str], namespaces: Fence) -> Equipment:
    """Prepare what needs time or rights that a worker does not have.

    Args:
        limits: Of each worker.
        hidden: Paths that no worker may read.
        namespaces: What is known about those already.
    """
    program, seccomp_fault = None, ""
    try:
        program = seccomp.compile_filter()
    except (ImportError, OSError) as error:
        seccomp_fault = str(error)
    abi, landlock_fault, readable = 0, "", []
    try:
        abi = landlock.abi()
    except OSError as error:
        landlock_fault = f"the kernel offers no Landlock here: {error.strerror}"
    else:
        readable = landlock.open_paths(_readable(hidden))
    return Equipment(
        limits=limits,
        namespaces=namespaces,
        seccomp_filter=program,
        seccomp_fault=seccomp_fault,
        landlock_abi=abi,
        landlock_fault=landlock_fault,
        readable=readable,
    )


def enclose(
    equipment: Equipment, *, uid: int | None, scratch: str, parent: int
) -> list[Fence]:
    """Put up every fence around this process; called in a forked child.

    Args:
        equipment: From `equip`.
        uid: What to become; None stays who we are.
        scratch: The working directory, which belongs to `uid`.
        parent: Process id of the zygote, with which the worker ends.
    """
    mapped = _mapped()
    return [
        _session(),
        _descriptors(equipment),
        _environment(scratch),
        _user(uid),
        _privileges(parent),
        equipment.namespaces,
        _landlock(equipment, scratch),
        # Behind those that still open files.
        _limits(equipment, mapped, has_user=uid is not None),
        _seccomp(equipment),
    ]


def _mapped() -> int:
    """Bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    return pages * resource.getpagesize()


def _session() -> Fence:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o077)
    os.nice(_NICENESS)
    with contextlib.suppress(OSError):  # not everywhere, and no fence
        # Where memory runs out after all, the server is not what is killed for it.
        Path("/proc/self/oom_score_adj").write_text("1000")
    return Fence.holding("session", "a session of its own, without a terminal")


def _descriptors(equipment: Equipment) -> Fence:
    kept = {descriptor for descriptor, _ in equipment.readable}
    start = _CHANNEL + 1
    for descriptor in sorted(kept):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
    # Landlock's descriptors are closed by that fence.
    return Fence.holding("descriptors", "its channel and its standard streams only")


def _environment(scratch: str) -> Fence:
    # The worker's own environment, which nothing else shares.
    for name in set(os.environ) - set(ENVIRONMENT):
        del os.environ[name]
    os.environ["HOME"] = os.environ["TMPDIR"] = scratch
    os.chdir(scratch)
    return Fence.holding("environment", f"{len(os.environ)} variables, all our own")


def _limits(equipment: Equipment, mapped: int, *, has_user: bool) -> Fence:
    limits = equipment.limits
    cpu = limits.cpu_seconds
    bounds = {
        resource.RLIMIT_AS: mapped + limits.memory_mib * _MIB,
        resource.RLIMIT_FSIZE: limits.file_mib * _MIB,
        resource.RLIMIT_STACK: _STACK,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NOFILE: limits.files,
    }
    if has_user:
        # The kernel counts by user: it would count the server's threads too.
        bounds[resource.RLIMIT_NPROC] = limits.threads
    elif equipment.seccomp_filter is None:
        # Then nothing else keeps it from starting processes: no threads either.
        bounds[resource.RLIMIT_NPROC] = 0
    for kind, most in bounds.items():
        _lower(kind, most, most)
    # SIGXCPU first, which tells what happened; it can be ignored, what follows cannot.
    _lower(resource.RLIMIT_CPU, cpu, cpu + 1)
    threads = f", {limits.threads} threads" if has_user else ""
    detail = (
        f"{limits.memory_mib} MiB of memory, {cpu} s of processor time, "
        f"{limits.file_mib} MiB a file, {limits.files} descriptors{threads}"
    )
    return Fence.holding("limits", detail)


def _lower(kind: int, soft: int, hard: int) -> None:
    """Set a limit, but never above what the operator of the machine set."""
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _user(uid: int | None) -> Fence:
    if uid is None:
        return Fence.missing("user", "the server may not change users")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    return Fence.holding("user", "an unprivileged user of its own")


def _privileges(parent: int) -> Fence:
    # After the change of user, which resets the first two.
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    system.prctl(system.PR_SET_DUMPABLE, 0)
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    # They went with the user, unless that is still root.
    system.drop_capabilities()
    if os.getppid() != parent:
        os._exit(1)
    return Fence.holding("privileges", "none, and no new ones; unreadable for others")


def _landlock(equipment: Equipment, scratch: str) -> Fence:
    detail = f"ABI {equipment.landlock_abi}: its scratch, and Python to read"
    fence = Fence.holding("landlock", detail)
    if not equipment.landlock_abi:
        return Fence.missing("landlock", equipment.landlock_fault)
    try:
        landlock.restrict(equipment.readable, scratch, version=equipment.landlock_abi)
    except OSError as error:
        fence = Fence.missing("landlock", str(error))
    for descriptor, _ in equipment.readable:
        os.close(descriptor)
    return fence


def _seccomp(equipment: Equipment) -> Fence:
    if equipment.seccomp_filter is None:
        return Fence.missing("seccomp", equipment.seccomp_fault)
    try:
        seccomp.enter(equipment.seccomp_filter)
    except OSError as error:
        return Fence.missing("seccomp", str(error))
    return Fence.holding("seccomp", "no sockets, no processes, no signals to others")


# What is known from outside


def namespaces() -> dict[str, str]:
    """The namespaces of this process, by kind."""
    found: dict[str, str] = {}
    for kind in _NAMESPACES:
        try:
            found[kind] = os.readlink(f"/proc/self/ns/{kind}")
        except OSError:
            continue
    return found


def _readable(hidden: Sequence[str]) -> Iterable[str]:
    """What Python needs to import modules, and no more."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    libraries = {
        path for path in sys.path if any(Path(path).is_relative_to(r) for r in roots)
    }
    secret = [Path(path).resolve() for path in hidden]
    for path in sorted(libraries | _SYSTEM_LIBRARIES):
        yield from beneath(Path(path).resolve(), secret)


def beneath(directory: Path, secret: Sequence[Path]) -> Iterable[str]:
    """A directory, or what is in it where something of that is secret.

    Args:
        directory: Resolved.
        secret: Resolved paths that nothing that is returned may lead to.
    """
    if directory in secret:
        return
    if not any(path.is_relative_to(directory) for path in secret):
        # Paths that are not there are left out later.
        yield str(directory)
        return
    for entry in directory.iterdir():
        if entry.is_symlink():
            # It needs no rule: what it leads to has its own, or may not be read. A
            # virtual environment's `lib64` would lead to what is secret in `lib`.
            continue
        if entry.is_dir():
            yield from beneath(entry, secret)
        elif entry not in secret:
            yield str(entry)
