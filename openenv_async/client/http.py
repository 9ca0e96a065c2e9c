"""One HTTP request to a server, over whatever reaches it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

import anyio

from .carriers import carrier_of
from .endpoint import Endpoint

__all__ = ["UNREACHABLE", "fetch"]

UNREACHABLE: Final = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)
"""What `fetch` raises where nobody answers, or not in HTTP."""

_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of an answer; a schema with bounds for each pixel is large."""


async def fetch(
    endpoint: Endpoint,
    method: str,
    path: str,
    *,
    token: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """Ask a server for a path beside its WebSocket; returns status and body.

    Args:
        endpoint: The server.
        method: `GET` or `POST`; a server in this process knows only the first.
        path: With its query.
        token: Bearer token.
        headers: More headers.
        body: JSON to send.

    Raises:
        OSError, EOFError, ValueError, asyncio.LimitOverrunError: Nobody answers, or
            not in HTTP.
    """
    if endpoint.memory:
        return await carrier_of(endpoint).get(path, token=token)
    if endpoint.uds:
        opened = asyncio.open_unix_connection(endpoint.uds, limit=_LIMIT)
    else:
        # Reads the system's certificates, which blocks.
        context = (
            await anyio.to_thread.run_sync(ssl.create_default_context)
            if endpoint.tls
            else None
        )
        opened = asyncio.open_connection(
            endpoint.host, endpoint.port, ssl=context, limit=_LIMIT
        )
    reader, writer = await opened
    try:
        host = endpoint.host if endpoint.uds else f"{endpoint.host}:{endpoint.port}"
        base = endpoint.path.removesuffix("/ws")
        # 1.0, so that the answer ends with the connection and is not chunked.
        lines = [f"{method} {base}{path} HTTP/1.0", f"Host: {host}"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        lines.extend(f"{name}: {value}" for name, value in headers)
        if body is not None:
            lines.append("Content-Type: application/json")
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(head.split()[1]), await _read(reader)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > _LIMIT:
            raise ValueError(f"expected at most {_LIMIT} bytes, got more")
    return b"".join(parts)
