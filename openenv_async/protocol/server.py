"""The server's side of one connection: frames in, work out; replies in, frames out.

The machine reads no clock and touches no socket. It answers what concerns only the
protocol by itself, and hands out `Work`: what an environment has to execute.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, assert_never

import msgspec

from .. import messages as m
from ..errors import LocalProtocolError, RemoteProtocolError
from .channels import COUNTED, Channel, Work
from .connection import UNENCODABLE, Connection, tag_of, unusable
from .framing import Inbox, Outbox
from .sessions import Watcher
from .table import SessionTable
from .tables import RECEIVES, Phase, Stage

__all__ = ["ServerProtocol"]

_KEY: Final = re.compile(r"[0-9a-f]{32,128}")
"""At least 128 bits, so that keys cannot be guessed (section 4.1)."""
_RUNNING: Final = Stage.RUNNING
_STRIDE: Final = 97
"""How far apart measured replies are: coprime to the usual sizes of batches."""
_LISTS: Final = 8
"""Lists that one frame may ask for: each looks at every session."""
_REQUESTS: Final = frozenset({"reset", "step", "state", "close"})
"""Tags of messages with a sequence number that counts."""
_MAX_HANDLE: Final = 2**53 - 1
"""What every JSON implementation can represent."""
_MOST_WATCHES: Final = 1024
"""Subscriptions of one connection: each costs the watched session time."""
_MOST_EVENTS: Final = 4096
"""Events that may wait for a watcher, whatever it asks for."""
_SHORT: Final = 200
"""Characters of a text that has to fit."""


def _always(_token: str | None) -> bool:
    return True


class ServerProtocol(Connection):
    """One connection, seen from the server.

    Args:
        table: The server's sessions.
        codec: The encoding that the subprotocol names.
        server: Name and version of the software, for `welcome`.
        incarnation: Identifies the table; a client compares it after a reconnect.
        limits: What this side accepts.
        authorize: Whether `hello` with this token may go on; the default lets all.
        wake: Called when something begins to wait in the outbox.
        outbox: What messages wait in, if not in frames for a socket.
        wake_later: Called instead of `wake` for a watcher's events, which may wait a
            moment for more of them.
    """

    def __init__(
        self,
        table: SessionTable,
        *,
        codec: m.Codec = m.MSGPACK,
        server: str = "",
        incarnation: str,
        limits: m.Limits | None = None,
        authorize: Callable[[str | None], bool] = _always,
        wake: Callable[[], None] | None = None,
        outbox: Outbox | None = None,
        wake_later: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(codec, limits, wake, outbox, wake_later)
        self.table = table
        self.peer = ""
        """What the client calls itself."""
        self._server = server
        self._incarnation = incarnation
        self._authorize = authorize
        # What cannot be read is not executed.
        self._inbox = Inbox(
            codec, self.limits, decoder=codec.from_client, executed="no"
        )
        self._channels: dict[int, Channel] = {}
        self._reserved: set[int] = set()
        self._lists = 0
        self._turn = 0
        self._watchers: dict[int, Watcher] = {}

    # Receiving

    def receive(self, frame: bytes, now: float) -> list[Work]:
        """Take a frame; returns what has to be executed, in order.

        Nothing is raised for bad input: the answer, with a code, goes to the outbox,
        and after an unreadable frame `close_code` is set.
        """
        work: list[Work] = []
        self._heard = now
        self._lists = 0
        since_ns = int(now * 1e9)
        try:
            messages = self._inbox.messages(frame)
            channels, step = self._channels, m.Step
            ready = self.phase is Phase.READY
            for message in messages:
                # The hot path: the table allows a step in phase READY.
                if ready and type(message) is step:
                    channel = channels.get(message.handle)
                    if channel is not None:
                        session, seq = channel.session, message.seq
                        if (
                            seq == channel.seq + 1
                            and session.request is None
                            and session.stage is _RUNNING
                            and channel.fast is not None
                            and channel.cancel_ahead != seq
                        ):
                            # What `accept` does when nothing is special.
                            channel.seq = seq
                            channel.busy = True
                            channel.kept = None
                            if channel.counted:
                                channel.forget()
                            session.request = message
                            session.channel = channel
                            session.since_ns = since_ns
                            work.append((channel, message))
                            continue
                        item = channel.accept(message, now)
                        if item is not None:
                            work.append(item)
                        continue
                self._dispatch(message, now, work)
                ready = self.phase is Phase.READY
        except RemoteProtocolError as error:
            self._fail_connection(error)
        if self.table.released:
            work.extend(self.table.released)
            self.table.released.clear()
        return work

    def _dispatch(  # noqa: C901 (a match over a union)
        self, message: m.ClientMessage | m.Failure, now: float, work: list[Work]
    ) -> None:
        if isinstance(message, m.Failure):
            self._malformed(message)
            return
        phase = RECEIVES["server"][self.phase].get(type(message))
        if phase is None:
            raise RemoteProtocolError(
                f"expected no {tag_of(message)!r} in phase {self.phase.value!r}",
                code="protocol_error",
            )
        match message:
            case m.Step() | m.Reset() | m.GetState() | m.Close() | m.Cancel():
                self._request(message, now, work)
            case m.Chunk():
                whole = self._inbox.chunk(message)
                if isinstance(whole, m.Chunk):
                    raise RemoteProtocolError(
                        "expected a message in chunks, got a chunk in chunks",
                        code="invalid_frame",
                    )
                if whole is not None:
                    self._dispatch(whole, now, work)
                return
            case m.Hello():
                self._greet(message)
                return
            case m.Open() | m.Resume() | m.TakeOver():
                self._open(message, now)
            case m.Ping():
                self.say(m.Pong(message.nonce))
            case m.Pong():
                pass
            case m.Goodbye():
                self.close_code = 1000
            case m.HandBack():
                channel = self._channels.get(message.handle)
                if channel is None or not channel.guest:
                    self._unknown_handle(message.handle, None)
                else:
                    self.table.hand_back(channel)
            case m.ListSessions():
                self._list(message, now)
            case m.Watch():
                self._watch(message, now)
            case m.Unwatch():
                self.unwatch(message.id)
            case _:
                assert_never(message)
        self.phase = phase

    def _greet(self, hello: m.Hello) -> None:
        if hello.version != m.VERSION:
            raise RemoteProtocolError(
                f"expected protocol version {m.VERSION}, got {hello.version}",
                code="version_mismatch",
                detail={"supported": [m.VERSION]},
            )
        if not self._authorize(hello.token):
            raise RemoteProtocolError(
                "expected a valid bearer token, got "
                + ("none" if hello.token is None else "another one"),
                code="unauthorized",
            )
        trouble = unusable(hello.limits)
        if trouble:
            raise RemoteProtocolError(trouble, code="protocol_error")
        self.peer = hello.client[:_SHORT]
        self.phase = Phase.READY
        self.say(
            m.Welcome(
                m.VERSION,
                self._server,
                self._incarnation,
                self.limits,
                self.table.environments,
            )
        )
        # Afterwards, because the greeting never comes in chunks (section 3.1).
        self._outbox.peer = hello.limits

    def _request(
        self,
        message: m.Step | m.Reset | m.GetState | m.Close | m.Cancel,
        now: float,
        work: list[Work],
    ) -> None:
        channel = self._channels.get(message.handle)
        if channel is None:
            if not isinstance(message, m.Cancel):
                self._unknown_handle(message.handle, message.seq)
            elif message.seq == 0 and message.handle in self._reserved:
                self.table.withdraw(self, message.handle)
            return
        if not isinstance(message, m.Cancel):
            item = channel.accept(message, now)
        elif message.seq == 0:
            # The handle is free at once, so that nothing can follow on the session.
            self.release(message.handle)
            item = (channel, message) if self.table.give_up(channel) else None
        else:
            item = channel.cancel(message.seq)
        if item is not None:
            work.append(item)

    def _unknown_handle(self, handle: int, seq: int | None) -> None:
        self.say(
            m.failure(
                handle,
                seq,
                "unknown_session",
                f"expected the handle of an open session, got {handle}",
                executed="no",
            )
        )

    def _malformed(self, problem: m.Failure) -> None:
        channel = None if problem.handle is None else self._channels.get(problem.handle)
        if self.phase is Phase.GREETING:
            raise RemoteProtocolError(problem.message, code="protocol_error")
        is_request = (problem.detail or {}).get("tag") in _REQUESTS
        if channel is not None and problem.seq is not None and is_request:
            channel.reject(problem)
        else:
            self.say(problem)

    def _open(self, message: m.Open | m.Resume | m.TakeOver, now: float) -> None:
        handle = message.handle
        trouble = ""
        if not 0 <= handle <= _MAX_HANDLE:
            trouble = f"expected a handle from 0 to 2**53 - 1, got {handle}"
        elif _KEY.fullmatch(message.key) is None:
            trouble = "expected a key of at least 32 lower-case hexadecimal digits"
        elif handle in self._reserved or (
            handle in self._channels and self._channels[handle].key != message.key
        ):
            trouble = f"expected a handle that is free, got {handle}"
        elif len(self._reserved) + len(self._channels) >= self.limits.in_flight:
            trouble = f"expected at most {self.limits.in_flight} handles"
        if trouble:
            self.say(m.failure(handle, None, "protocol_error", trouble))
            return
        self._reserved.add(handle)
        match message:
            case m.Open():
                self.table.open(self, message, now)
            case m.Resume():
                self.table.resume(self, message)
            case m.TakeOver():
                self.table.take_over(self, message)
            case _:
                assert_never(message)

    def refuse_frame_type(self) -> None:
        """A text frame came on a binary encoding, or the other way round (2.2)."""
        if self.close_code is None:
            expected = "text" if self.codec.is_text else "binary"
            self._fail_connection(
                RemoteProtocolError(
                    f"expected {expected} frames in {self.codec.encoding}, got another",
                    code="invalid_frame",
                )
            )

    def _fail_connection(self, error: RemoteProtocolError) -> None:
        """Say what is wrong, then end: the peer cannot be understood any more."""
        self.table.errors[error.code] += 1
        self.say(m.failure(None, None, error.code, error.message, detail=error.detail))
        self.phase = Phase.CLOSED
        self.close_code = {"unauthorized": 1008, "invalid_frame": 1007}.get(
            error.code, 1002
        )

    def say(self, message: m.ClientMessage | m.ServerMessage) -> None:
        """Queue a message; one that is larger than the client accepts is replaced.

        It overtakes no event, such as of an earlier subscription of the same number.
        """
        self._outbox.release()
        try:
            super().say(message)
        except LocalProtocolError as error:
            if isinstance(message, m.Failure):
                text = message.message[:_SHORT]
                super().say(msgspec.structs.replace(message, message=text, detail=None))
            elif isinstance(message, m.Sessions):
                self._refuse_watch(message.id, "too_large", error.message, error.detail)
            # Nobody waits for the rest, such as progress with a long text.

    # Handles; the table calls these

    def next_frame(self) -> bytes | None:
        """Take the next frame to send, or None if nothing waits.

        Of each frame one small message is kept for `SessionTable.measure`: measuring
        all would cost every step something.
        """
        small = self.small
        if small:
            # From all over the frame, because those behind have waited longer.
            self._turn = (self._turn + _STRIDE) % len(small)
            data = small[self._turn]
            if len(data) <= COUNTED:
                self.table.sampled.append((self, data))
        return self._outbox.frame()

    def channel(self, handle: int) -> Channel | None:
        """Who is attached under a handle."""
        return self._channels.get(handle)

    def bind(self, handle: int, channel: Channel) -> None:
        """Make a handle mean a channel."""
        self._reserved.discard(handle)
        self._channels[handle] = channel

    def release(self, handle: int) -> None:
        """Make a handle mean nothing."""
        self._channels.pop(handle, None)

    def refuse(self, handle: int) -> None:
        """Give back a handle for which nothing was opened."""
        self._reserved.discard(handle)

    def drop(self, channel: Channel, code: str, message: str) -> None:
        """Take a channel off this connection and tell the client."""
        self.release(channel.handle)
        # Behind a reply that is still on its way in chunks: it must not get lost.
        self._outbox.append_behind(
            self.codec.encode(m.Ended(channel.handle, code, message))
        )

    # Watching

    def _list(self, message: m.ListSessions, now: float) -> None:
        if self.congested:
            # Each list is large, and a frame can ask for thousands.
            self._refuse_watch(message.id, "busy", "expected the client to read first")
            return
        self._lists += 1
        if self._lists > _LISTS:
            text = f"expected at most {_LISTS} lists in a frame"
            self._refuse_watch(message.id, "busy", text)
            return
        chosen = [
            session
            for session in self.table.by_id.values()
            if message.environment in (None, session.environment)
        ]
        most = max(0, message.limit)
        rows = [session.row(now) for session in chosen[:most]]
        self.say(m.Sessions(message.id, rows, len(chosen)))

    def _watch(self, message: m.Watch, now: float) -> None:
        session = self.table.by_id.get(message.session)
        if session is None:
            text = f"expected the id of a session, got {message.session[:_SHORT]!r}"
            self._refuse_watch(message.id, "unknown_session", text)
            return
        if message.id in self._watchers or len(self._watchers) >= _MOST_WATCHES:
            text = f"expected an id that is free, got {message.id}"
            if message.id not in self._watchers:
                text = f"expected at most {_MOST_WATCHES} subscriptions"
            self._refuse_watch(message.id, "protocol_error", text)
            return
        limit = max(1, min(message.queue, _MOST_EVENTS))
        watcher = Watcher(self, session, id=message.id, limit=limit)
        self._watchers[message.id] = watcher
        session.watchers = [*(session.watchers or ()), watcher]
        session.refresh()
        self.say(m.Watching(message.id, session.row(now)))

    def _refuse_watch(
        self, id: int, code: str, text: str, detail: dict[str, object] | None = None
    ) -> None:
        """Answer a list or a subscription with an error."""
        detail = {"watch": id, **(detail or {})}
        self.say(m.failure(None, None, code, text, executed="no", detail=detail))

    def unwatch(self, id: int) -> None:
        """End a subscription; an unknown one is ignored."""
        watcher = self._watchers.pop(id, None)
        if watcher is not None:
            rest = [
                other
                for other in watcher.session.watchers or ()
                if other is not watcher
            ]
            watcher.session.watchers = rest or None
            watcher.session.refresh()

    def tell(
        self,
        watcher: Watcher,
        kind: str,
        seq: int,
        *,
        codec: m.Codec,
        request: bytes,
        payload: bytes,
        times: tuple[int, int, int],
    ) -> None:
        """Queue an event for a watcher, or count it as dropped (section 7.2)."""
        is_full = len(self._outbox) >= watcher.limit or self.congested
        if kind != "ended" and is_full:
            watcher.dropped += 1
            return
        try:
            event = self.codec.encode(
                m.Event(
                    watcher.id,
                    kind,  # type: ignore[arg-type]  # one of the literals
                    seq,
                    watcher.dropped,
                    m.raw(codec.transcode(request, self.codec)),
                    m.raw(codec.transcode(payload, self.codec)),
                    *times,
                )
            )
            # The last one overtakes none that is still on its way in chunks.
            outbox = self._outbox
            (outbox.append_behind if kind == "ended" else outbox.hold)(event)
        except (LocalProtocolError, *UNENCODABLE):
            # Larger than this watcher accepts, or nothing that its encoding has: it
            # will learn that one is missing.
            watcher.dropped += 1
        else:
            watcher.dropped = 0

    # End

    def goodbye(self, reason: str, retry_after: float | None = None) -> None:
        """Announce the end: no new session begins, what runs is answered (3.6)."""
        if self.phase is Phase.READY:
            self.phase = Phase.DRAINING
            self.say(m.Goodbye(reason, retry_after))

    def connection_lost(self, now: float) -> None:
        """The socket is gone: leases begin, watchers end. Idempotent."""
        self.phase = Phase.CLOSED
        self.table.forget_connection(self)
        channels = list(self._channels.values())
        self._channels.clear()
        self._reserved.clear()
        for channel in channels:
            self.table.detach(channel, now)
        for id in list(self._watchers):
            self.unwatch(id)
        self._outbox.clear()

    @property
    def channels(self) -> int:
        """How many sessions are attached."""
        return len(self._channels)
