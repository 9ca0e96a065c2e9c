"""The zygote: a process that has everything imported, and forks workers on request.

One thread, one loop, no asyncio: it must be forkable at any time. It never runs code of
an action. It ends with the server, whichever way that ends, because its control channel
is closed then; and takes its workers and their directories with it.

Run as `python -m coding_env.sandbox.zygote DESCRIPTOR`.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from ..interpreters.base import Kind, warm_up
from . import scratch, system, worker
from .fences import Equipment, enclose, equip, namespaces
from .frames import (
    MAX_PACKET,
    CannotStart,
    Configure,
    ControlReply,
    Crowded,
    Ended,
    Failed,
    Fence,
    Inspect,
    Kill,
    Ready,
    Start,
    Started,
    control_requests,
    encode,
)
from .probe import verify

__all__ = ["main"]

_fence_decoder: msgspec.msgpack.Decoder[list[Fence]] = msgspec.msgpack.Decoder(
    list[Fence]
)
_FENCE_BYTES = 65_536
_PROBE = "probe"
_CANNOT_START = 71
"""Exit status of a worker that could not be fenced in, as in sysexits.h."""


_REAPED_AT_ONCE = 64
_TRIES = 16
_BUSY = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What a fork fails with when others have taken all that there is."""
_THREADS_FIELD = 17
"""Place of the number of threads in `/proc/<pid>/stat`, counted behind the name."""


class _Worker(NamedTuple):
    pid: int
    uid: int | None


