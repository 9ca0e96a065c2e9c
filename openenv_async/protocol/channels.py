"""A client's way to a session: sequence numbers, the kept reply, the lease.

A channel outlives its connection for its lease (section 4.4), and it holds all that
exactly-once needs: the last sequence number and the last reply (section 5.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from .. import messages as m
from ..errors import Executed, LocalProtocolError
from .connection import tag_of
from .tables import PERMITS, Stage

if TYPE_CHECKING:
    from .server import ServerProtocol
    from .sessions import Session

__all__ = ["COUNTED", "Channel", "Request", "Work"]

Request: TypeAlias = m.Reset | m.Step | m.GetState | m.Close
"""What a session executes, one at a time."""

Work: TypeAlias = tuple["Channel", Request | m.Cancel]
"""What a server machine hands out: execute this on that channel's session."""

_RUNNING: Final = Stage.RUNNING
COUNTED: Final = 1024
"""Kept replies up to this size are bounded by the number of sessions alone."""


class Channel:
    """One client's way to a session: handle, lease, sequence, kept reply."""

    __slots__ = (
        "busy",
        "cancel_ahead",
        "codec",
        "counted",
        "expires_at",
        "fast",
        "guest",
        "handle",
        "held",
        "held_at",
        "holds",
        "kept",
        "key",
        "lease",
        "live",
        "lost",
        "protocol",
        "seq",
        "session",
    )

    def __init__(
        self, session: Session, key: str, lease: float, *, codec: m.Codec, guest: bool
    ) -> None:
        self.session = session
        self.key = key
        self.lease = lease
        self.codec = codec
        self.guest = guest
        self.handle = -1
        self.protocol: ServerProtocol | None = None
        """The connection that it is attached to."""
        self.seq = 0
        """The last accepted sequence number."""
        self.busy = False
        self.kept: bytes | None = None
        """The encoded reply to `seq`; None while it runs, or after an eviction."""
        self.lost: Executed = "yes"
        """Whether the request was executed whose reply was evicted."""
        self.expires_at: float | None = None
        """When the lease runs out; None while attached."""
        self.cancel_ahead = 0
        """A request to refuse when it arrives: its cancellation overtook it."""
        self.holds = False
        """Whether requests wait while the session is taken over."""
        self.held: Request | None = None
        """An accepted request that waits for the session's other client."""
        self.held_at = 0.0
        self.live = True
        """Whether the table knows it, so that kept replies count."""
        self.counted = 0
        """Size of the kept reply, if it counts against the table's bound."""
        self.fast: list[bytes] | None = None
        """Where small replies go while nobody but the owner is concerned."""

    def refresh(self) -> None:
        """Decide anew whether replies may take the short way (`Session.step_reply`)."""
        session, protocol = self.session, self.protocol
        is_plain = (
            protocol is not None
            and self.live
            and not self.guest
            and session.guest is None
            and session.watchers is None
            and protocol.takes_whole(COUNTED)
        )
        self.fast = protocol.small if is_plain and protocol is not None else None

    # Requests.

    def accept(self, request: Request, now: float) -> Work | None:
        """Check order and sequence; returns work, or answers and returns None."""
        session = self.session
        if request.seq != self.seq + 1:
            self._answer_again(request.seq)
            return None
        if self.busy:
            # Nothing of this request is remembered: the same number may be used again.
            self._tell(
                m.failure(
                    self.handle,
                    request.seq,
                    "busy",
                    f"expected one request at a time, got {request.seq} while "
                    f"{self.seq} is in flight",
                )
            )
            return None
        self.seq = request.seq
        self.busy = True
        if self.kept is not None:
            self.forget()
        if (
            session.request is not None or session.guest is not None
        ) and not self._is_its_turn(request, now):
            return None
        # A running episode permits everything; asking the table costs a hash of an
        # enumeration, which is a Python call.
        stage = session.stage
        code = "" if stage is _RUNNING else PERMITS[stage][type(request)]
        if code or self.cancel_ahead == request.seq:
            self._refuse(request, code or "cancelled")
            return None
        session.request = request
        session.channel = self
        session.since_ns = int(now * 1e9)
        return self, request

    def _is_its_turn(self, request: Request, now: float) -> bool:
        """Whether a request may run now although two clients share the session.

        A guest waits for the owner's request that was in flight when it came, and an
        owner for the guest's last one. In between an owner waits or is refused, as it
        chose when it opened the session.
        """
        session = self.session
        if self.guest and type(request) is m.Close:
            self.fail(
                "protocol_error",
                "expected 'hand_back' from a guest, got 'close'",
                executed="no",
            )
        elif self.guest or session.guest is None:
            if session.request is None:
                return True
            self._hold(request, now)
        elif type(request) is m.Close:
            # It is the owner's session: the guest has to go.
            session.table.hand_back(session.guest)
            if session.request is None:
                return True
            self._hold(request, now)
        elif self.holds:
            self._hold(request, now)
        else:
            self.fail(
                "taken_over",
                "expected the session to be ours, but somebody else drives it",
                executed="no",
            )
        return False

    def _hold(self, request: Request, now: float) -> None:
        self.held, self.held_at = request, now
        if request.timeout is not None:
            self.session.table.expire(self, now + request.timeout)

    def take_held(self) -> Request | None:
        """Take the request that waits, if there is one."""
        request, self.held = self.held, None
        self.session.table.expire(self, None)
        return request

    def _refuse(self, request: Request, code: str) -> None:
        stage = self.session.stage.value
        if code == "cancelled":
            text = f"request {request.seq} was cancelled before it began"
        else:
            text = (
                f"expected an episode that can go on, got {tag_of(request)!r} while "
                f"the session is {stage!r}"
            )
            if code in ("episode_broken", "session_poisoned"):
                text += f" by an earlier request ({self.session.broken})"
        self.fail(code, text, executed="no", detail={"stage": stage})

    def _answer_again(self, seq: int) -> None:
        """A request that is not the next one: repeated, old or skipped (5.3)."""
        if seq == self.seq and self.busy:
            return  # It still runs; its reply will come.
        if seq == self.seq and self.kept is not None:
            self.send(self.kept)
            return
        if seq == self.seq and seq:
            reply = m.failure(
                self.handle,
                seq,
                "reply_lost",
                f"the reply to {seq} is no longer kept",
                executed=self.lost,
            )
        elif seq <= self.seq:
            # Nobody remembers whether it was executed or refused.
            reply = m.failure(
                self.handle,
                seq,
                "bad_sequence",
                f"expected request {self.seq + 1}, got {seq}, which was answered",
                executed="unknown" if seq > 0 else "no",
            )
        else:
            reply = m.failure(
                self.handle,
                seq,
                "bad_sequence",
                f"expected request {self.seq + 1}, got {seq}",
            )
        self._tell(reply)

    def cancel(self, seq: int) -> Work | None:
        """Ask to stop a request; returns work if there is something to stop."""
        if seq == self.seq + 1:
            self.cancel_ahead = seq
        elif seq == self.seq and self.held is not None:
            self.take_held()
            self.fail("cancelled", "cancelled while it waited", executed="no")
        elif seq == self.seq and self.busy:
            return self, m.Cancel(self.handle, seq)
        return None

    def reject(self, failure: m.Failure) -> None:
        """Answer a request that could not even be read, and count its number."""
        if failure.seq == self.seq + 1 and not self.busy:
            self.seq += 1
            self.forget()
            self.session.counts.errors[failure.code] += 1
            self.answer(self.codec.encode(failure))
        else:
            self._tell(failure)

    # Replies.

    def fail(
        self,
        code: str,
        message: str,
        *,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """Answer the request in flight with an error and keep the answer."""
        self.session.counts.errors[code] += 1
        self.answer(
            self.codec.encode(
                m.failure(
                    self.handle,
                    self.seq,
                    code,
                    message,
                    executed=executed,
                    detail=detail,
                )
            )
        )

    def answer(self, data: bytes) -> None:
        """Send the encoded answer to the request in flight, and keep it."""
        self.busy = False
        self._keep(data)
        self.send(data)

    def _keep(self, data: bytes) -> None:
        if self.live:
            self.kept = data
            if len(data) > COUNTED:
                self.counted = len(data)
                self.session.table.count_kept(len(data))

    def forget(self) -> None:
        """Drop the kept reply: the client has it, or will never ask for it."""
        self.kept = None
        if self.counted:
            size, self.counted = self.counted, 0
            self.session.table.count_kept(-size)

    def evict(self) -> None:
        """Drop the kept reply; a resend will be told so."""
        if self.kept is not None:
            self.lost = self._executed(self.kept)
        self.forget()

    def _executed(self, data: bytes) -> Executed:
        message: m.ServerMessage = self.codec.from_server.message(data)
        return message.executed if isinstance(message, m.Failure) else "yes"

    # Connection.

    def say(self, message: m.ServerMessage) -> None:
        """Send a message that is not kept, to a client that has just been heard."""
        assert self.protocol is not None
        self.protocol.say(message)

    def _tell(self, failure: m.Failure) -> None:
        """Send an error that is not kept."""
        self.session.counts.errors[failure.code] += 1
        self.say(failure)

    def send(self, data: bytes) -> None:
        """Send encoded bytes, if anybody is there."""
        if self.protocol is None:
            return
        try:
            self.protocol.send(data)
        except LocalProtocolError as error:
            # The reply is larger than the client accepts: it gets the numbers instead.
            self.evict()
            self._tell(
                m.failure(
                    self.handle,
                    self.seq,
                    "too_large",
                    f"the reply does not fit: {error}",
                    executed=self._executed(data),
                    detail=error.detail,
                )
            )

    def attach(self, protocol: ServerProtocol, handle: int) -> None:
        """Move to a connection; a kept reply is readdressed."""
        self.detach()
        self.protocol = protocol
        self.expires_at = None
        moved = self.handle not in (-1, handle)
        if moved and self.kept is not None:
            message: m.ServerMessage = self.codec.from_server.message(self.kept)
            self.forget()
            self._keep(
                self.codec.encode(msgspec.structs.replace(message, handle=handle))
            )
        self.handle = handle
        self.refresh()

    def detach(self, expires_at: float | None = None) -> None:
        """Leave the connection; from now on the lease counts."""
        self.protocol = None
        self.fast = None
        self.expires_at = expires_at
