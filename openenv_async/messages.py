"""The wire: frozen, tagged structs, one union per direction, and their codecs.

Section numbers refer to docs/protocol.md. A message is an array whose first item
is its tag; a field that is added later goes to the end, and a peer that does not
know it ignores it. Payloads (actions, observations, states) stay encoded here:
only the session that they belong to knows their type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Generic, Literal, TypeVar, cast

import msgspec

from .arrays import encodable
from .errors import Executed, Fault

__all__ = [
    "CODES",
    "JSON",
    "MSGPACK",
    "VERSION",
    "Cancel",
    "Chunk",
    "ClientMessage",
    "Close",
    "Code",
    "Codec",
    "Encoded",
    "Encoding",
    "Ended",
    "Event",
    "Failure",
    "FrameDecoder",
    "GetState",
    "Goodbye",
    "HandBack",
    "Hello",
    "Limits",
    "ListSessions",
    "Message",
    "Open",
    "Opened",
    "Payload",
    "Ping",
    "Pong",
    "Progress",
    "Reply",
    "Reset",
    "Resume",
    "Seed",
    "ServerMessage",
    "SessionRow",
    "Sessions",
    "Step",
    "TakeOver",
    "Unwatch",
    "Watch",
    "Watching",
    "Welcome",
    "failure",
    "raw",
]

VERSION: Final = 1
"""The protocol version that this package speaks (section 3.1)."""

Encoding = Literal["msgpack", "json"]
Encoded = bytes | bytearray | memoryview | msgspec.Raw
"""What can be decoded."""

if TYPE_CHECKING:
    Payload = object
else:
    # Encoding takes any object; decoding leaves the bytes as they are.
    Payload = msgspec.Raw


def raw(encoded: bytes) -> Payload:
    """Mark bytes as an encoded payload, so that encoding includes them as they are."""
    return msgspec.Raw(encoded)


Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What every encoding and every environment can represent."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One item of a frame (section 2.1)."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one side accepts (section 3.2). Sizes in bytes, durations in seconds."""

    frame_bytes: int = 4 * 1024 * 1024
    """Largest WebSocket message."""
    message_bytes: int = 256 * 1024 * 1024
    """Largest single message, after its chunks are put together."""
    chunk_bytes: int = 256 * 1024
    """Messages above this size are sent in chunks of at most this size."""
    in_flight: int = 65_536
    """Handles on one connection, each with one request in flight at most."""
    sessions: int = 65_536
    """Sessions on the whole server; meaningless from a client."""
    lease: float = 60.0
    """How long a session outlives its connection, at most."""
    heartbeat: float = 15.0
    """Silence after which this side pings; three of them end the connection."""


# Section 3: the connection.


class Hello(Message, frozen=True, tag="hello"):
    """The client's first message (section 3.1)."""

    version: int
    client: str = ""
    """Name and version of the software, for logs."""
    limits: Limits = Limits()
    token: str | None = None
    """Bearer token, for clients that cannot set HTTP headers (section 3.4)."""


class Welcome(Message, frozen=True, tag="welcome"):
    """The server's answer to `Hello` (section 3.1)."""

    version: int
    server: str
    incarnation: str
    """Changes whenever the server's sessions are gone (section 3.3)."""
    limits: Limits
    environments: list[str]
    """Names that `Open` accepts; the first is the default."""


class Ping(Message, frozen=True, tag="ping"):
    """Asks for a `Pong` with the same nonce (section 3.5)."""

    nonce: int


class Pong(Message, frozen=True, tag="pong"):
    """Answers a `Ping` (section 3.5)."""

    nonce: int


class Goodbye(Message, frozen=True, tag="goodbye"):
    """The sender will close the connection; no new sessions (section 3.6)."""

    reason: str = ""
    retry_after: float | None = None
    """Seconds until a new connection may succeed; null when it will not."""


class Chunk(Message, frozen=True, tag="chunk", gc=False):
    """A piece of a message that is too large to go in one (section 2.3)."""

    stream: int
    final: bool
    data: bytes


# Section 4: sessions.


class Open(Message, frozen=True, tag="open"):
    """Create a session, or attach to it if the key exists (section 4.1)."""

    handle: int
    key: str
    environment: str | None = None
    owner: str = ""
    """A label for lists and logs."""
    lease: float | None = None
    wait: float = 0.0
    """Seconds to wait for capacity before `at_capacity`."""
    hold: bool = False
    """While taken over, requests wait instead of failing (section 7.3)."""


class Resume(Message, frozen=True, tag="resume"):
    """Attach to an existing session on a new connection (section 4.3)."""

    handle: int
    key: str


class Opened(Message, frozen=True, tag="opened"):
    """The session is attached to the handle (section 4.1)."""

    handle: int
    session: str
    """Public id: safe to show, useless as a key."""
    environment: str
    seq: int
    """Sequence number of the last request that the server accepted."""
    lease: float
    resumed: bool = False


class Reset(Message, frozen=True, tag="reset", gc=False):
    """Start an episode (section 5.1)."""

    handle: int
    seq: int
    seed: Seed | None = None
    episode_id: str | None = None
    options: Payload = None
    timeout: float | None = None


