"""The server's sessions: found by key or id, bounded, leased, ended.

Time is passed in. What the table cannot do itself, closing environments, it asks for:
`tick` returns the sessions whose lease ran out, `released` holds work that became
possible without a new message.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from .. import messages as m
from .channels import Channel, Work
from .counting import Counts
from .sessions import Session
from .tables import Stage

if TYPE_CHECKING:
    from .server import ServerProtocol

__all__ = ["SessionTable"]

_SHORT: Final = 200
"""Characters of a client's text that are worth keeping."""
_AFTER_EVICTION: Final = 0.8
"""Share of the bound that is left after evicting, so that evictions are rare."""

_SAMPLES: Final = 1024
"""Replies of which the times are looked at between two calls of `measure`."""


class _Waiting:
    """An `open` that waits for capacity (section 4.2)."""

    __slots__ = ("deadline", "message", "protocol")

    def __init__(
        self, protocol: ServerProtocol, message: m.Open, deadline: float
    ) -> None:
        self.protocol = protocol
        self.message = message
        self.deadline = deadline


def _nothing() -> None:
    """Nobody has to be told."""


class SessionTable:
    """All sessions of one server: by key, by public id, within limits.

    Args:
        environments: Names that can be opened; the first is the default.
        limits: `sessions` and `lease` bound what clients can ask for.
        kept_bytes: Bound for all kept replies together, in bytes.
        wake: Called when `released` gets something.
    """

    def __init__(
        self,
        environments: list[str],
        *,
        limits: m.Limits,
        kept_bytes: int = 1024 * 1024 * 1024,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self.environments = environments
        self.limits = limits
        self.kept_bytes = kept_bytes
        self.kept = 0
        self.by_key: dict[str, Channel] = {}
        self.by_id: dict[str, Session] = {}
        self.draining = False
        self._detached: set[Channel] = set()
        self._holding: dict[Channel, float] = {}
        """Deadlines of requests that wait for their session's other client."""
        self._waiting: dict[tuple[ServerProtocol, int], _Waiting] = {}
        self.released: list[Work] = []
        """Work that became possible without a new message; the server takes it."""
        self._wake = wake
        self.counts = {name: Counts() for name in environments}
        self.errors: Counter[str] = Counter()
        """Errors that were sent and belong to no session, by code."""
        self.sampled: deque[tuple[ServerProtocol, bytes]] = deque(maxlen=_SAMPLES)
        """Small replies that were sent, with their connections; see `measure`."""
        self._opened = 0
        self._vacant = False
        self.made_room: Callable[[], None] = _nothing
        """Called when a session ended while somebody waits for its place."""

    def __len__(self) -> int:
        return len(self.by_id)

    def release(self, work: Work) -> None:
        """Hand out work that became possible without a new message."""
        self.released.append(work)
        if self._wake is not None:
            self._wake()

    def measure(self) -> None:
        """Note what the sampled replies say about their requests."""
        for protocol, data in self.sampled:
            message: m.ServerMessage = protocol.codec.from_server.message(data)
            if type(message) is m.Reply:
                channel = protocol.channel(message.handle)
                if channel is not None:
                    counts = channel.session.counts
                    counts.record(message.queue_ns, message.environment_ns)
        self.sampled.clear()

    # Opening.

    def open(self, protocol: ServerProtocol, message: m.Open, now: float) -> None:
        """Create the session, or attach to it if the key exists, and say so."""
        channel = self.by_key.get(message.key)
        if channel is not None:
            self._resume(channel, protocol, message)
            return
        name = message.environment or self.environments[0]
        if name not in self.environments:
            self._refuse(
                protocol,
                message,
                "unknown_environment",
                f"expected one of {self.environments!r}, got {name[:_SHORT]!r}",
            )
        elif self.draining:
            self._refuse(protocol, message, "shutting_down", "the server is leaving")
        elif len(self.by_id) >= self.limits.sessions:
            if message.wait > 0:
                waiting = _Waiting(protocol, message, now + message.wait)
                self._waiting[protocol, message.handle] = waiting
            else:
                self._refuse_full(protocol, message)
        else:
            self._create(protocol, message, name, now)

    def _create(
        self, protocol: ServerProtocol, message: m.Open, name: str, now: float
    ) -> None:
        self._opened += 1
        label = message.owner[:_SHORT]
        session = Session(self, f"s{self._opened}", name, label, now)
        channel = Channel(
            session,
            message.key,
            self._lease(message.lease),
            codec=protocol.codec,
            guest=False,
        )
        channel.holds = message.hold
        session.owner = channel
        self.by_id[session.id] = session
        self.by_key[channel.key] = channel
        self._attach(channel, protocol, message.handle, resumed=False)

    def _lease(self, asked: float | None) -> float:
        most = self.limits.lease
        return most if asked is None else max(0.0, min(asked, most))

    def _refuse(
        self,
        protocol: ServerProtocol,
        message: m.Open | m.Resume | m.TakeOver,
        code: str,
        text: str,
        detail: dict[str, object] | None = None,
    ) -> None:
        self.errors[code] += 1
        protocol.refuse(message.handle)
        protocol.say(m.failure(message.handle, None, code, text, detail=detail))

    def _refuse_full(self, protocol: ServerProtocol, message: m.Open) -> None:
        sessions, most = len(self.by_id), self.limits.sessions
        self._refuse(
            protocol,
            message,
            "at_capacity",
            f"expected room for another session, got {sessions} of {most} in use",
            {"sessions": sessions, "max_sessions": most},
        )

    def resume(self, protocol: ServerProtocol, message: m.Resume) -> None:
        """Attach an existing channel to a new connection, or say that it is gone."""
        channel = self.by_key.get(message.key)
        if channel is None:
            self._refuse(
                protocol,
                message,
                "unknown_session",
                "expected the key of a session, got one that is not known here",
            )
            return
        self._resume(channel, protocol, message)

    def _resume(
        self,
        channel: Channel,
        protocol: ServerProtocol,
        message: m.Open | m.Resume | m.TakeOver,
    ) -> None:
        if channel.codec is not protocol.codec:
            # What it has in flight and what is kept for it is in that encoding.
            self._refuse(
                protocol,
                message,
                "protocol_error",
                f"expected {channel.codec.encoding} as when the session was opened, "
                f"got {protocol.codec.encoding}",
            )
            return
        self._attach(channel, protocol, message.handle, resumed=True)

    def _attach(
        self, channel: Channel, protocol: ServerProtocol, handle: int, *, resumed: bool
    ) -> None:
        if channel.protocol is not None and channel.protocol is not protocol:
            # The client knows before us that its old connection is dead, or somebody
            # who holds the key moves the session: the key decides.
            channel.protocol.drop(channel, "session_closed", "resumed elsewhere")
        elif channel.protocol is protocol and channel.handle != handle:
            protocol.release(channel.handle)
        self._detached.discard(channel)
        channel.attach(protocol, handle)
        protocol.bind(handle, channel)
        session = channel.session
        protocol.say(
            m.Opened(
                handle,
                session.id,
                session.environment,
                channel.seq,
                channel.lease,
                resumed,
            )
        )

    # Ending.

    def detach(self, channel: Channel, now: float) -> None:
        """The channel's connection is gone: its lease begins."""
        channel.detach(now + channel.lease)
        if self.by_key.get(channel.key) is channel:
            self._detached.add(channel)

    def give_up(self, channel: Channel) -> bool:
        """A client leaves without a word to come; returns whether the session ends."""
        channel.detach()
        if channel.guest:
            self.hand_back(channel)
            return False
        self.retire(channel.session)
        return True

    def retire(self, session: Session) -> None:
        """Let nothing new begin on a session whose environment is about to close."""
        session.stage = Stage.CLOSED
        if session.owner is not None:
            self._hide(session.owner)

    def remove(
        self,
        session: Session,
        code: str = "session_closed",
        *,
        asked: Channel | None = None,
    ) -> None:
        """Forget a session whose environment is closed.

        Args:
            session: Which one.
            code: Why, for clients.
            asked: Whose `close` it was: its reply says all.
        """
        session.stage = Stage.CLOSED
        for channel in session.channels():
            self._forget(channel)
            if channel.protocol is not None:
                if channel is asked:
                    channel.protocol.release(channel.handle)
                else:
                    channel.protocol.drop(channel, code, "the server ended the session")
            channel.detach()
        self.by_id.pop(session.id, None)
        if session.watchers:
            session.tell_ended(code)
        for watcher in session.watchers or ():
            watcher.protocol.unwatch(watcher.id)
        if self._waiting:
            self._vacant = True
            self.made_room()

    def _forget(self, channel: Channel) -> None:
        if channel.live:
            channel.session.counts.ended += channel.seq
        self._hide(channel)
        channel.forget()
        channel.live = False
        channel.fast = None

    def _hide(self, channel: Channel) -> None:
        """Let no key find a channel, unless the key has come to mean another one."""
        if self.by_key.get(channel.key) is channel:
            del self.by_key[channel.key]
        self._detached.discard(channel)
        self._holding.pop(channel, None)

    def expire(self, channel: Channel, at: float | None) -> None:
        """Note when a request that waits is too late; None forgets it."""
        if at is None:
            self._holding.pop(channel, None)
        else:
            self._holding[channel] = at

    def withdraw(self, protocol: ServerProtocol, handle: int) -> None:
        """Drop an `open` that waits for capacity: its client gave it up."""
        self._waiting.pop((protocol, handle), None)
        protocol.refuse(handle)

    def forget_connection(self, protocol: ServerProtocol) -> None:
        """Drop what a connection waits for: nobody is there to get it."""
        for key in [key for key in self._waiting if key[0] is protocol]:
            del self._waiting[key]

    # Time.

    def tick(self, now: float) -> list[Session]:
        """Let time pass; returns sessions to close because their lease ran out.

        Call it after every batch of ended sessions, and at `next_tick` at the latest.
        The caller closes the environments, then calls `remove`.
        """
        ended: list[Session] = []
        for channel in [
            channel
            for channel in self._detached
            if channel.expires_at is not None and channel.expires_at <= now
        ]:
            self._detached.discard(channel)
            if channel.guest:
                self.hand_back(channel)
            else:
                # No key finds it any more, though its environment still has to close.
                self.retire(channel.session)
                ended.append(channel.session)
        for channel in [late for late, at in self._holding.items() if at <= now]:
            request = channel.take_held()
            assert request is not None
            text = f"expected its turn within {request.timeout} s"
            channel.fail("deadline_exceeded", text, executed="no")
        self._serve_waiting(now)
        return ended

    def _serve_waiting(self, now: float) -> None:
        still: dict[tuple[ServerProtocol, int], _Waiting] = {}
        for key, waiting in list(self._waiting.items()):
            if waiting.message.key in self.by_key or (
                len(self.by_id) < self.limits.sessions
            ):
                self.open(
                    waiting.protocol,
                    msgspec.structs.replace(waiting.message, wait=0.0),
                    now,
                )
            elif waiting.deadline <= now:
                self._refuse_full(waiting.protocol, waiting.message)
            else:
                still[key] = waiting
        self._waiting = still
        self._vacant = False

    @property
    def vacant(self) -> bool:
        """Whether there is room now for somebody who waits for it."""
        return self._vacant

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

    def next_tick(self) -> float | None:
        """When `tick` has something to do; 0.0 for at once, None for never."""
        if self._vacant:
            return 0.0
        times = [
            channel.expires_at
            for channel in self._detached
            if channel.expires_at is not None
        ]
        times.extend(waiting.deadline for waiting in self._waiting.values())
        times.extend(self._holding.values())
        return min(times, default=None)

    # Kept replies.

    def count_kept(self, size: int) -> None:
        """Account for a kept reply; evicts the largest ones over the bound (5.3)."""
        self.kept += size
        if self.kept > self.kept_bytes:
            self._evict()

    def _evict(self) -> None:
        keeping = [
            channel for channel in self.by_key.values() if channel.kept is not None
        ]
        goal = self.kept_bytes * _AFTER_EVICTION
        for channel in heapq.nlargest(
            len(keeping), keeping, key=lambda channel: len(channel.kept or b"")
        ):
            if self.kept <= goal:
                break
            channel.evict()

    # Taking over.

    def take_over(self, protocol: ServerProtocol, message: m.TakeOver) -> None:
        """Give a second client the wheel (section 7.3)."""
        session = self.by_id.get(message.session)
        if session is None or session.stage is Stage.CLOSED:
            self._refuse(
                protocol,
                message,
                "unknown_session",
                f"expected the id of a session, got {message.session[:_SHORT]!r}",
            )
            return
        guest = session.guest
        if guest is not None and guest.key == message.key:
            # Asked again, because the answer was lost with a connection.
            self._resume(guest, protocol, message)
            return
        if guest is not None or message.key in self.by_key:
            self._refuse(
                protocol,
                message,
                "taken_over",
                f"expected a session that is free, got {message.session!r}",
            )
            return
        guest = Channel(
            session,
            message.key,
            self._lease(message.lease),
            codec=protocol.codec,
            guest=True,
        )
        session.guest = guest
        session.refresh()
        self.by_key[guest.key] = guest
        self._attach(guest, protocol, message.handle, resumed=False)

    def hand_back(self, guest: Channel) -> None:
        """End a take-over; the owner's waiting request goes to `released`.

        While the guest's own request still runs, that happens at its end.
        """
        session = guest.session
        if guest.held is not None:
            guest.take_held()
            guest.fail("cancelled", "handed back before it began", executed="no")
        session.guest = None
        session.refresh()
        self._forget(guest)
        if guest.protocol is not None:
            guest.protocol.drop(guest, "session_closed", "handed back")
        guest.detach()
        session.release_held()
