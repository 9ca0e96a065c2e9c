"""The frames of OpenEnv's WebSocket, one JSON object each, and their codec.

One reply follows each request, in order; nothing carries a number. A client's frame may
have no other keys than these, while a server's may: clients ignore them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from ..arrays import encodable
from ..errors import RemoteProtocolError
from .problems import FrameProblem, explain, invalid_json

__all__ = [
    "CloseFrame",
    "ErrorData",
    "ErrorFrame",
    "FromClient",
    "FromServer",
    "McpFrame",
    "McpReplyFrame",
    "ObservationData",
    "ObservationFrame",
    "ResetFrame",
    "StateFrame",
    "StateReplyFrame",
    "StepFrame",
    "decode_from_client",
    "decode_from_server",
    "encode",
]

if TYPE_CHECKING:
    JsonObject = object
    """An encoded JSON object, or a value that is one when it is encoded."""
else:
    # Encoding takes any value; decoding leaves the bytes as they are.
    JsonObject = msgspec.Raw

_EMPTY: Final = msgspec.Raw(b"{}")


class _ClientFrame(
    msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True, gc=False
):
    """What a client sends: no other keys are allowed."""


class ResetFrame(_ClientFrame, frozen=True, tag="reset"):
    """Start an episode; `data` holds keyword arguments of `reset`."""

    data: JsonObject = _EMPTY


class StepFrame(_ClientFrame, frozen=True, tag="step"):
    """Perform an action; `data` holds the action's fields."""

    data: JsonObject


class StateFrame(_ClientFrame, frozen=True, tag="state"):
    """Ask for the state."""


class McpFrame(_ClientFrame, frozen=True, tag="mcp"):
    """Call a tool; `data` holds a JSON-RPC request."""

    data: JsonObject


class CloseFrame(_ClientFrame, frozen=True, tag="close"):
    """End the session; the only frame without a reply."""


FromClient = ResetFrame | StepFrame | StateFrame | McpFrame | CloseFrame
"""What a client sends."""


class ObservationData(msgspec.Struct, frozen=True, omit_defaults=False):
    """An observation, as reset and step answer, on the socket and over HTTP."""

    observation: JsonObject
    """All fields but reward and done; `metadata` among them."""
    reward: bool | int | float | None = None
    done: bool = False
    metadata: JsonObject | msgspec.UnsetType = msgspec.UNSET
    """Once more, where it is not empty; servers of 0.2.3 have it nowhere."""
    truncated: bool | msgspec.UnsetType = msgspec.UNSET
    """An addition of ours: True where `done` cuts the episode off."""


class _ServerFrame(msgspec.Struct, frozen=True, tag_field="type"):
    """What a server sends: other keys are ignored."""


class ObservationFrame(_ServerFrame, frozen=True, tag="observation"):
    """Answers reset and step."""

    data: ObservationData


class StateReplyFrame(_ServerFrame, frozen=True, tag="state"):
    """Answers a request for the state."""

    data: JsonObject


class McpReplyFrame(_ServerFrame, frozen=True, tag="mcp"):
    """Answers an `McpFrame` with a JSON-RPC response."""

    data: JsonObject


class ErrorData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong. Which fields there are depends on the code."""

    message: str = "Unknown error"
    code: str = "UNKNOWN"
    errors: list[dict[str, object]] | None = None
    """What does not fit, in pydantic's form, with `VALIDATION_ERROR`."""
    active_sessions: int | None = None
    max_sessions: int | None = None
    factory_name: str | None = None
    error_code: str | None = None
    """An addition of ours: the code of docs/protocol.md, section 9."""
    executed: str | None = None
    """An addition of ours: whether the environment ran the request."""


class ErrorFrame(_ServerFrame, frozen=True, tag="error"):
    """Answers any request, or refuses a connection right after its handshake."""

    data: ErrorData = ErrorData()


FromServer = ObservationFrame | StateReplyFrame | McpReplyFrame | ErrorFrame
"""What a server sends."""

_encode = msgspec.json.Encoder(enc_hook=encodable).encode
_from_client: msgspec.json.Decoder[FromClient] = msgspec.json.Decoder(FromClient)
_from_server: msgspec.json.Decoder[FromServer] = msgspec.json.Decoder(FromServer)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OPEN: Final = (ord("{"), *b" \t\r\n")


def encode(frame: FromClient | FromServer | object) -> bytes:
    """Encode a frame, or a value that goes into one.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: A value has no JSON.
    """
    return _encode(frame)


def decode_from_client(data: bytes | str) -> FromClient:
    """Decode what a client sent.

    Raises:
        FrameProblem: It is no frame; says with which error to answer it. The session
            can go on.
    """
    try:
        frame = _from_client.decode(data)
    except _UNREADABLE as error:
        raise _problem(data, error) from error
    # Raw accepts any value, but these have to be objects.
    payload = getattr(frame, "data", _EMPTY)
    if memoryview(payload)[0] != _OPEN[0]:
        raise _problem(data, None)
    return frame


def _problem(data: bytes | str, error: Exception | None) -> FrameProblem:
    """Find out, slowly, what is wrong with a frame."""
    try:
        found: object = msgspec.json.decode(data)
    except _UNREADABLE as unreadable:
        return invalid_json(unreadable)
    return explain(found, _FIELDS) or FrameProblem(
        "VALIDATION_ERROR", "Invalid message" if error is None else str(error)
    )


_FIELDS: Final[dict[str, bool | None]] = {
    "reset": False,
    "step": True,
    "state": None,
    "mcp": True,
    "close": None,
}
"""By type: whether `data` is required; None where it is not allowed."""


def decode_from_server(data: bytes | str) -> FromServer:
    """Decode what a server sent.

    Raises:
        RemoteProtocolError: It is no frame of OpenEnv.
    """
    try:
        return _from_server.decode(data)
    except _UNREADABLE as error:
        raise RemoteProtocolError(
            f"expected a frame of OpenEnv's dialect: {error}", code="invalid_frame"
        ) from error