class _Zygote:
    """Forks workers and tells the server when they end.

    Args:
        control: The channel to the server.
        configuration: What the server sent first.
    """

    def __init__(self, control: socket.socket, configuration: Configure) -> None:
        self._control = control
        self._configuration = configuration
        self._workers: dict[int, _Worker] = {}
        """Those that live, by number."""
        self._numbers: dict[int, int] = {}
        """Their numbers, by process id."""
        self._equipment: Equipment | None = None
        self._in_force: set[str] = set()
        # Python writes to it on a signal, which wakes the loop.
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_reader, self._wake_writer = pipe
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The server says when to end; a terminal's Ctrl-C is meant for it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def prepare(self) -> list[Fence]:
        """Import everything, make the fences' material, and probe them."""
        configuration = self._configuration
        # Nobody else may read what it holds; and what a worker leaves behind becomes
        # its child, so that it can be found and killed.
        system.prctl(system.PR_SET_DUMPABLE, 0)
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
        for kind in configuration.kinds:
            warm_up(cast(Kind, kind), configuration.authorized_imports)
        self._equipment = equip(
            configuration.limits,
            hidden=configuration.hidden,
            namespaces=_compare(configuration.namespaces),
        )
        # Forked processes share these objects only as long as nobody touches them.
        gc.collect()
        gc.freeze()
        gc.disable()
        fences = self._probe(configuration.uid)
        self._in_force = {fence.name for fence in fences if fence.in_force}
        return fences

    def _probe(self, uid: int | None) -> list[Fence]:
        """Put all fences around a child that then attacks them."""
        reader, writer = os.pipe()
        directory = os.path.join(self._configuration.scratch, _PROBE)
        scratch.make(directory, uid)

        def report(fences: list[Fence]) -> None:
            os.write(worker.CHANNEL, encode(verify(fences, uid)))

        pid = self._fork(directory, uid, (writer, 1, 2), report)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            found = file.read(_FENCE_BYTES)
        os.waitpid(pid, 0)
        scratch.remove(directory)
        if not found:
            raise RuntimeError("expected the fences to be put up, but the probe died")
        return _fence_decoder.decode(found)

    # The loop

    def loop(self) -> None:
        """Serve until the server is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_reader, 4096)
                    self._reap()
                elif not self._serve_one():
                    return

    def _serve_one(self) -> bool:
        """Read and serve one request; says whether the server is still there."""
        data, descriptors, _, _ = socket.recv_fds(self._control, MAX_PACKET, 3)
        if not data:
            return False
        request = control_requests.decode(data)
        if isinstance(request, Start):
            channel, stdout, stderr = descriptors
            self._start(request, (channel, stdout, stderr))
        elif isinstance(request, Kill):
            self._kill(request.worker)
        elif isinstance(request, Inspect):
            self._inspect(request.workers)
        return True

    def send(self, message: ControlReply) -> None:
        """Tell the server something."""
        self._control.send(encode(message))

    # Workers

    def _start(self, request: Start, descriptors: tuple[int, int, int]) -> None:
        directory = os.path.join(self._configuration.scratch, str(request.worker))

        def serve(fences: list[Fence]) -> None:
            missing = self._in_force - {one.name for one in fences if one.in_force}
            if missing:
                raise RuntimeError(f"expected the fences {sorted(missing)} to hold")
            worker.serve(
                cast(Kind, request.kind),
                authorized_imports=self._configuration.authorized_imports,
                output_bytes=self._configuration.limits.output_bytes,
            )

        try:
            scratch.make(directory, request.uid)
            pid = self._fork(directory, request.uid, descriptors, serve)
        except OSError as error:
            # Removed by the server, if it was made.
            is_busy = error.errno in _BUSY
            self.send(CannotStart(request.worker, str(error), is_busy))
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._workers[request.worker] = _Worker(pid, request.uid)
        self._numbers[pid] = request.worker
        self.send(Started(request.worker))

    def _fork(
        self,
        directory: str,
        uid: int | None,
        descriptors: tuple[int, int, int],
        body: Callable[[list[Fence]], None],
    ) -> int:
        """Fork a child that runs `body` inside all fences; returns its process id."""
        assert self._equipment is not None
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            worker.take_over(*descriptors)
            fences = enclose(self._equipment, uid=uid, scratch=directory, parent=parent)
            body(fences)
            os._exit(0)
        except BaseException:  # noqa: BLE001 (a child must never return into the loop)
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(_CANNOT_START)

    def _kill(self, number: int) -> None:
        one = self._workers.get(number)
        if one is not None:
            os.kill(one.pid, signal.SIGKILL)

    def _inspect(self, numbers: list[int]) -> None:
        """Kill the workers that have too many threads.

        Each is only one process for the kernel's limits, but together they could take
        all that a container may have, so that nobody could start anything any more.
        """
        most = self._configuration.limits.threads
        for number in numbers:
            one = self._workers.get(number)
            if one is not None and _threads_of(one.pid) > most:
                os.kill(one.pid, signal.SIGKILL)
                self.send(Crowded(number))

    def _reap(self) -> None:
        """Report the workers that ended, and kill what they left behind."""
        for _ in range(_REAPED_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                one = self._workers.pop(number)
                # Before anybody else gets its user.
                self._kill_strays(one.uid)
                self.send(Ended(number, os.waitstatus_to_exitcode(status)))
        # Whoever forks without end shall not keep us from the server.
        os.write(self._wake_writer, b"\0")

    def _kill_strays(self, uid: int | None) -> None:
        """Kill what a worker left behind; only without seccomp there can be something.

        Its children are ours now, because we are the subreaper. With a user of its own,
        all its processes are killed at once, so that none can fork away.
        """
        own = os.getpid()
        listing = Path(f"/proc/{own}/task/{own}/children")
        for child in map(int, listing.read_bytes().split()):
            if child in self._numbers:
                continue
            if uid is not None:
                _kill_all_of(uid)
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def end(self) -> None:
        """Kill all workers, and remove their directories."""
        signal.set_wakeup_fd(-1)
        for one in self._workers.values():
            os.kill(one.pid, signal.SIGKILL)
        while self._workers:
            pid, _ = os.waitpid(-1, 0)
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._kill_strays(self._workers.pop(number).uid)
        with contextlib.suppress(OSError):
            scratch.remove(self._configuration.scratch)
            # Refused where it is mounted for us alone; then it is empty at least.
            os.rmdir(os.path.dirname(self._configuration.scratch))


def _kill_all_of(uid: int) -> None:
    """Kill every process of a user, in one system call that nothing escapes."""
    for _ in range(_TRIES):
        pid = os.fork()
        if not pid:
            try:
                # The call spares its caller, and whatever that may not kill.
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass  # nobody else was left
            except BaseException:  # noqa: BLE001 (a child must never return into the loop)
                os._exit(1)
            os._exit(0)
        # The user's processes could have killed it before it killed them.
        if os.waitpid(pid, 0)[1] == 0:
            return


def _threads_of(pid: int) -> int:
    """How many threads a child of ours has."""
    # It is there until we reap it, even if it has ended.
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    # The name before it is in brackets, and may hold any character.
    return int(stat.rpartition(b")")[2].split()[_THREADS_FIELD])


def _compare(servers: dict[str, str]) -> Fence:
    """Which namespaces of ours are not the server's."""
    own = [kind for kind, name in namespaces().items() if servers.get(kind) != name]
    needed = {"net", "pid", "mnt"}
    if needed <= set(own):
        return Fence.holding("namespaces", f"its own: {', '.join(own)}")
    return Fence.missing("namespaces", "bubblewrap is not installed or not permitted")


def main() -> None:
    """Serve the control channel whose descriptor is the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    try:
        first = control_requests.decode(control.recv(MAX_PACKET))
        if not isinstance(first, Configure):
            raise TypeError(f"expected a configuration first, got {first!r}")
        zygote = _Zygote(control, first)
        zygote.send(Ready(zygote.prepare()))
    except Exception as error:  # noqa: BLE001 (whatever it is, the server has to tell it)
        traceback.print_exc()
        control.send(encode(Failed(f"{type(error).__name__}: {error}")))
        return
    try:
        zygote.loop()
    except BrokenPipeError:
        pass  # The server is gone, and did not say so before.
    finally:
        zygote.end()


if __name__ == "__main__":
    main()
