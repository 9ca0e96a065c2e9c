"""A proxy between client and server that cuts, stalls and swallows at chosen points.

It passes bytes on and understands none of them. Faults are asked for by counting what
has passed, or at once, so that a test decides between which two frames a socket dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, Protocol

import anyio

__all__ = ["Cutter", "Direction", "cut_off"]

Direction = Literal["up", "down"]
"""Towards the server, towards the client."""


class HasPath(Protocol):
    """A server with a Unix socket."""

    @property
    def path(self) -> Path | None: ...


class Cutter:
    """One address whose connections a test can spoil.

    Args:
        target: The server's Unix socket.
        path: The proxy's own.
    """

    def __init__(self, target: Path, path: Path) -> None:
        self.url = f"ws+unix://{path}"
        self.accepted = 0
        """Connections so far."""
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        """Bytes that went through, over all connections."""
        self._target = target
        self._path = path
        self._flows: set[asyncio.Task[None]] = set()
        self._sockets: set[asyncio.StreamWriter] = set()
        self._open: dict[Direction, asyncio.Event] = {
            "up": asyncio.Event(),
            "down": asyncio.Event(),
        }
        self._budget: dict[Direction, int | None] = {"up": None, "down": None}
        self._refusing = False
        for event in self._open.values():
            event.set()

    # Faults

    def cut(self) -> None:
        """End every connection now, without a goodbye."""
        for writer in list(self._sockets):
            writer.transport.abort()

    def cut_after(self, direction: Direction, size: int) -> None:
        """End all connections once so many more bytes went in a direction."""
        self._budget[direction] = size

    def stall(self, direction: Direction) -> None:
        """Pass nothing on in a direction, as a network that lost its way."""
        self._open[direction].clear()

    def resume(self) -> None:
        """Pass everything on again."""
        for event in self._open.values():
            event.set()

    def refuse(self, *, refusing: bool = True) -> None:
        """End new connections as soon as they are there."""
        self._refusing = refusing

    # Passing on

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Connect a client with the server until either ends."""
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            upstream = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, upstream[1]}
        self._sockets |= pair
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._pass(reader, upstream[1], "up"))
                down = group.create_task(self._pass(upstream[0], writer, "down"))
                self._flows |= {up, down}
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                down.cancel()
        finally:
            self._sockets -= pair
            for socket in pair:
                socket.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._open[direction].wait()
                budget = self._budget[direction]
                if budget is not None:
                    data = data[:budget]
                    self._budget[direction] = budget - len(data)
                if writer.is_closing():
                    return
                self.passed[direction] += len(data)
                writer.write(data)
                await writer.drain()
                if self._budget[direction] == 0:
                    self._budget[direction] = None
                    # What was passed must arrive before the end does.
                    await asyncio.sleep(0.002)
                    self.cut()
                    return


@contextlib.asynccontextmanager
async def cut_off(server: HasPath) -> AsyncIterator[Cutter]:
    """Put a proxy in front of a server."""
    assert server.path is not None
    folder = await anyio.to_thread.run_sync(tempfile.mkdtemp)
    path = Path(folder) / "p"
    proxy = Cutter(server.path, path)
    listener = await asyncio.start_unix_server(proxy.accept, str(path))
    try:
        yield proxy
    finally:
        listener.close()
        proxy.resume()
        proxy.cut()
        await asyncio.sleep(0)
        await listener.wait_closed()
        await anyio.to_thread.run_sync(shutil.rmtree, folder)
