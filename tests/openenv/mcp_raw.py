"""MCP's streamable HTTP by hand: one message at a time, and only those asked for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from tests.serving import Serving

__all__ = ["RawMcp", "raw_mcp"]

_ACCEPT: Final = {"accept": "application/json, text/event-stream"}
_INITIALIZE: Final = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "1"},
}


class RawMcp:
    """A client that opens MCP sessions and keeps no stream of its own."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def initialize(self) -> str:
        """Open a session; returns its id."""
        answer = await self._post("", "initialize", 0, _INITIALIZE)
        assert answer.status_code == 200, answer.text
        return answer.headers["mcp-session-id"]

    async def ask(self, session: str, method: str, id: int = 1, **params: Any) -> Any:
        """Send a request; returns its response, or the status if that is none."""
        answer = await self._post(session, method, id, params)
        if answer.status_code != 200:
            return answer.status_code
        (data,) = (
            line.removeprefix("data: ")
            for line in answer.text.splitlines()
            if line.startswith("data: ")
        )
        return json.loads(data)

    async def call(self, session: str, tool: str, id: int = 1, **arguments: Any) -> Any:
        """Call a tool; returns what `ask` does."""
        return await self.ask(session, "tools/call", id, name=tool, arguments=arguments)

    async def cancel(self, session: str, id: int) -> None:
        """Cancel a request."""
        method = "notifications/cancelled"
        answer = await self._post(session, method, None, {"requestId": id})
        assert answer.status_code == 202

    async def leave(self, session: str) -> None:
        """End a session."""
        answer = await self.http.delete("/mcp", headers=_headers(session))
        assert answer.status_code == 200

    @asynccontextmanager
    async def stream(self, session: str) -> AsyncIterator[httpx.Response]:
        """The stream that clients keep open."""
        headers = _headers(session)
        async with self.http.stream("GET", "/mcp", headers=headers) as answer:
            assert answer.status_code == 200
            yield answer

    async def health(self) -> dict[str, Any]:
        """What the server says of itself."""
        found: dict[str, Any] = (await self.http.get("/health")).json()
        return found

    async def _post(
        self, session: str, method: str, id: int | None, params: dict[str, Any]
    ) -> httpx.Response:
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if id is not None:
            body["id"] = id
        return await self.http.post("/mcp", headers=_headers(session), json=body)


def _headers(session: str) -> dict[str, str]:
    return {**_ACCEPT, **({"mcp-session-id": session} if session else {})}


@asynccontextmanager
async def raw_mcp(server: Serving) -> AsyncIterator[RawMcp]:
    """Speak MCP to a server."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=10
    ) as http:
        yield RawMcp(http)
