"""A provider whose servers live in the test's own loop and do what it tells them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import anyio
import msgspec

from openenv_async import ProviderError, ServerDied
from tests.serving import eventually

__all__ = ["ScriptedProvider", "ScriptedServer", "scripted"]

_ACCEPTING = 10
"""Turns of the loop within which a connection that was just accepted shows up."""


class ScriptedServer:
    """Answers `/health` on a Unix socket until it is stopped, or told to die.

    Args:
        path: Of the socket.
        stopped: Called when it has stopped.
    """

    def __init__(self, path: Path, stopped: Callable[[ScriptedServer], None]) -> None:
        self.path = path
        self.health: dict[str, object] = {"status": "healthy", "sessions": 0}
        self.status = 200
        self.answers = asyncio.Event()
        """While it is not set, no check is answered."""
        self.answers.set()
        self.may_stop = asyncio.Event()
        """While it is not set, `stop` does not return."""
        self.may_stop.set()
        self.stop_error: Exception | None = None
        self.death: ServerDied | None = None
        self.checks = 0
        self._stopped = stopped
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"ws+unix://{self.path}"

    async def start(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.checks += 1
            await self.answers.wait()
            body = msgspec.json.encode(self.health)
            head = f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        except (OSError, EOFError):
            pass  # who asked has left
        finally:
            writer.close()
            self._writers.discard(writer)

    async def die(self, death: ServerDied | None = None) -> None:
        """End unasked."""
        self.death = death or ServerDied("gone", detail={"exit_code": -9})
        await self._end()

    async def _end(self) -> None:
        assert self._listener is not None
        # A connection that was accepted but is not served yet would be lost unclosed.
        loop = asyncio.get_running_loop()
        for listening in self._listener.sockets:
            loop.remove_reader(listening.fileno())
        for _ in range(_ACCEPTING):
            await asyncio.sleep(0)
        self._listener.close()
        self.answers.set()
        await eventually(lambda: not self._writers)

    async def stop(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.may_stop.wait()
            if self.stop_error is not None:
                raise self.stop_error
            await self._end()
            await anyio.to_thread.run_sync(self.path.unlink)
        self._stopped(self)

    async def diagnose(self) -> ServerDied | None:
        return self.death


class ScriptedProvider:
    """Starts `ScriptedServer`s.

    Args:
        folder: Where the sockets go.
    """

    def __init__(self, folder: Path) -> None:
        self.servers: list[ScriptedServer] = []
        """Those that run, oldest first."""
        self.starts = 0
        self.before_start: Callable[[int], Coroutine[object, object, None]] | None = (
            None
        )
        """Awaited in each start, with its number: may raise, or take its time."""
        self._folder = folder
        self._serial = itertools.count()

    async def start(self) -> ScriptedServer:
        self.starts += 1
        if self.before_start is not None:
            await self.before_start(self.starts)
        path = self._folder / f"{next(self._serial)}"
        server = ScriptedServer(path, self.servers.remove)
        with anyio.CancelScope(shield=True):
            await server.start()
        self.servers.append(server)
        return server

    async def stop(self) -> None:
        raise AssertionError("a fleet stops its own servers, and no others")

    async def fail(self, _number: int) -> None:
        """As `before_start`: fail."""
        raise ProviderError("no luck today", detail={"log": "last words"})


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedProvider]:
    """A provider; at the end, none of its servers may be left."""
    folder = await anyio.to_thread.run_sync(tempfile.mkdtemp)
    provider = ScriptedProvider(Path(folder))
    try:
        yield provider
        assert provider.servers == []
    finally:
        await anyio.to_thread.run_sync(shutil.rmtree, folder)
