"""Listeners that are no server of ours, for clients that meet one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from .serving import eventually

__all__ = ["answering"]


@contextlib.asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Listen on the loopback; yields the address.

    Args:
        answer: What to say to a request before closing; None never says anything, and
            nothing at all closes at once.
    """
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        server.close()
        await eventually(lambda: not writers)
        await server.wait_closed()
