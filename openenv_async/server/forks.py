"""Processes that are forked from one which has their environment imported.

Importing an environment may take seconds, forking takes milliseconds. `python -m
openenv_async.server.zygote` imports and forks; this is the server's side of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
from typing import Final

import anyio

from ..errors import ProviderError

__all__ = ["ENDED", "FORK", "KILL", "ORDER", "READY", "REPORT", "Fork", "ForkServer"]

_logger = logging.getLogger("openenv_async.server")

ORDER: Final = struct.Struct("!BI")
"""What the server sends: a kind, and the number of a process."""
FORK: Final = 1
"""Fork a process of this number, for the socket that comes along."""
KILL: Final = 2

REPORT: Final = struct.Struct("!BIi")
"""What comes back: a kind, the number of a process, and what is to know about it."""
READY: Final = 1
"""The environment is imported (number 0), or a process runs: its process id."""
ENDED: Final = 2
"""A process has ended: its exit status, negative for a signal."""

_START_TIMEOUT: Final = 60.0
"""Seconds for the import."""
_FORK_TIMEOUT: Final = 10.0
_END_TIMEOUT: Final = 2.0


class Fork:
    """A forked process, seen from its grandparent."""

    def __init__(self, server: ForkServer, number: int) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._number = number
        self._ended = asyncio.Event()

    def kill(self) -> None:
        """End the process at once; idempotent."""
        if self.returncode is None:
            self._server.kill(self._number, self.pid)

    async def wait(self) -> int:
        """Wait for its end; returns the exit status, negative for a signal."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, status: int) -> None:
        """It has ended."""
        self.returncode = status
        self._ended.set()
        if not self.started.done():
            self.started.set_exception(
                ProviderError(f"expected a process, got exit status {status}")
            )
            # Nobody may be waiting any more; that is not worth a warning.
            self.started.exception()


class _Channel(asyncio.Protocol):
    """The channel from one warm process."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The channel is open."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take reports."""
        self._buffer += data
        while len(self._buffer) >= REPORT.size:
            kind, number, value = REPORT.unpack(self._buffer[: REPORT.size])
            del self._buffer[: REPORT.size]
            if not number:
                self._server.ready()
            elif kind == READY:
                self._server.forked(number, value)
            else:
                self._server.ended(number, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone."""
        self._server.lost(self)


class ForkServer:
    """Forks processes that serve one environment, from a warm one.

    The warm process starts with the first fork, and again after it died.

    Args:
        target: What to import, as `openenv-async serve` takes it.
        tracebacks: Whether callers see tracebacks.
    """

    def __init__(self, target: str, *, tracebacks: bool) -> None:
        self._target = target
        self._tracebacks = tracebacks
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._channel: _Channel | None = None
        self._ready: asyncio.Future[None] | None = None
        self._forks: dict[int, Fork] = {}
        self._number = 0
        # One at a time: descriptors on their way to a process are few and counted.
        self._lock = anyio.Lock()

    async def fork(self, connection: socket.socket) -> Fork:
        """Fork a process that serves the other end of a connection.

        Raises:
            ProviderError: The environment cannot be imported, or no process be made.
        """
        async with self._lock:
            await self._start()
            self._number += 1
            fork = self._forks[self._number] = Fork(self, self._number)
            assert self._control is not None
            try:
                socket.send_fds(
                    self._control,
                    [ORDER.pack(FORK, self._number)],
                    [connection.fileno()],
                )
                with anyio.fail_after(_FORK_TIMEOUT):
                    await fork.started
            except BaseException as error:
                # Of a cancellation too. The order comes behind that to fork.
                self._forks.pop(self._number, None)
                self.kill(self._number, fork.pid)
                if not isinstance(error, OSError | TimeoutError):
                    raise
                raise ProviderError(
                    f"expected a process for {self._target!r}: {error!r}"
                ) from error
            return fork

    async def warm(self) -> None:
        """Start the warm process now, so that the first fork need not wait for it.

        Should that fail, the first fork tells.
        """
        async with self._lock:
            with contextlib.suppress(ProviderError, OSError):
                await self._start()

    async def _start(self) -> None:
        """Start the warm process, unless it runs."""
        if self._channel is not None:
            return
        try:
            await self._try_to_start()
        except BaseException:
            # Of a cancellation too: half of a start is no use to the next one.
            self._hang_up()
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
            raise

    async def _try_to_start(self) -> None:
        await self._reap()
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.settimeout(0.0)
        # A copy, because a transport owns its socket and passes no descriptors.
        self._control = ours.dup()
        self._control.settimeout(0.0)
        self._ready = loop.create_future()
        try:
            channel = self._channel = _Channel(self)
            await loop.create_connection(lambda: channel, sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "openenv_async.server.zygote",
                str(theirs.fileno()),
                self._target,
                "1" if self._tracebacks else "0",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        finally:
            theirs.close()
        try:
            with anyio.fail_after(_START_TIMEOUT):
                await self._ready
        except TimeoutError:
            raise ProviderError(
                f"expected {self._target!r} to be imported within {_START_TIMEOUT} s"
            ) from None

    # What comes back

    def ready(self) -> None:
        """The environment is imported."""
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_result(None)

    def forked(self, number: int, pid: int) -> None:
        """A process runs."""
        fork = self._forks.get(number)
        if fork is not None:
            fork.pid = pid
            if not fork.started.done():
                fork.started.set_result(None)

    def ended(self, number: int, status: int) -> None:
        """A process has ended."""
        fork = self._forks.pop(number, None)
        if fork is not None:
            fork.end(status)

    def lost(self, channel: _Channel) -> None:
        """The warm process is gone; what it forked is about to end."""
        if channel is self._channel:
            self._hang_up()

    def kill(self, number: int, pid: int) -> None:
        """End a process at once; by its parent, which knows whether it still lives."""
        if self._control is not None and number:
            try:
                self._control.send(ORDER.pack(KILL, number))
            except OSError:
                _logger.debug("the parent of process %d takes no orders", pid)
            else:
                return
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with anyio.move_on_after(_END_TIMEOUT):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def aclose(self) -> None:
        """End the warm process, and what it forked; idempotent."""
        self._hang_up()
        await self._reap()

    def _hang_up(self) -> None:
        """Close the channel, which ends the warm process."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.transport is not None:
            channel.transport.close()
        if self._control is not None:
            # The transport's is a copy: only without this one the channel closes.
            self._control.close()
            self._control = None
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(
                ProviderError(
                    f"expected {self._target!r} to be importable, but its process ended"
                )
            )
            # Nobody may be waiting any more; that is not worth a warning.
            self._ready.exception()
        forks, self._forks = self._forks, {}
        for fork in forks.values():
            self.kill(0, fork.pid)
            fork.end(-signal.SIGKILL)
