"""A proxy that cuts, stalls and delays between a real client and a real server.

It forwards whole WebSocket frames, so that a test can say what becomes of the next one
in a direction: it arrives, it arrives and then the connection is cut, it is lost with
the connection, or half of it arrives and then the connection is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import anyio

from openenv_async.server.app import EnvironmentLike
from tests.serving import Serving, serving

__all__ = ["Fate", "Proxy", "Side", "proxied", "proxy_to"]


class Side(enum.Enum):
    """Who sent a frame."""

    CLIENT = "client"
    SERVER = "server"


class Fate(enum.Enum):
    """What becomes of a frame."""

    ARRIVES = "arrives"
    ARRIVES_LAST = "arrives, then both connections are cut"
    LOST = "is lost, because both connections are cut before"
    TRUNCATED = "arrives in part, then both connections are cut"


Decide = Callable[[Side, int], Fate]
"""Says what becomes of a frame of a size in bytes."""


def _always(_side: Side, _size: int) -> Fate:
    return Fate.ARRIVES


class _Cut(Exception):
    """The connection of this pair is over."""


class Proxy:
    """Takes connections at a Unix socket and forwards them to another one.

    Args:
        upstream: The server's socket.
        path: Where to listen.
    """

    def __init__(self, upstream: Path, path: Path) -> None:
        self.upstream = upstream
        self.path = path
        self.url = f"ws+unix://{path}"
        self.decide: Decide = _always
        """The fate of frames that are not told theirs by `arm`."""
        self.connections = 0
        """Connections so far."""
        self.frames: Final[Counter[Side]] = Counter()
        """Frames so far."""
        self._struck = asyncio.Event()
        self._flowing = {side: asyncio.Event() for side in Side}
        for event in self._flowing.values():
            event.set()
        self._admitting = asyncio.Event()
        self._admitting.set()
        self._armed: tuple[Side, Fate, int, int] | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    # What tests ask for

    def arm(
        self, side: Side, fate: Fate, *, skip: int = 0, at_least: int = 0
    ) -> asyncio.Event:
        """Choose the fate of one of the next frames of a side.

        Args:
            side: Whose frame.
            fate: What becomes of it.
            skip: How many frames pass before.
            at_least: Smallest size that counts.

        Returns:
            An event that is set when it has happened.
        """
        self._armed = side, fate, skip, at_least
        self._struck = asyncio.Event()
        return self._struck

    def cut(self) -> None:
        """Cut all connections, without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self, *, refusing: bool = True) -> None:
        """Hold new connections back, or let them through again."""
        if refusing:
            self._admitting.clear()
        else:
            self._admitting.set()

    def stall(self, *sides: Side, stalled: bool = True) -> None:
        """Stop, or go on, taking what the sides send."""
        for side in sides or tuple(Side):
            if stalled:
                self._flowing[side].clear()
            else:
                self._flowing[side].set()

    # Forwarding

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one connection until it ends or is cut."""
        self.connections += 1
        writers = [writer]
        self._writers.add(writer)
        try:
            await self._admitting.wait()
            far_reader, far_writer = await asyncio.open_unix_connection(self.upstream)
            writers.append(far_writer)
            self._writers.add(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(Side.CLIENT, reader, far_writer))
                group.create_task(self._pump(Side.SERVER, far_reader, writer))
        except* (_Cut, OSError):
            pass
        finally:
            for each in writers:
                self._writers.discard(each)
                each.transport.abort()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            writer.write(await reader.readuntil(b"\r\n\r\n"))
            while True:
                await self._flowing[side].wait()
                frame = await _read_frame(reader)
                await self._flowing[side].wait()
                await self._forward(side, frame, writer)
        except asyncio.IncompleteReadError:
            raise _Cut from None

    async def _forward(
        self, side: Side, frame: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.frames[side] += 1
        fate = self._fate(side, len(frame))
        if fate is Fate.LOST:
            raise _Cut
        writer.write(frame[: len(frame) // 2] if fate is Fate.TRUNCATED else frame)
        await writer.drain()
        if fate is not Fate.ARRIVES:
            # `abort` would take back what waits for the kernel.
            while writer.transport.get_write_buffer_size():  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0)
            raise _Cut

    def _fate(self, side: Side, size: int) -> Fate:
        if self._armed is not None:
            whose, fate, skip, least = self._armed
            if whose is not side or size < least:
                return Fate.ARRIVES
            if skip:
                self._armed = whose, fate, skip - 1, least
                return Fate.ARRIVES
            self._armed = None
            self._struck.set()
            return fate
        return self.decide(side, size)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one WebSocket frame (RFC 6455, section 5.2) as it is."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    extended = {126: 2, 127: 8}.get(size, 0)
    if extended:
        more = await reader.readexactly(extended)
        size = int.from_bytes(more, "big")
        head += more
    return head + await reader.readexactly(size + (4 if head[1] & 0x80 else 0))


@contextlib.asynccontextmanager
async def proxy_to(upstream: Path) -> AsyncIterator[Proxy]:
    """A proxy in front of a socket, in the running loop."""
    folder = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp))
    proxy = Proxy(upstream, folder / "p")
    try:
        async with asyncio.TaskGroup() as group:

            def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter
            ) -> None:
                group.create_task(proxy.serve(reader, writer))

            listener = await asyncio.start_unix_server(
                accept, proxy.path, limit=1024 * 1024
            )
            try:
                yield proxy
            finally:
                listener.close()
                proxy.refuse(refusing=False)
                proxy.stall(stalled=False)
                proxy.cut()
    finally:
        await anyio.to_thread.run_sync(shutil.rmtree, folder)


@contextlib.asynccontextmanager
async def proxied(
    *served: EnvironmentLike, **options: Any
) -> AsyncIterator[tuple[Serving, Proxy]]:
    """A server, and a proxy in front of it.

    Args:
        served: What to serve; by default a `ScriptedEnvironment`.
        options: For `create_app`.
    """
    async with serving(*served, **options) as server:
        assert server.path is not None
        async with proxy_to(server.path) as proxy:
            yield server, proxy
