"""OpenEnv's sessions that outlive their socket: made and ended over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import msgspec

from ..dialect import RpcCode, RpcError, decode_rpc_reply, encode
from ..errors import (
    AtCapacity,
    ConnectFailed,
    EnvironmentFailed,
    RemoteProtocolError,
    Unauthorized,
)
from .connection import ConnectionOptions
from .endpoint import Endpoint
from .http import UNREACHABLE, fetch

__all__ = ["create_session", "end_session", "session_id_of"]

_ABSENT: Final = (404, 405, 501)
"""What a server without these sessions answers."""


async def create_session(endpoint: Endpoint, options: ConnectionOptions) -> str | None:
    """Make a session that stays until it is ended; None if the server has none.

    Raises:
        AtCapacity: The server is full.
        ConnectFailed: Nobody answers.
        EnvironmentFailed: Its environment cannot be built.
        RemoteProtocolError: The answer is none of OpenEnv's.
        Unauthorized: The token is missing or wrong.
    """
    result = await _call(endpoint, options, "openenv/session/create", {})
    if result is None:
        return None
    if not isinstance(result, RpcError):
        return session_id_of(result)
    if result.code == RpcCode.METHOD_NOT_FOUND:
        return None
    data = _numbers(result.data)
    if "max_sessions" in data:
        detail = {
            "sessions": data.get("active_sessions"),
            "max_sessions": data["max_sessions"],
            "dialect_code": "CAPACITY_REACHED",
        }
        raise AtCapacity(result.message, detail=detail)
    raise EnvironmentFailed(
        f"expected a session: {result.message}", executed="no", detail=dict(data)
    )


async def end_session(
    endpoint: Endpoint, options: ConnectionOptions, session_id: str
) -> None:
    """End a session; it ends with its socket where one is still attached.

    Raises:
        OpenEnvError: As `create_session`.
    """
    await _call(endpoint, options, "openenv/session/close", {"session_id": session_id})


def _numbers(found: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], found) if isinstance(found, dict) else {}


def session_id_of(result: msgspec.Raw) -> str | None:
    """The id in the answer to `openenv/session/create`."""
    found = cast(object, msgspec.json.decode(result))
    if not isinstance(found, dict):
        return None
    session_id = cast(dict[str, object], found).get("session_id")
    return session_id if isinstance(session_id, str) and session_id else None


async def _call(
    endpoint: Endpoint,
    options: ConnectionOptions,
    method: str,
    params: dict[str, str],
) -> msgspec.Raw | RpcError | None:
    request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    try:
        async with asyncio.timeout(options.connect_timeout):
            status, body = await fetch(
                endpoint,
                "POST",
                "/mcp",
                token=options.token,
                headers=options.headers,
                body=encode(request),
            )
    except TimeoutError:
        raise ConnectFailed(
            f"expected an answer from {endpoint.url!r} within "
            f"{options.connect_timeout} s"
        ) from None
    except UNREACHABLE as error:
        raise ConnectFailed(
            f"expected a server at {endpoint.url!r}: "
            f"{str(error) or type(error).__name__}"
        ) from error
    if status == 401:
        raise Unauthorized(f"{endpoint.url!r} asks for a token")
    if status in _ABSENT:
        return None
    if status != 200:
        raise RemoteProtocolError(
            f"expected an answer to {method!r} from {endpoint.url!r}, got HTTP "
            f"{status}: {body[:200]!r}",
            executed="no",
        )
    return decode_rpc_reply(body)
