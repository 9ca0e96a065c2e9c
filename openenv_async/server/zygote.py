"""The process that forks workers: `python -m openenv_async.server.zygote`.

It imports the environment once. One thread of its own and no event loop, so that it can
be forked at any time; it runs nothing of an environment but its import. It ends with
the server, because its channel is closed then; its workers notice that by their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys
from types import FrameType
from typing import Final, NoReturn

from ..environment import EnvironmentSpec, find_spec
from .forks import ENDED, FORK, ORDER, READY, REPORT
from .worker import run_worker

__all__ = ["main"]

_CANNOT_FORK: Final = 71
"""Exit status where the system has no room for a process, as in sysexits.h."""


class _Zygote:
    """Forks workers and tells of their ends."""

    def __init__(
        self, control: socket.socket, spec: EnvironmentSpec, *, tracebacks: bool
    ) -> None:
        self._control = control
        self._spec = spec
        self._tracebacks = tracebacks
        self._numbers: dict[int, int] = {}
        """Of those that live, by process id."""
        # Python writes to it on a signal, which wakes the loop.
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)

    def run(self) -> None:
        """Serve until the server is gone."""
        self._report(READY, 0, os.getpid())
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake[0]:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake[0], 4096)
                elif not self._obey():
                    return
            self._reap()

    def _report(self, kind: int, number: int, value: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendall(REPORT.pack(kind, number, value))

    def _obey(self) -> bool:
        """Carry out one order; returns False at the end of the channel."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, ORDER.size, 1)
        except ConnectionResetError:
            return False
        if len(data) < ORDER.size:
            return False
        kind, number = ORDER.unpack(data)
        if kind == FORK:
            self._fork(number, descriptors[0])
            return True
        for pid, known in self._numbers.items():
            if known == number:
                os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, number: int, descriptor: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            os.close(descriptor)
            self._report(ENDED, number, _CANNOT_FORK)
            return
        if not pid:
            self._be_worker(descriptor)
        os.close(descriptor)
        self._numbers[pid] = number
        self._report(READY, number, pid)

    def _be_worker(self, descriptor: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            for end in self._wake:
                os.close(end)
            gc.enable()
            _reseed()
            run_worker(descriptor, self._spec, tracebacks=self._tracebacks)
            status = 0
        finally:
            # Not the zygote's own way out: what it registered is the zygote's.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._report(ENDED, number, os.waitstatus_to_exitcode(status))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The wake-up is all that is wanted of a signal."""


def _reseed() -> None:
    """Give a forked process random numbers of its own; `random` does so by itself."""
    for name in ("numpy.random", "torch"):
        module = sys.modules.get(name)
        if module is not None:
            module.seed()


def main(arguments: list[str]) -> None:
    """Import what to serve, then fork on request."""
    descriptor, target, tracebacks = arguments
    # The server says when to end; a terminal's Ctrl-C is meant for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=int(descriptor))
    fcntl.fcntl(control, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    zygote = _Zygote(control, find_spec(target), tracebacks=tracebacks == "1")
    # Forked processes share these objects only as long as nobody touches them.
    gc.collect()
    gc.freeze()
    gc.disable()
    zygote.run()


if __name__ == "__main__":
    main(sys.argv[1:])