class Step(Message, frozen=True, tag="step", gc=False):
    """Perform an action (section 5.1)."""

    handle: int
    seq: int
    action: Payload
    timeout: float | None = None


class GetState(Message, frozen=True, tag="state", gc=False):
    """Read the environment's state (section 5.1)."""

    handle: int
    seq: int
    timeout: float | None = None


class Close(Message, frozen=True, tag="close", gc=False):
    """Close the environment and end the session (section 5.1)."""

    handle: int
    seq: int
    timeout: float | None = None


class Cancel(Message, frozen=True, tag="cancel", gc=False):
    """Stop the request in flight, if it still runs (section 5.5).

    With `seq` 0 the client gives the whole session up: an `Open` that waits is
    withdrawn, an open session is closed. Nothing answers it.
    """

    handle: int
    seq: int


class Reply(Message, frozen=True, tag="reply", gc=False):
    """A request's result (section 5.2). Durations in nanoseconds.

    `encode_ns` is 0 where it was not measured: small payloads are encoded together
    with the message.
    """

    handle: int
    seq: int
    payload: Payload
    queue_ns: int = 0
    environment_ns: int = 0
    encode_ns: int = 0


class Failure(Message, frozen=True, tag="error"):
    """A request, a session or the connection failed (section 9)."""

    handle: int | None
    seq: int | None
    code: str
    message: str
    executed: Executed = "unknown"
    retryable: bool = False
    fault: Fault = "infrastructure"
    detail: dict[str, object] | None = None


class Progress(Message, frozen=True, tag="progress"):
    """A long request reports where it stands (section 5.4)."""

    handle: int
    seq: int
    fraction: float | None = None
    message: str = ""


class Ended(Message, frozen=True, tag="ended"):
    """The session is gone without `Close` (section 4.5)."""

    handle: int
    code: str
    message: str


# Section 7: watching.


class ListSessions(Message, frozen=True, tag="list"):
    """Ask for one `Sessions` (section 7.1)."""

    id: int
    environment: str | None = None
    limit: int = 10_000


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One session as `Sessions` lists it. Durations in seconds."""

    session: str
    environment: str
    owner: str
    state: str
    episode: int
    step: int
    reward: float | None
    age: float
    busy: float | None
    """Time in the current request; null when none is in flight."""
    attached: bool
    taken_over: bool


class Sessions(Message, frozen=True, tag="sessions"):
    """The sessions of the server (section 7.1)."""

    id: int
    rows: list[SessionRow]
    total: int


class Watch(Message, frozen=True, tag="watch"):
    """Subscribe to a session's requests and replies (section 7.2)."""

    id: int
    session: str
    queue: int = 256
    """Events that may wait for this watcher; more are dropped and counted."""


class Watching(Message, frozen=True, tag="watching"):
    """The subscription is active; events follow (section 7.2)."""

    id: int
    row: SessionRow


class Unwatch(Message, frozen=True, tag="unwatch"):
    """End a subscription (section 7.2)."""

    id: int


class Event(Message, frozen=True, tag="event"):
    """What happened on a watched session (section 7.2)."""

    id: int
    kind: Literal["reset", "step", "state", "error", "ended"]
    seq: int
    dropped: int
    """Events lost since the one before, because this watcher was slow."""
    request: Payload
    """The action or the reset's arguments, also of a failed one; null otherwise."""
    payload: Payload
    """The observation or state; for `error` and `ended` a map of code and message."""
    queue_ns: int = 0
    environment_ns: int = 0
    encode_ns: int = 0


class TakeOver(Message, frozen=True, tag="take_over"):
    """Drive a session that belongs to somebody else (section 7.3)."""

    handle: int
    session: str
    key: str
    lease: float = 60.0


class HandBack(Message, frozen=True, tag="hand_back"):
    """Give a session back to its owner (section 7.3)."""

    handle: int


ClientMessage = (
    Hello
    | Ping
    | Pong
    | Goodbye
    | Chunk
    | Open
    | Resume
    | Reset
    | Step
    | GetState
    | Close
    | Cancel
    | ListSessions
    | Watch
    | Unwatch
    | TakeOver
    | HandBack
)
"""What a client sends."""

ServerMessage = (
    Welcome
    | Ping
    | Pong
    | Goodbye
    | Chunk
    | Opened
    | Reply
    | Failure
    | Progress
    | Ended
    | Sessions
    | Watching
    | Event
)
"""What a server sends."""


class Code(msgspec.Struct, frozen=True):
    """One row of the table of error codes (section 9)."""

    executed: Executed
    retryable: bool
    fault: Fault
    meaning: str


