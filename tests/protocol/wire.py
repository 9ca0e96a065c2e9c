"""Both machines wired back to back: no socket, no loop, and time that is passed in.

`Server` holds a session table and environments that count what they execute. `Wire`
is one client machine with the server machine at its other end; it moves frames when it
is told to, so that a test can cut the line anywhere. `Peer` speaks single messages to
a server machine, legal or not.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from hypothesis import settings

from openenv_async import messages as m
from openenv_async.protocol import (
    Channel,
    ClientProtocol,
    ClientSession,
    Outcome,
    Request,
    ServerProtocol,
    Session,
    SessionTable,
    Work,
)

__all__ = [
    "KEY",
    "Observation",
    "Odd",
    "Peer",
    "Server",
    "Wire",
    "decoded",
    "examples",
    "frame_of",
    "key",
    "of_session",
    "value_of",
]

MessageT = TypeVar("MessageT")

CODECS: Final = [m.MSGPACK, m.JSON]


class Observation(msgspec.Struct, frozen=True):
    """What the model environment returns."""

    echo: object = None
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False


def examples(number: int) -> settings:
    """How many examples a test takes: so many, or more in a thorough run."""
    default = settings.default
    assert default is not None
    return settings(max_examples=number * default.max_examples // 100)


def key(number: int) -> str:
    """A legal session key."""
    return f"{number:032x}"


KEY: Final = key(0xABC)


def frame_of(codec: m.Codec, *messages: object) -> bytes:
    """Encode messages, or anything else, as one frame."""
    return codec.frame([codec.encode(message) for message in messages])


def decoded(codec: m.Codec, frame: bytes) -> list[m.ServerMessage]:
    """Decode a server's frame."""
    return codec.from_server.frame(frame)


def value_of(codec: m.Codec, payload: object) -> Any:
    """Decode a payload that was left encoded."""
    assert isinstance(payload, msgspec.Raw)
    return codec.generic(payload)


