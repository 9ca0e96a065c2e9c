"""What stands between a browser and a server on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.chaos.cutter import Cutter

__all__ = ["front"]


@contextlib.asynccontextmanager
async def front(path: Path) -> AsyncIterator[tuple[Cutter, str]]:
    """What cuts a server's connections, and where a browser finds its pane.

    The address stays while servers at the path come and go.
    """
    cutter = Cutter(path, Path("unused"))
    listener = await asyncio.start_server(cutter.accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield cutter, f"http://127.0.0.1:{port}/web/"
    finally:
        listener.close()
        cutter.resume()
        cutter.cut()
        await listener.wait_closed()
