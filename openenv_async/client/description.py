"""What a server tells about its environments, before any session."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, Final
from urllib.parse import quote

import anyio
import msgspec

from ..environment import EnvironmentMetadata
from ..errors import (
    ConnectFailed,
    RemoteProtocolError,
    Unauthorized,
    UnknownEnvironment,
)
from .carriers import carrier_of
from .endpoint import Endpoint

__all__ = ["EnvironmentDescription", "describe", "server_health"]

_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of an answer; a schema with bounds for each pixel is large."""
_TIMEOUT: Final = 10.0


class EnvironmentDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One environment of a server, as it describes itself."""

    name: str
    """What clients open it by."""
    metadata: EnvironmentMetadata
    action: dict[str, Any]
    """JSON Schema of what `step` takes."""
    observation: dict[str, Any]
    """JSON Schema of what `reset` and `step` return."""
    state: dict[str, Any]
    """JSON Schema of what `state` returns."""


async def describe(
    url: str,
    *,
    environment: str | None = None,
    token: str | None = None,
    timeout: float = _TIMEOUT,
) -> EnvironmentDescription:
    """Ask a server for an environment's metadata and schemas; opens no session.

    Args:
        url: As for `EnvClient`.
        environment: Which one; None takes the server's default.
        token: Bearer token.
        timeout: Seconds for all of it.

    Raises:
        ConnectFailed: Nobody answers there, or not in time.
        Unauthorized: The token is missing or wrong.
        UnknownEnvironment: The server does not host it.
        RemoteProtocolError: The answer is none of ours.
    """
    endpoint = Endpoint.parse(url)
    every = _Described(endpoint, token, timeout)
    if environment is None:
        listed = await every.get("/metadata")
        environment = str(listed.get("default", ""))
    query = f"?environment={quote(environment, safe='')}"
    metadata = await every.get(f"/metadata{query}")
    schema = await every.get(f"/schema{query}")
    try:
        return msgspec.convert(
            {"name": environment, "metadata": metadata, **schema},
            EnvironmentDescription,
        )
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(
            f"expected the description of an environment from {url!r}: {error}"
        ) from error


async def server_health(url: str, *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Ask a server for the numbers of `/health`; needs no token.

    Raises:
        ConnectFailed: Nobody answers there, or not in time.
        RemoteProtocolError: The answer is none of ours.
    """
    return await _Described(Endpoint.parse(url), None, timeout).get("/health")


class _Described:
    """The HTTP side of one server."""

    def __init__(self, endpoint: Endpoint, token: str | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._token = token
        self._timeout = timeout

    async def get(self, path: str) -> dict[str, Any]:
        """Get a JSON object."""
        url = self._endpoint.url
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await self._fetch(path)
        except TimeoutError:
            raise ConnectFailed(
                f"expected an answer from {url!r} within {self._timeout} s"
            ) from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            text = str(error) or type(error).__name__
            raise ConnectFailed(f"expected a server at {url!r}: {text}") from error
        try:
            answer: object = json.loads(body)
        except ValueError:
            answer = None
        if status == 401:
            raise Unauthorized(_message(answer, f"{url!r} asks for a token"))
        if status == 404 and "?environment=" in path:
            raise UnknownEnvironment(_message(answer, f"{url!r} has no {path}"))
        if not isinstance(answer, dict) or status not in (200, 503):
            raise RemoteProtocolError(
                f"expected an answer to {path!r} from {url!r}, got HTTP {status}: "
                f"{body[:200]!r}"
            )
        return answer  # pyright: ignore[reportUnknownVariableType]  # of JSON

    async def _fetch(self, path: str) -> tuple[int, bytes]:
        endpoint = self._endpoint
        if endpoint.memory:
            return await carrier_of(endpoint).get(path, token=self._token)
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
            lines = [f"GET {base}{path} HTTP/1.0", f"Host: {host}"]
            if self._token is not None:
                lines.append(f"Authorization: Bearer {self._token}")
            writer.write("\r\n".join([*lines, "", ""]).encode())
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


def _message(answer: object, otherwise: str) -> str:
    if isinstance(answer, dict):
        return str(answer.get("message", otherwise))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # of JSON
    return otherwise
