"""JSON-RPC as OpenEnv speaks it at `/mcp`: two methods of MCP and two of its own."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from ..errors import RemoteProtocolError

__all__ = [
    "RpcCode",
    "RpcError",
    "RpcFailure",
    "RpcProblem",
    "RpcRequest",
    "RpcResult",
    "decode_rpc_reply",
    "decode_rpc_request",
    "rpc_failure",
]

RpcId = str | int | None
"""What a response repeats."""


class RpcCode(enum.IntEnum):
    """Codes of JSON-RPC, with OpenEnv's meaning."""

    PARSE_ERROR = -32700
    """No JSON, or no object."""
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    """Also an unknown session."""
    INTERNAL_ERROR = -32603
    """Whatever an environment or a tool raised."""
    SERVER_ERROR = -32000
    """No room for a session, or its environment cannot be built."""


class RpcRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request."""

    jsonrpc: str
    method: str
    params: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    id: RpcId = None


class RpcError(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: int
    message: str
    data: Any = None


class RpcResult(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    """A response with a result."""

    id: RpcId
    result: Any


class RpcFailure(msgspec.Struct, frozen=True, tag_field="jsonrpc", tag="2.0"):
    """A response with an error."""

    id: RpcId
    error: RpcError


class _Reply(msgspec.Struct, frozen=True):
    id: RpcId = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None


class RpcProblem(Exception):
    """A request that cannot be taken, with the response that says so."""

    def __init__(self, failure: RpcFailure) -> None:
        super().__init__(failure.error.message)
        self.failure: Final = failure


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_request: msgspec.json.Decoder[RpcRequest] = msgspec.json.Decoder(RpcRequest)
_reply: msgspec.json.Decoder[_Reply] = msgspec.json.Decoder(_Reply)


def rpc_failure(
    id: RpcId, code: RpcCode, message: str, data: Mapping[str, object] | None = None
) -> RpcFailure:
    """Build a response with an error."""
    return RpcFailure(id, RpcError(int(code), message, data))


def decode_rpc_request(data: bytes | msgspec.Raw) -> RpcRequest:
    """Decode a request.

    Raises:
        RpcProblem: It is none; holds the response.
    """
    try:
        request = _request.decode(data)
    except _UNREADABLE as error:
        raise RpcProblem(_invalid(data, str(error))) from error
    if request.jsonrpc != "2.0":
        text = f"expected jsonrpc '2.0', got {request.jsonrpc!r}"
        raise RpcProblem(_invalid(data, text))
    return request


def _invalid(data: bytes | msgspec.Raw, text: str) -> RpcFailure:
    found: object = None
    # A wrong type is found before what comes after it turns out to be no JSON.
    with contextlib.suppress(*_UNREADABLE):
        found = msgspec.json.decode(data)
    if not isinstance(found, dict):
        return rpc_failure(None, RpcCode.PARSE_ERROR, "Parse error")
    id = cast(dict[str, object], found).get("id")
    given = id if isinstance(id, str | int) and not isinstance(id, bool) else None
    return rpc_failure(given, RpcCode.INVALID_REQUEST, f"Invalid request: {text}")


def decode_rpc_reply(data: bytes | msgspec.Raw) -> msgspec.Raw | RpcError:
    """Decode a response: the encoded result, or the error.

    Raises:
        RemoteProtocolError: It is neither.
    """
    try:
        reply = _reply.decode(data)
    except _UNREADABLE as error:
        raise RemoteProtocolError(
            f"expected a JSON-RPC response: {error}", code="invalid_frame"
        ) from error
    if reply.error is not None:
        return reply.error
    if isinstance(reply.result, msgspec.UnsetType):
        raise RemoteProtocolError(
            "expected a JSON-RPC response with a result or an error, got neither",
            code="invalid_frame",
        )
    return reply.result
