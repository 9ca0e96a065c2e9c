"""A WebSocket without a subprotocol, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed

from tests.serving import PATIENCE, Serving

__all__ = ["Wire", "plain"]


class Wire:
    """One connection that speaks OpenEnv's dialect by hand."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, frame: str | bytes | dict[str, Any]) -> None:
        """Send a frame."""
        await self.socket.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def receive(self) -> Any:
        """The next frame, decoded."""
        async with asyncio.timeout(PATIENCE):
            text = await self.socket.recv()
        assert isinstance(text, str)
        return json.loads(text)

    async def ask(self, frame: str | bytes | dict[str, Any]) -> Any:
        """Send a frame and get its answer."""
        await self.send(frame)
        return await self.receive()

    async def step(self, **action: Any) -> Any:
        """Step; the answer's data."""
        return (await self.ask({"type": "step", "data": action}))["data"]

    async def reset(self, **arguments: Any) -> Any:
        """Reset; the answer's data."""
        return (await self.ask({"type": "reset", "data": arguments}))["data"]

    async def state(self) -> Any:
        """The state."""
        return (await self.ask({"type": "state"}))["data"]

    async def rpc(self, method: str, **params: Any) -> Any:
        """Call a method of JSON-RPC in a frame; the response."""
        data = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await self.ask({"type": "mcp", "data": data}))["data"]

    async def closed(self) -> int | None:
        """Wait for the end; the code that the server gave."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        received = self.socket.protocol.close_rcvd
        return None if received is None else int(received.code)


@contextlib.asynccontextmanager
async def plain(
    server: Serving, path: str = "/ws", **options: Any
) -> AsyncIterator[Wire]:
    """Connect as OpenEnv's clients do."""
    if server.path is None:
        opening = connect(f"{server.url}{path}", **options)
    else:
        url = f"ws://localhost{path}"
        opening = unix_connect(str(server.path), url, **options)
    async with opening as socket:
        yield Wire(socket)
