"""The system calls that a worker is denied, as a seccomp filter.

libseccomp compiles the filter once, in the zygote. A worker may signal nobody but
itself; its process id is not known by then, so a placeholder stands for it and is
replaced in the compiled program after the fork. Everything that is not named here is
allowed: the list takes away what reaches beyond the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
from typing import Any, Final

from . import system

__all__ = ["compile_filter", "enter"]

_PLACEHOLDER: Final = 0x5A17C0DE
_JUMP_IF_EQUAL: Final = 0x15
_INSTRUCTION: Final = struct.Struct("=HBBI")
_CLONE_THREAD: Final = 0x00010000
_SOCKET_TYPE: Final = 0xF

_DENIED: Final = re.findall(
    r"\w+",
    """
    socket bind listen accept accept4 connect sendmmsg

    fork vfork execve execveat
    tkill pidfd_open pidfd_send_signal pidfd_getfd
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp

    mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsmount
    fsconfig fspick mount_setattr unshare setns quotactl quotactl_fd
    name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
    inotify_init inotify_init1 inotify_add_watch

    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups
    setuid32 setgid32 setreuid32 setregid32 setresuid32 setresgid32 setfsuid32
    setfsgid32 setgroups32 capset

    bpf keyctl add_key request_key perf_event_open userfaultfd personality
    io_uring_setup io_uring_enter io_uring_register modify_ldt ioperm iopl
    init_module finit_module delete_module create_module query_module uselib
    kexec_load kexec_file_load reboot swapon swapoff acct syslog vhangup
    sethostname setdomainname settimeofday stime clock_settime clock_settime64
    clock_adjtime clock_adjtime64 adjtimex lookup_dcookie nfsservctl _sysctl

    memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgrcv msgctl
    semget semop semctl semtimedop mq_open mq_unlink
    """,
)
"""Denied whatever the arguments are. The last group is memory that outlives its process
or that no limit of the process counts."""

_OWN_ONLY: Final = (
    ("kill", _PLACEHOLDER),
    ("tgkill", _PLACEHOLDER),
    ("rt_sigqueueinfo", _PLACEHOLDER),
    ("rt_tgsigqueueinfo", _PLACEHOLDER),
    # Zero stands for the caller.
    ("prlimit64", 0),
    ("sched_setaffinity", 0),
    ("sched_setscheduler", 0),
    ("sched_setparam", 0),
    ("sched_setattr", 0),
)
"""Allowed where the first argument is the process itself."""

_PRCTL_DENIED: Final = (
    system.PR_SET_PDEATHSIG,
    system.PR_SET_DUMPABLE,
    system.PR_SET_CHILD_SUBREAPER,
)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def compile_filter() -> bytes:
    """Compile the filter, with the placeholder in it.

    Raises:
        ImportError: pyseccomp is not installed, or cannot load libseccomp.
        OSError: libseccomp cannot compile the filter.
    """
    try:
        import pyseccomp  # type: ignore[import-untyped]  # noqa: PLC0415 (an extra, and it loads a library of the system)
    except RuntimeError as error:
        raise ImportError(str(error)) from error
    chain: Any = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    chain.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    deny = pyseccomp.ERRNO(errno.EPERM)
    argument = pyseccomp.Arg
    for name in _DENIED:
        _add(pyseccomp, chain, deny, name)
    for name, own in _OWN_ONLY:
        _add(pyseccomp, chain, deny, name, argument(0, pyseccomp.NE, own))
    # `setpriority(which, who)`: only the caller itself, which is 0 of kind 0.
    _add(pyseccomp, chain, deny, "setpriority", argument(0, pyseccomp.NE, 0))
    _add(pyseccomp, chain, deny, "setpriority", argument(1, pyseccomp.NE, 0))
    for option in _PRCTL_DENIED:
        _add(pyseccomp, chain, deny, "prctl", argument(0, pyseccomp.EQ, option))
    # Threads are no processes. What `clone3` is asked for cannot be seen from here,
    # and without it the C library falls back to `clone`.
    no_thread = argument(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0)
    _add(pyseccomp, chain, deny, "clone", no_thread)
    _add(pyseccomp, chain, pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    # A connected pair reaches nobody else, and asyncio needs one; datagrams could be
    # sent to another address.
    _add(pyseccomp, chain, deny, "sendto", argument(4, pyseccomp.NE, 0))
    family = argument(0, pyseccomp.NE, socket.AF_UNIX)
    _add(pyseccomp, chain, deny, "socketpair", family)
    for kind in range(_SOCKET_TYPE + 1):
        if kind != socket.SOCK_STREAM:
            other = argument(1, pyseccomp.MASKED_EQ, _SOCKET_TYPE, kind)
            _add(pyseccomp, chain, deny, "socketpair", other)
    return _export(chain)


def _add(pyseccomp: Any, chain: Any, action: Any, name: str, *arguments: Any) -> None:
    try:
        chain.add_rule(action, name, *arguments)
    except (OSError, ValueError, RuntimeError):
        # This libseccomp, or this architecture, does not know the call by that name.
        if _is_known(pyseccomp, name):
            raise


def _is_known(pyseccomp: Any, name: str) -> bool:
    try:
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    except (OSError, ValueError, RuntimeError):
        return False
    return bool(number >= 0)


def _export(chain: Any) -> bytes:
    descriptor = os.memfd_create("filter")
    with os.fdopen(descriptor, "w+b") as file:
        chain.export_bpf(file)
        file.seek(0)
        return file.read()


def enter(program: bytes) -> None:
    """Put the filter around this process, for good; needs `no_new_privs`.

    Raises:
        OSError: The kernel refused.
    """
    own = os.getpid()
    code = bytearray(program)
    for at in range(0, len(code), _INSTRUCTION.size):
        operation, jump_true, jump_false, value = _INSTRUCTION.unpack_from(code, at)
        if operation == _JUMP_IF_EQUAL and value == _PLACEHOLDER:
            _INSTRUCTION.pack_into(code, at, operation, jump_true, jump_false, own)
    buffer = (ctypes.c_char * len(code)).from_buffer(code)
    count = len(code) // _INSTRUCTION.size
    instructions = _Program(count, ctypes.addressof(buffer))
    address = ctypes.addressof(instructions)
    system.prctl(system.PR_SET_SECCOMP, system.SECCOMP_MODE_FILTER, address)
