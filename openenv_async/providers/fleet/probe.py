"""Ask a server for its health, over whatever its address says."""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

import anyio
import msgspec

from .members import HealthReport

__all__ = ["ProbeFailed", "probe"]

_LIMIT: Final = 64 * 1024
"""Bytes of an answer; ours have some hundred."""
_PATH: Final = "/health?hold"
"""Tells a server that it is wanted, though nobody may be connected to it."""
_OK: Final = 200
_UNAVAILABLE: Final = 503
_UNIX: Final = ("ws+unix", "http+unix", "unix")


class ProbeFailed(Exception):
    """There was no answer, or not a healthy one; the text says what came."""


async def probe(url: str, *, timeout: float) -> HealthReport:
    """Ask for `/health` beside the server's WebSocket; it needs no token.

    A server that ends itself when nobody is connected begins its wait anew.

    Args:
        url: Where clients connect.
        timeout: Seconds for all of it.

    Raises:
        ProbeFailed: It does not serve sessions, or not in time.
    """
    try:
        async with asyncio.timeout(timeout):
            status, body = await _get(urlsplit(url))
    except TimeoutError:
        raise ProbeFailed(f"no answer within {timeout} s") from None
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        text = str(error) or type(error).__name__
        raise ProbeFailed(f"no answer: {text}") from error
    try:
        report = msgspec.json.decode(body, type=HealthReport)
    except msgspec.DecodeError:
        # A server of others: that it answered is all we learn.
        report = HealthReport()
    # Ours says so while it drains; that is no failure.
    if status != _OK and not (status == _UNAVAILABLE and report.draining):
        raise ProbeFailed(f"expected status 200 from /health, got {status}")
    return report


async def _get(parts: SplitResult) -> tuple[int, bytes]:
    reader, writer, path, host = await _connect(parts)
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1]) if len(lines[0].split()) > 1 else 0
        length: int | None = None
        for line in lines[1:]:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-length":
                length = int(value)
        return status, await _read(reader, length)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, length: int | None) -> bytes:
    if length is not None:
        if not 0 <= length <= _LIMIT:
            raise ValueError(f"expected at most {_LIMIT} bytes, got {length}")
        return await reader.readexactly(length)
    body = b""
    while part := await reader.read(_LIMIT):
        body += part
        if len(body) > _LIMIT:
            raise ValueError(f"expected at most {_LIMIT} bytes, got more")
    return body


async def _connect(
    parts: SplitResult,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str, str]:
    if parts.scheme in _UNIX:
        reader, writer = await asyncio.open_unix_connection(parts.path, limit=_LIMIT)
        return reader, writer, _PATH, "localhost"
    tls = parts.scheme in ("wss", "https")
    name = parts.hostname or "localhost"
    port = parts.port or (443 if tls else 80)
    context = await anyio.to_thread.run_sync(_context) if tls else None
    reader, writer = await asyncio.open_connection(
        name, port, ssl=context, limit=_LIMIT
    )
    path = parts.path.rstrip("/").removesuffix("/ws") + _PATH
    return reader, writer, path, parts.netloc.rpartition("@")[2]


@functools.cache
def _context() -> ssl.SSLContext:
    # Reads the system's certificates, which blocks.
    return ssl.create_default_context()
