"""What server, zygote and worker say to each other: structs, codecs and framing.

Two channels. The *control* channel joins server and zygote: one packet a message, with
descriptors beside it. The *worker* channel joins server and worker: frames of a length
in four bytes and a body. Bodies are msgpack, decoded strictly; a worker may run hostile
code that writes to its channel, so nothing that comes from there is trusted.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from ..interpreters.base import Outcome
from .limits import Limits

__all__ = [
    "LENGTH",
    "MAX_FRAME",
    "MAX_PACKET",
    "Answer",
    "Ask",
    "Call",
    "CannotStart",
    "Configure",
    "ControlReply",
    "ControlRequest",
    "Crowded",
    "Done",
    "Ended",
    "Failed",
    "Fence",
    "FrameFault",
    "Frames",
    "Inspect",
    "Kill",
    "Ready",
    "Run",
    "Start",
    "Started",
    "WorkerReply",
    "WorkerRequest",
    "control_replies",
    "control_requests",
    "encode",
    "framed",
    "worker_replies",
    "worker_requests",
]

MAX_FRAME: Final = 8 * 1024 * 1024
"""Bytes of a body to a worker; see `Frames` for what a worker may send."""
MAX_PACKET: Final = 64 * 1024
LENGTH: Final = struct.Struct("!I")


class _Message(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True
):
    pass


class Fence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fence around a worker, and whether it holds."""

    name: str
    in_force: bool
    detail: str = ""
    """What it does, or why it is missing."""

    @classmethod
    def holding(cls, name: str, detail: str) -> Fence:
        """A fence that holds."""
        return cls(name=name, in_force=True, detail=detail)

    @classmethod
    def missing(cls, name: str, detail: str) -> Fence:
        """A fence that does not."""
        return cls(name=name, in_force=False, detail=detail)


# Server to zygote


class Configure(_Message, frozen=True, tag="configure"):
    """The first packet: what to import, and what workers get."""

    kinds: list[str]
    authorized_imports: list[str]
    limits: Limits
    scratch: str
    """Directory in which the workers' directories are made; it goes with the zygote."""
    hidden: list[str]
    """Paths that no worker may read."""
    uid: int | None
    """What the probe becomes; None where that is not possible."""
    namespaces: dict[str, str]
    """The server's own, by kind, to tell whether the zygote has others."""


class Start(_Message, frozen=True, tag="start"):
    """Fork a worker. Beside it travel its channel, and its stdout and stderr."""

    worker: int
    kind: str
    uid: int | None
    """What to become; None where that is not possible."""


class Kill(_Message, frozen=True, tag="kill"):
    """Kill a worker and what it left behind."""

    worker: int


class Inspect(_Message, frozen=True, tag="inspect"):
    """Kill those of these workers that have more threads than they may have.

    For workers without a user of their own, whose threads the kernel cannot count.
    """

    workers: list[int]


# Zygote to server


class Ready(_Message, frozen=True, tag="ready"):
    """Everything is imported; from a probe, what holds."""

    fences: list[Fence]


class Started(_Message, frozen=True, tag="started"):
    """A worker was forked."""

    worker: int


class CannotStart(_Message, frozen=True, tag="cannot_start"):
    """A worker could not be forked."""

    worker: int
    reason: str
    is_busy: bool
    """Whether the machine has no room just now, and may have later."""


class Crowded(_Message, frozen=True, tag="crowded"):
    """A worker is killed for its threads; `Ended` follows."""

    worker: int


class Ended(_Message, frozen=True, tag="ended"):
    """A worker is gone."""

    worker: int
    status: int
    """Exit status, or minus the number of the signal."""


class Failed(_Message, frozen=True, tag="failed"):
    """The zygote cannot do its work; it ends."""

    message: str


# Server to worker


class Run(_Message, frozen=True, tag="run"):
    """Run code."""

    seq: int
    code: str


class Call(_Message, frozen=True, tag="call"):
    """Call a function that the code defined."""

    seq: int
    name: str
    arguments: str


class Answer(_Message, frozen=True, tag="answer"):
    """Answer an `Ask`."""

    seq: int
    text: str


# Worker to server


class Done(_Message, frozen=True, tag="done"):
    """The answer to `Run` and `Call`; also, with seq 0, that the worker is up."""

    seq: int
    outcome: Outcome
    result_truncated: bool = False


class Ask(_Message, frozen=True, tag="ask"):
    """The running code wants something to be answered."""

    seq: int
    text: str


ControlRequest = Configure | Start | Kill | Inspect
ControlReply = Ready | Started | CannotStart | Crowded | Ended | Failed
WorkerRequest = Run | Call | Answer
WorkerReply = Done | Ask

control_requests: msgspec.msgpack.Decoder[ControlRequest] = msgspec.msgpack.Decoder(
    ControlRequest
)
control_replies: msgspec.msgpack.Decoder[ControlReply] = msgspec.msgpack.Decoder(
    ControlReply
)
worker_requests: msgspec.msgpack.Decoder[WorkerRequest] = msgspec.msgpack.Decoder(
    WorkerRequest
)
worker_replies: msgspec.msgpack.Decoder[WorkerReply] = msgspec.msgpack.Decoder(
    WorkerReply
)

encode = msgspec.msgpack.Encoder().encode


def framed(message: WorkerRequest | WorkerReply) -> bytes:
    """Encode a message for the worker channel."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body


class FrameFault(Exception):
    """What arrived is no frame."""


class Frames:
    """Cuts a stream of bytes into bodies.

    Args:
        most: Longest body to accept, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return the bodies that are complete.

        Raises:
            FrameFault: A body is announced that is longer than allowed.
        """
        buffer = self._buffer
        buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(buffer) - start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, start)
            if size > self._most:
                raise FrameFault(f"expected a frame of {self._most} bytes, got {size}")
            end = start + LENGTH.size + size
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + LENGTH.size : end]))
            start = end
        del buffer[:start]
        return bodies