CODES: Final[dict[str, Code]] = {
    "invalid_frame": Code(
        "unknown", False, "caller", "the frame cannot be read; the connection closes"
    ),
    "protocol_error": Code(
        "no", False, "caller", "a message that is not allowed here, or is malformed"
    ),
    "version_mismatch": Code(
        "no", False, "caller", "no common protocol version; the connection closes"
    ),
    "unauthorized": Code("no", False, "caller", "the bearer token is missing or wrong"),
    "unknown_environment": Code(
        "no", False, "caller", "no environment of that name is hosted here"
    ),
    "unknown_session": Code(
        "unknown", False, "infrastructure", "no session has that key"
    ),
    "at_capacity": Code(
        "no", True, "infrastructure", "the server has no room for another session"
    ),
    "busy": Code("no", True, "caller", "a request is in flight on this session"),
    "bad_sequence": Code(
        "no", False, "caller", "the sequence number is neither the last nor the next"
    ),
    "too_large": Code("no", False, "caller", "the message is larger than the limit"),
    "invalid_action": Code(
        "no", False, "caller", "the action or the options do not fit their type"
    ),
    "reset_required": Code("no", False, "caller", "no episode is running"),
    "episode_done": Code("no", False, "caller", "the episode is over"),
    "episode_broken": Code(
        "no",
        False,
        "infrastructure",
        "an earlier request of the episode ended in an unknown state",
    ),
    "environment_failed": Code(
        "unknown", False, "environment", "the environment's code raised"
    ),
    "cancelled": Code(
        "unknown", False, "caller", "the request was cancelled by its caller"
    ),
    "deadline_exceeded": Code(
        "unknown", False, "environment", "the request ran out of time"
    ),
    "session_poisoned": Code(
        "no",
        False,
        "environment",
        "a call into the environment hangs and cannot be stopped",
    ),
    "worker_died": Code(
        "unknown", False, "infrastructure", "the process of the environment died"
    ),
    "reply_lost": Code(
        "yes", False, "infrastructure", "executed, but the reply is no longer kept"
    ),
    "lease_expired": Code(
        "unknown", False, "infrastructure", "nobody came back within the lease"
    ),
    "taken_over": Code(
        "no", True, "caller", "somebody else drives the session for now"
    ),
    "shutting_down": Code("no", False, "infrastructure", "the server is shutting down"),
    "session_lost": Code(
        "unknown", False, "infrastructure", "the server or the connection is gone"
    ),
    "session_closed": Code("no", False, "caller", "the session was closed"),
}
"""Every code with its usual attributes; a message may be more precise."""


def failure(
    handle: int | None,
    seq: int | None,
    code: str,
    message: str,
    *,
    executed: Executed | None = None,
    retryable: bool | None = None,
    detail: dict[str, object] | None = None,
) -> Failure:
    """Build a `Failure` with the attributes that its code usually has."""
    row = CODES[code]
    return Failure(
        handle,
        seq,
        code,
        message,
        row.executed if executed is None else executed,
        row.retryable if retryable is None else retryable,
        row.fault,
        detail,
    )


MessageT = TypeVar("MessageT")


class FrameDecoder(Generic[MessageT]):
    """Decode frames of one direction; fast for good ones, thorough for bad ones."""

    def __init__(self, codec: Codec, message: object) -> None:
        frame = list[message]  # type: ignore[valid-type]  # a runtime type
        self.frame = cast(Callable[[Encoded], list[MessageT]], codec.decoder(frame))
        """The whole frame at once; raises what msgspec raises."""
        self.message = cast(Callable[[Encoded], MessageT], codec.decoder(message))
        """One message alone."""
        items = codec.decoder(list[msgspec.Raw])
        self.items = cast(Callable[[Encoded], list[msgspec.Raw]], items)
        """The frame's items, undecoded: to find the bad one."""


class Codec:
    """One encoding of messages, frames and payloads (section 2.2)."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding: Encoding = encoding
        self.subprotocol = f"openenv.v{VERSION}.{encoding}"
        self.is_text = encoding == "json"
        self._module = msgspec.json if self.is_text else msgspec.msgpack
        self.encode: Callable[[object], bytes] = self._module.Encoder(
            enc_hook=encodable
        ).encode
        self.from_client = FrameDecoder[ClientMessage](self, ClientMessage)
        self.from_server = FrameDecoder[ServerMessage](self, ServerMessage)
        self.generic = self.decoder(object)

    def decoder(self, kind: object) -> Callable[[Encoded], object]:
        """Build a decoder for payloads of one type; keep it, building is slow."""
        decode: Callable[[Encoded], object] = self._module.Decoder(kind).decode
        return decode

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Join encoded messages into one frame (section 2.1)."""
        if self.is_text:
            return b"[" + b",".join(messages) + b"]"
        count = len(messages)
        if count < 16:
            head = bytes((0x90 | count,))
        elif count < 65_536:
            head = b"\xdc" + count.to_bytes(2, "big")
        else:
            head = b"\xdd" + count.to_bytes(4, "big")
        return head + b"".join(messages)

    def transcode(self, payload: Encoded, into: Codec) -> bytes:
        """Turn an encoded payload into another encoding of the same value."""
        if into is self:
            return bytes(payload)
        return into.encode(self.generic(payload))

    def __repr__(self) -> str:
        return f"Codec({self.encoding!r})"


MSGPACK: Final = Codec("msgpack")
JSON: Final = Codec("json")