class Server:
    """Sessions with a model environment, whatever connections come and go.

    An action is echoed; a few mean something: `"final"` ends the episode, `"fail"`
    raises in it, `"large"` is answered with much. Actions in `slow` run until
    `finish`.
    """

    def __init__(
        self,
        *,
        limits: m.Limits | None = None,
        kept_bytes: int = 1 << 20,
        incarnation: str = "one",
        environments: tuple[str, ...] = ("echo", "other"),
    ) -> None:
        self.limits = limits or m.Limits(lease=60.0, sessions=100)
        self.incarnation = incarnation
        self.woken = 0
        self.table = SessionTable(
            list(environments),
            limits=self.limits,
            kept_bytes=kept_bytes,
            wake=self._wake,
        )
        self.now = 1000.0
        self.slow = False
        self.running: dict[Session, Work] = {}
        self.executions: Counter[tuple[str, object]] = Counter()
        """How often a session executed an action."""
        self.closed: list[str] = []
        """Sessions whose environment was closed."""
        self.large = 4000

    def _wake(self) -> None:
        self.woken += 1

    def connect(
        self,
        codec: m.Codec = m.MSGPACK,
        *,
        limits: m.Limits | None = None,
        authorize: Callable[[str | None], bool] | None = None,
        wake: Callable[[], None] | None = None,
    ) -> ServerProtocol:
        """The server's side of a new connection."""
        options: dict[str, Any] = {} if authorize is None else {"authorize": authorize}
        return ServerProtocol(
            self.table,
            codec=codec,
            server="model",
            incarnation=self.incarnation,
            limits=limits or self.limits,
            wake=wake,
            **options,
        )

    # Executing

    def take(self, work: list[Work]) -> None:
        """Execute what a machine handed out."""
        for channel, request in work:
            session = channel.session
            if not isinstance(request, m.Cancel):
                assert session not in self.running, "two calls into one environment"
                self.running[session] = channel, request
                if not self.slow:
                    self.finish(session)
            elif request.seq == 0:
                self.running.pop(session, None)
                self.close(session, "session_closed")
            else:
                self.cancel(session)
        self._take_released()

    def _take_released(self) -> None:
        released = list(self.table.released)
        self.table.released.clear()
        if released:
            self.take(released)

    def finish(self, session: Session) -> None:
        """Let what runs in a session end, and answer it."""
        channel, request = self.running.pop(session)
        assert not isinstance(request, m.Cancel)
        self._execute(channel, session, request)
        self._take_released()

    def finish_all(self) -> None:
        """Let everything end that runs."""
        for session in list(self.running):
            self.finish(session)

    def _execute(self, channel: Channel, session: Session, request: Request) -> None:
        codec = channel.codec
        match request:
            case m.Step():
                try:
                    action = value_of(codec, request.action)
                except ValueError:
                    session.fail("invalid_action", "unreadable", executed="no")
                else:
                    self.executions[session.id, _hashable(action)] += 1
                    self._step(session, action)
            case m.Reset():
                self.executions[session.id, "reset"] += 1
                session.reply(m.raw(codec.encode(Observation(echo=request.seed))))
            case m.GetState():
                session.reply({"steps": session.step}, environment_ns=5)
            case m.Close():
                self.closed.append(session.id)
                session.reply(None)

    def _step(self, session: Session, action: object) -> None:
        if action == "fail":
            session.fail(
                "environment_failed",
                "it raised",
                outcome=Outcome.BROKEN,
                detail={"exception": "ValueError", "traceback": "Traceback"},
            )
            return
        echo = "x" * self.large if action == "large" else action
        session.step_reply(
            Observation(echo=echo, reward=1.0, terminated=action == "final"), 7
        )

    def cancel(self, session: Session) -> None:
        """Stop what runs in a session."""
        if self.running.pop(session, None) is not None:
            session.fail("cancelled", "stopped", outcome=Outcome.BROKEN)

    def close(self, session: Session, code: str) -> None:
        """Close a session's environment without its client."""
        self.closed.append(session.id)
        self.table.remove(session, code)
        if self.table.vacant:
            self.tick()

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass."""
        self.now += seconds
        for session in self.table.tick(self.now):
            self.running.pop(session, None)
            self.close(session, "lease_expired")
        self._take_released()

    def shut_down(self) -> None:
        """End every session, whatever runs in it."""
        self.table.draining = True
        self.running.clear()
        for session in list(self.table.by_id.values()):
            self.table.retire(session)
            self.close(session, "shutting_down")

    def check(self) -> None:
        """Assert what always holds, whatever clients did."""
        table = self.table
        channels = {c for session in table.by_id.values() for c in session.channels()}
        assert set(table.by_key.values()) <= channels
        assert table._detached <= set(table.by_key.values())
        assert all(channel.protocol is None for channel in table._detached)
        assert all(channel.held is not None for channel in table._holding)
        assert table.kept == sum(channel.counted for channel in channels)
        assert table.kept <= table.kept_bytes
        assert len(table) <= self.limits.sessions
        for channel in channels:
            session, protocol = channel.session, channel.protocol
            if protocol is not None:
                assert protocol._channels[channel.handle] is channel
            elif table.by_key.get(channel.key) is channel:
                assert channel in table._detached
            if channel.fast is not None:
                assert protocol is not None
                assert (session.guest, session.watchers) == (None, None)
            # A request is in flight, waits, or has an answer that is kept or was.
            in_flight = session.request is not None and session.channel is channel
            assert channel.busy is (in_flight or channel.held is not None)
            assert not (channel.busy and channel.kept is not None)
        for session in table.by_id.values():
            assert (session.request is None) or session in self.running
            for watcher in session.watchers or ():
                assert watcher.protocol._watchers[watcher.id] is watcher

    def session(self, number: int = 0) -> Session:
        """One of the sessions, in the order of their opening."""
        return list(self.table.by_id.values())[number]


def _hashable(action: object) -> object:
    return action if isinstance(action, (str, int, type(None))) else repr(action)


class Peer:
    """Speaks single messages to a server machine and reads what it answers."""

    def __init__(
        self,
        server: Server,
        *,
        codec: m.Codec = m.MSGPACK,
        limits: m.Limits | None = None,
        greet: bool = True,
    ) -> None:
        self.server = server
        self.codec = codec
        self.protocol = server.connect(codec)
        self._greeting = m.Hello(m.VERSION, "peer", limits or m.Limits())
        if greet:
            (welcome,) = self.send(self._greeting)
            assert isinstance(welcome, m.Welcome)

    def send(self, *messages: object) -> list[m.ServerMessage]:
        """Send one frame; returns what is answered at once."""
        return self.send_frame(frame_of(self.codec, *messages))

    def send_frame(self, frame: bytes) -> list[m.ServerMessage]:
        """Send any bytes; returns what is answered at once."""
        self.server.take(self.protocol.receive(frame, self.server.now))
        return self.read()

    def read(self) -> list[m.ServerMessage]:
        """Take what the server has to say."""
        answers: list[m.ServerMessage] = []
        while (frame := self.protocol.next_frame()) is not None:
            answers += decoded(self.codec, frame)
        return answers

    def one(self, *messages: object) -> m.ServerMessage:
        """Send one frame that is answered with one message."""
        (answer,) = self.send(*messages)
        return answer

    def failure(self, *messages: object) -> m.Failure:
        """Send one frame that is answered with one error."""
        answer = self.one(*messages)
        assert isinstance(answer, m.Failure), answer
        return answer

    def open(self, handle: int = 1, key: str = KEY, **options: Any) -> m.Opened:
        """Open a session."""
        opened = self.one(m.Open(handle, key, **options))
        assert isinstance(opened, m.Opened), opened
        return opened

    def begin(self, handle: int = 1, key: str = KEY, **options: Any) -> Session:
        """Open a session and start an episode with request 1."""
        opened = self.open(handle, key, **options)
        assert isinstance(self.one(m.Reset(handle, 1)), m.Reply)
        return self.server.table.by_id[opened.session]

    def drop(self) -> None:
        """Lose the connection."""
        self.protocol.connection_lost(self.server.now)


Session_ = ClientSession[object]
Event = tuple[Session_ | None, m.ServerMessage]


class Wire:
    """A client machine and the server machine at the other end of its line."""

    def __init__(
        self,
        server: Server,
        *,
        codec: m.Codec = m.MSGPACK,
        limits: m.Limits | None = None,
        token: str | None = None,
        connect: bool = True,
    ) -> None:
        self.server = server
        self.codec = codec
        self.client: ClientProtocol[object] = ClientProtocol(
            codec=codec, client="wire", limits=limits, token=token
        )
        self.far: ServerProtocol | None = None
        self.upward: deque[bytes] = deque()
        self.downward: deque[bytes] = deque()
        self.events: list[Event] = []
        if connect:
            self.connect()
            self.pump()

    def connect(self, server: Server | None = None) -> None:
        """Open a new line, perhaps to another server; nothing moves yet."""
        self.server = server or self.server
        self.far = self.server.connect(self.codec)
        self.client.connection_made(self.server.now)

    def drop(self) -> None:
        """Cut the line; what is on it is lost."""
        self.upward.clear()
        self.downward.clear()
        if self.far is not None:
            self.far.connection_lost(self.server.now)
            self.far = None
        self.client.connection_lost()

    def send_up(self) -> bool:
        """Put the client's next frame on the line."""
        frame = None if self.far is None else self.client.next_frame()
        if frame is not None:
            self.upward.append(frame)
        return frame is not None

    def arrive_up(self) -> bool:
        """Let the oldest frame on the line reach the server."""
        if not self.upward or self.far is None:
            return False
        frame = self.upward.popleft()
        self.server.take(self.far.receive(frame, self.server.now))
        return True

    def send_down(self) -> bool:
        """Put the server's next frame on the line."""
        frame = None if self.far is None else self.far.next_frame()
        if frame is not None:
            self.downward.append(frame)
        return frame is not None

    def arrive_down(self) -> bool:
        """Let the oldest frame on the line reach the client."""
        if not self.downward:
            return False
        frame = self.downward.popleft()
        self.events += self.client.receive(frame, self.server.now)
        return True

    def to_server(self) -> None:
        """Move all that the client has to say."""
        while self.send_up() or self.arrive_up():
            pass

    def to_client(self) -> None:
        """Move all that the server has to say."""
        while self.send_down() or self.arrive_down():
            pass

    def pump(self) -> None:
        """Move everything until both sides are silent."""
        while (
            self.send_up() or self.arrive_up() or self.send_down() or self.arrive_down()
        ):
            pass

    def open(self, number: int = 1, **options: Any) -> Session_:
        """Open a session and start its episode."""
        session = self.client.open(key(number), **options)
        self.pump()
        self.client.reset(session)
        self.pump()
        assert isinstance(self.answer(session), m.Reply)
        return session

    def step(self, session: Session_, action: object) -> m.ServerMessage:
        """Perform an action and return what it is answered with."""
        self.client.step(session, action, None)
        self.pump()
        return self.answer(session)

    def answer(self, session: Session_) -> m.ServerMessage:
        """The one message of a session since the last look."""
        (message,) = of_session(self.take_events(), session)
        return message

    def take_events(self) -> list[Event]:
        """What happened since the last look, without openings."""
        events, self.events = self.events, []
        return [
            (session, message)
            for session, message in events
            if not isinstance(message, m.Opened | m.Welcome)
        ]


class Odd:
    """A server that says whatever a test wants, to one client."""

    welcome = m.Welcome(1, "odd", "one", m.Limits(), ["echo"])

    def __init__(self, codec: m.Codec = m.MSGPACK, *, greet: bool = True) -> None:
        self.codec = codec
        self.client: ClientProtocol[object] = ClientProtocol(codec=codec)
        self.client.connection_made(0.0)
        if greet:
            self.say(self.welcome)

    def say(self, *messages: object) -> list[Event]:
        """Send the client a frame."""
        return self.client.receive(frame_of(self.codec, *messages), 0.0)

    def heard(self) -> list[m.ClientMessage]:
        """What the client has said since the last look."""
        found: list[m.ClientMessage] = []
        while (frame := self.client.next_frame()) is not None:
            found += self.codec.from_client.frame(frame)
        return found

    def open(self, *, seq: int = 0) -> Session_:
        """A session that the server has opened."""
        session = self.client.open(key(1))
        self.say(m.Opened(session.handle, "s1", "echo", seq, 60.0))
        self.heard()
        return session


def of_session(events: list[Event], session: Session_) -> list[m.ServerMessage]:
    """The messages of one session."""
    return [message for owner, message in events if owner is session]
