"""Starts the zygote and talks to it: the server's end of the control channel."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, Protocol

from openenv_async import ProviderError

from . import bubblewrap, scratch
from .channel import Packets
from .fences import ENVIRONMENT
from .frames import (
    MAX_PACKET,
    CannotStart,
    Configure,
    ControlReply,
    ControlRequest,
    Crowded,
    Ended,
    Failed,
    Fence,
    Ready,
    control_replies,
    encode,
)
from .users import Users, find_range

__all__ = ["Launched", "WorkerEvents", "Zygote", "launch", "reserve_users"]

_BASE: Final = "openenv-coding-"
_SESSIONS: Final = "sessions"
_LOG_BYTES: Final = 8192
_PATIENCE: Final = 10.0
"""Seconds that a zygote has to end once its channel is closed."""


@dataclasses.dataclass(frozen=True)
class Launched:
    """A zygote process that was started and not heard of yet."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    base: str
    """The directory that it may write to."""
    log: IO[bytes]
    """What it writes to stderr."""

    @property
    def sessions(self) -> str:
        """Where the workers' directories are made."""
        return os.path.join(self.base, _SESSIONS)

    def kill(self) -> None:
        """Kill it. Its workers follow, because they end with it."""
        # The child of bubblewrap is the first process of the zygote's namespace, with
        # which all others in there end; bubblewrap itself is outside.
        listings = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for child in [pid for one in listings for pid in one.read_text().split()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.process.kill()

    def discard(self) -> str:
        """Wait for its end and remove everything; blocks. Returns its last words."""
        atexit.unregister(self.discard)
        self.control.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            scratch.remove(self.base)
        with self.log:
            self.log.seek(0, os.SEEK_END)
            self.log.seek(max(0, self.log.tell() - _LOG_BYTES))
            return self.log.read().decode(errors="replace")


def launch(*, hidden: Sequence[str], isolate: bool) -> Launched:
    """Start a zygote; blocks for milliseconds.

    Args:
        hidden: Paths that nothing in it may read.
        isolate: Whether to use bubblewrap where it works.

    Raises:
        ProviderError: The process cannot be started.
    """
    base = _make_base()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `discard`)
    bwrap = bubblewrap.find() if isolate else None
    try:
        process = subprocess.Popen(
            bubblewrap.command(bwrap, control=its.fileno(), base=base, hidden=hidden),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=(its.fileno(),),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        log.close()
        scratch.remove(base)
        raise ProviderError(f"expected to start a process: {error}") from error
    finally:
        its.close()
    launched = Launched(process=process, control=ours, base=base, log=log)
    # It ends with this process anyway, but cannot remove a directory that is mounted.
    atexit.register(launched.discard)
    return launched


def _make_base() -> str:
    """Make a zygote's directory, and remove those that killed servers left behind.

    Their zygotes emptied them; one in use has a directory in it from the moment on at
    which it has its name.
    """
    parent = Path(tempfile.gettempdir())
    for stale in parent.glob(f"{_BASE}*"):
        with contextlib.suppress(OSError):
            stale.rmdir()
    new = tempfile.mkdtemp(prefix=f".{_BASE}")
    # Others may pass through, to their own directories, and not look around.
    os.chmod(new, 0o711)
    sessions = os.path.join(new, _SESSIONS)
    os.mkdir(sessions)
    os.chmod(sessions, 0o711)
    base = str(parent / Path(new).name[1:])
    os.rename(new, base)
    return base


def reserve_users(*, isolate: bool) -> Users | None:
    """Users for workers, or None where they cannot have any and still run Python.

    Raises:
        ProviderError: Other servers have taken them all.
    """
    ids = find_range()
    if ids is None:
        return None
    if not (isolate and bubblewrap.find() is not None):
        # Without namespaces they see the directories as they are: Python may lie in
        # one that only root may enter.
        library = Path(os.__file__).resolve()
        if not all(parent.stat().st_mode & 0o001 for parent in library.parents):
            return None
    return Users(ids)


class WorkerEvents(Protocol):
    """Takes what the zygote tells of one worker."""

    def refused(self, reason: str, *, is_busy: bool) -> None:
        """It could not be started; nothing follows."""

    def crowded(self) -> None:
        """It is killed for its threads; `ended` follows."""

    def ended(self, status: int) -> None:
        """It is gone, with an exit status or minus a signal's number."""


class Zygote:
    """A running zygote.

    Args:
        launched: The process.
        on_end: Called once with its last words, when it ends without being asked to.
    """

    def __init__(self, launched: Launched, on_end: Callable[[], None]) -> None:
        self.launched = launched
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[list[Fence]] = self._loop.create_future()
        self._watched: dict[int, WorkerEvents] = {}
        launched.control.settimeout(0)
        self._packets = Packets(
            launched.control,
            size=MAX_PACKET,
            on_packet=self._packet,
            on_end=self._gone,
        )
        self.is_dead = False

    async def configure(self, configuration: Configure, timeout: float) -> list[Fence]:
        """Let it import everything; returns the fences that hold.

        Raises:
            ProviderError: It failed, and says why.
        """
        self.send(configuration)
        try:
            async with asyncio.timeout(timeout):
                return await self._ready
        except TimeoutError as error:
            raise ProviderError(
                f"expected the interpreters to be imported within {timeout:g} s"
            ) from error

    def send(self, request: ControlRequest, descriptors: tuple[int, ...] = ()) -> None:
        """Send a request; the descriptors are the zygote's from now on."""
        self._packets.send(encode(request), descriptors)

    def watch(self, worker: int, events: WorkerEvents) -> None:
        """Tell somebody what becomes of a worker, to its end."""
        self._watched[worker] = events

    def abandon(self) -> None:
        """Give up a zygote that does not do what it is asked."""
        if not self.is_dead:
            self._packets.close()
            self._gone()
            self._loop.run_in_executor(None, self.launched.kill)

    def _packet(self, data: bytes) -> None:
        reply: ControlReply = control_replies.decode(data)
        match reply:
            case Ready(fences):
                if not self._ready.done():
                    self._ready.set_result(fences)
            case CannotStart(worker, reason, is_busy):
                if (events := self._watched.pop(worker, None)) is not None:
                    events.refused(reason, is_busy=is_busy)
            case Crowded(worker):
                if (events := self._watched.get(worker)) is not None:
                    events.crowded()
            case Ended(worker, status):
                if (events := self._watched.pop(worker, None)) is not None:
                    events.ended(status)
            case Failed(message):
                self._fail(message)
            case _:
                pass

    def _fail(self, message: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(
                ProviderError(f"expected the interpreters to start: {message}")
            )

    def _gone(self) -> None:
        self.is_dead = True
        self._fail("the process ended")
        self._watched.clear()
        self._on_end()

    def end(self) -> asyncio.Future[str]:
        """End it, and remove its directory; the result is what it wrote to stderr."""
        self.is_dead = True
        self._packets.close()
        if not self._ready.done():
            self._ready.cancel()
        return self._loop.run_in_executor(None, self.launched.discard)
