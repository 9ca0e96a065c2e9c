"""The least that a container can serve: an echo on a WebSocket.

Its text is handed to `python -c` in a container, so it imports nothing of ours.
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection, serve

__all__ = ["main"]


async def _echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    """Serve for ever."""
    async with serve(_echo, "0.0.0.0", 8000) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
