"""The server's machine: greeting, handles, lists, watches, everything illegal."""

from __future__ import annotations

import pytest

from openenv_async import messages as m
from openenv_async.protocol import Phase
from tests.protocol.wire import CODECS, KEY, Peer, Server, frame_of, key

both = pytest.mark.parametrize("codec", CODECS, ids=repr)


class Stranger(Peer):
    """A peer that has not greeted, and notes the error that ends its connection."""

    failed = ""

    def __init__(self, server: Server, **options: object) -> None:
        super().__init__(server, greet=False, **options)  # type: ignore[arg-type]  # of the constructor

    def read(self) -> list[m.ServerMessage]:
        """Take what the server has to say."""
        answers = super().read()
        for answer in answers:
            if isinstance(answer, m.Failure) and answer.handle is None:
                self.failed = answer.code
        return answers


def refused(peer: Stranger, code: str, close_code: int) -> None:
    """The connection was ended with this code, and says so."""
    assert peer.protocol.phase is Phase.CLOSED
    assert peer.protocol.close_code == close_code
    assert peer.failed == code


# The greeting (3.1)


@both
def test_hello_is_answered_with_welcome(codec: m.Codec) -> None:
    """The server names its version, incarnation, limits and environments."""
    server = Server()
    peer = Stranger(server, codec=codec)
    assert peer.one(m.Hello(1, "x" * 500)) == m.Welcome(
        1, "model", "one", server.limits, ["echo", "other"]
    )
    assert (peer.protocol.phase, peer.protocol.peer) == (Phase.READY, "x" * 200)


@pytest.mark.parametrize("version", [0, 2, -1])
def test_another_version_is_refused(version: int) -> None:
    """The error lists what is supported; the connection closes."""
    peer = Stranger(Server())
    failure = peer.failure(m.Hello(version))
    assert failure.detail == {"supported": [1]}
    refused(peer, "version_mismatch", 1002)


@pytest.mark.parametrize(("token", "text"), [(None, "got none"), ("no", "got another")])
def test_a_wrong_token_is_refused(token: str | None, text: str) -> None:
    """The error does not repeat the token; the connection closes (3.4)."""
    peer = Stranger(Server())
    peer.protocol = peer.server.connect(authorize=lambda token: token == "yes")
    failure = peer.failure(m.Hello(1, token=token))
    assert failure.message.endswith((text, f"{text} one"))
    refused(peer, "unauthorized", 1008)


def test_the_right_token_is_accepted() -> None:
    """A token in `hello` is enough."""
    peer = Stranger(Server())
    peer.protocol = peer.server.connect(authorize=lambda token: token == "yes")
    assert isinstance(peer.one(m.Hello(1, token="yes")), m.Welcome)


@pytest.mark.parametrize(
    "limits", [m.Limits(frame_bytes=1000), m.Limits(message_bytes=-1)]
)
def test_limits_that_leave_no_room_are_refused(limits: m.Limits) -> None:
    """The error names what is too small; the connection closes (3.2)."""
    peer = Stranger(Server())
    assert "of at least" in peer.failure(m.Hello(1, "", limits)).message
    refused(peer, "protocol_error", 1002)


def test_the_greeting_never_comes_in_chunks() -> None:
    """Even for a client of small chunks, `welcome` is whole (3.1)."""
    peer = Stranger(Server(environments=("e" * 400,)))
    small = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=4096)
    assert isinstance(peer.one(m.Hello(1, "", small)), m.Welcome)


@pytest.mark.parametrize(
    "message",
    [
        m.Ping(1),
        m.Open(1, KEY),
        m.Step(1, 1, "a"),
        m.Chunk(1, True, b""),
        ["hello"],
        ["hello", "one"],
        ["jump", 1],
        7,
    ],
    ids=repr,
)
def test_the_greeting_comes_first(message: object) -> None:
    """Before `hello`, everything else ends the connection."""
    peer = Stranger(Server())
    peer.send(message)
    refused(peer, "protocol_error", 1002)


def test_the_greeting_comes_once() -> None:
    """A second `hello` ends the connection."""
    peer = Stranger(Server())
    peer.send(m.Hello(1))
    peer.send(m.Hello(1))
    refused(peer, "protocol_error", 1002)


def test_a_client_may_leave_before_the_greeting() -> None:
    """`goodbye` is allowed in every phase."""
    peer = Stranger(Server())
    assert peer.send(m.Goodbye()) == []
    assert peer.protocol.close_code == 1000


# Frames that cannot be read


@both
@pytest.mark.parametrize("frame", [b"", b"\xc1", b"nonsense", b"\xff" * 50])
def test_an_unreadable_frame_ends_the_connection(codec: m.Codec, frame: bytes) -> None:
    """The answer says so; sessions wait for their next connection."""
    server = Server()
    peer = Stranger(server, codec=codec)
    peer.send(m.Hello(1))
    peer.begin()
    peer.send_frame(frame)
    refused(peer, "invalid_frame", 1007)
    peer.drop()
    again = Peer(server, codec=codec)
    assert isinstance(again.send(m.Resume(1, KEY))[0], m.Opened)


def test_what_came_before_a_bad_message_is_executed() -> None:
    """A frame that breaks the rules in its middle counts up to there."""
    server = Server()
    peer = Stranger(server)
    peer.send(m.Hello(1))
    peer.begin()
    peer.send(m.Step(1, 2, "a"), m.Hello(1), m.Step(1, 3, "b"))
    refused(peer, "protocol_error", 1002)
    assert server.executions["s1", "a"] == 1
    assert server.executions["s1", "b"] == 0


@pytest.mark.parametrize(
    ("codec", "word"), [(m.MSGPACK, "binary"), (m.JSON, "text")], ids=repr
)
def test_the_other_frame_type_ends_the_connection(codec: m.Codec, word: str) -> None:
    """Text on a binary encoding, or the other way round, is refused once (2.2)."""
    peer = Stranger(Server(), codec=codec)
    peer.protocol.refuse_frame_type()
    peer.protocol.refuse_frame_type()
    (failure,) = peer.read()
    assert isinstance(failure, m.Failure)
    assert word in failure.message
    refused(peer, "invalid_frame", 1007)


def test_chunks_do_not_nest() -> None:
    """A chunk inside of chunks ends the connection."""
    peer = Stranger(Server())
    peer.send(m.Hello(1))
    inner = m.MSGPACK.encode(m.Chunk(2, True, b"\x90"))
    peer.send(m.Chunk(1, True, inner))
    refused(peer, "invalid_frame", 1007)


def test_too_many_bytes_in_chunks_end_the_connection() -> None:
    """The error names size and limit."""
    limits = m.Limits(message_bytes=4096)
    peer = Stranger(Server(limits=limits))
    peer.send(m.Hello(1))
    (failure,) = peer.send(m.Chunk(1, False, bytes(5000)))
    assert isinstance(failure, m.Failure)
    assert failure.detail == {"size": 5000, "limit": 4096}
    refused(peer, "invalid_frame", 1007)


def test_a_message_in_chunks_is_like_any_other() -> None:
    """Also one that ends the connection keeps it ended."""
    peer = Stranger(Server())
    peer.send(m.Hello(1))
    assert peer.one(m.Chunk(1, True, m.MSGPACK.encode(m.Ping(5)))) == m.Pong(5)
    peer.send(m.Chunk(1, True, m.MSGPACK.encode(m.Goodbye())))
    assert (peer.protocol.phase, peer.protocol.close_code) == (Phase.CLOSED, 1000)


# Handles and keys (4.1)


@pytest.mark.parametrize("handle", [-1, 2**53, 2**70])
def test_a_handle_is_a_number_that_json_can_say(handle: int) -> None:
    """Negative and huge handles are refused."""
    peer = Peer(Server(), codec=m.JSON)
    failure = peer.failure(m.Open(handle, KEY))
    assert (failure.code, failure.handle) == ("protocol_error", handle)
    assert isinstance(peer.one(m.Open(2**53 - 1, KEY)), m.Opened)


@pytest.mark.parametrize("bad", ["", "0" * 31, "0" * 129, "G" * 32, "A" * 32, "é" * 32])
@pytest.mark.parametrize("kind", [m.Open, m.Resume])
def test_a_key_is_long_and_hexadecimal(
    kind: type[m.Open] | type[m.Resume], bad: str
) -> None:
    """Keys that could be guessed are refused."""
    failure = Peer(Server()).failure(kind(1, bad))
    assert (failure.code, failure.handle) == ("protocol_error", 1)


def test_a_guessed_key_finds_nothing() -> None:
    """A foreign key is an unknown session; whose it is goes on undisturbed."""
    server = Server()
    owner, thief = Peer(server), Peer(server)
    owner.begin()
    assert thief.failure(m.Resume(1, key(0xABD))).code == "unknown_session"
    assert thief.failure(m.Step(1, 2, "a")).code == "unknown_session"
    assert isinstance(owner.one(m.Step(1, 2, "a")), m.Reply)


def test_a_handle_in_use_is_refused() -> None:
    """Another key cannot have it; the session that has it goes on."""
    peer = Peer(Server())
    peer.begin()
    assert "free" in peer.failure(m.Open(1, key(2))).message
    assert isinstance(peer.one(m.Step(1, 2, "a")), m.Reply)


def test_handles_are_bounded() -> None:
    """One connection has no more handles than requests may be in flight."""
    peer = Peer(Server(limits=m.Limits(in_flight=2)))
    peer.open(1, key(1))
    peer.open(2, key(2))
    assert "at most 2 handles" in peer.failure(m.Open(3, key(3))).message
    peer.send(m.Close(1, 1))
    peer.open(3, key(3))


@pytest.mark.parametrize(
    "request_", [m.Step(9, 4, "a"), m.Reset(9, 4), m.GetState(9, 4), m.Close(9, 4)]
)
def test_an_unknown_handle_is_an_error(request_: m.Step) -> None:
    """A request for nothing is answered, and was not executed."""
    failure = Peer(Server()).failure(request_)
    assert (failure.handle, failure.seq) == (9, 4)
    assert (failure.code, failure.executed) == ("unknown_session", "no")


@pytest.mark.parametrize(
    ("item", "handle", "seq"),
    [
        (["step", 1, "two", {}], 1, None),
        (["step", 9, 2], 9, 2),
        (["jump"], None, None),
        ({"step": 1}, None, None),
        (["cancel", 1], 1, None),
    ],
)
def test_a_malformed_message_costs_only_itself(
    item: object, handle: int | None, seq: int | None
) -> None:
    """It is answered in its place; the rest of the frame counts."""
    peer = Peer(Server())
    peer.begin()
    bad, pong, reply = peer.send(item, m.Ping(1), m.Step(1, 2, "a"))
    assert isinstance(bad, m.Failure)
    assert (bad.handle, bad.seq, bad.code) == (handle, seq, "protocol_error")
    assert (pong, type(reply)) == (m.Pong(1), m.Reply)


# The connection's own messages


def test_a_ping_is_answered() -> None:
    """With the same nonce; a pong is not answered."""
    peer = Peer(Server(), codec=m.JSON)
    assert peer.send(m.Ping(7), m.Pong(8), m.Ping(10**30)) == [
        m.Pong(7),
        m.Pong(10**30),
    ]


def test_a_client_s_goodbye_ends_the_connection() -> None:
    """Its sessions wait for their lease; what follows is not allowed."""
    server = Server()
    peer = Stranger(server)
    peer.send(m.Hello(1))
    peer.begin()
    assert peer.send(m.Goodbye()) == []
    assert (peer.protocol.phase, peer.protocol.close_code) == (Phase.CLOSED, 1000)
    peer.send(m.Ping(1))
    assert peer.failed == "protocol_error"
    assert len(server.table) == 1


def test_a_server_s_goodbye_is_said_once() -> None:
    """A draining connection answers what is asked, and ends when the client goes."""
    peer = Peer(Server())
    peer.begin()
    peer.protocol.goodbye("update", 5.0)
    peer.protocol.goodbye("update", 5.0)
    assert peer.read() == [m.Goodbye("update", 5.0)]
    assert isinstance(peer.one(m.Step(1, 2, "a")), m.Reply)
    assert peer.protocol.phase is Phase.DRAINING
    peer.send(m.Goodbye())
    assert peer.protocol.close_code == 1000


def test_a_connection_knows_its_channels() -> None:
    """Sessions come and go with open, close and drop."""
    peer = Peer(Server())
    peer.open(1, key(1))
    peer.open(2, key(2))
    assert peer.protocol.channels == 2
    peer.send(m.Close(1, 1))
    assert peer.protocol.channels == 1
    peer.drop()
    assert peer.protocol.channels == 0


def test_a_connection_wakes_its_sender() -> None:
    """The callback runs when the first answer begins to wait."""
    server = Server()
    woken: list[int] = []
    peer = Peer(server, greet=False)
    peer.protocol = server.connect(wake=lambda: woken.append(1))
    peer.send(m.Hello(1))
    peer.begin()
    woken.clear()
    server.take(
        peer.protocol.receive(frame_of(m.MSGPACK, m.Step(1, 2, "a")), server.now)
    )
    assert woken == [1]


# Lists (7.1) and subscriptions (7.2)


def test_a_list_shows_the_server_s_sessions() -> None:
    """All of them, those of one environment, or the first few."""
    server = Server()
    peer = Peer(server)
    for handle, name in enumerate(["echo", "other", "echo"], start=1):
        peer.open(handle, key(handle), environment=name)
    for message, ids, total in (
        (m.ListSessions(1), ["s1", "s2", "s3"], 3),
        (m.ListSessions(2, "echo"), ["s1", "s3"], 2),
        (m.ListSessions(3, None, 2), ["s1", "s2"], 3),
        (m.ListSessions(4, None, -5), [], 3),
        (m.ListSessions(5, "nobody"), [], 0),
    ):
        answer = peer.one(message)
        assert isinstance(answer, m.Sessions)
        assert (answer.id, answer.total) == (message.id, total)
        assert [row.session for row in answer.rows] == ids


def test_a_list_above_the_client_s_limit_is_an_error() -> None:
    """The client learns size and limit, and the connection goes on."""
    server = Server()
    limits = m.Limits(frame_bytes=4096, chunk_bytes=1024, message_bytes=4096)
    peer = Peer(server, limits=limits)
    for handle in range(60):
        peer.open(handle, key(handle))
    failure = peer.failure(m.ListSessions(8))
    assert failure.detail is not None
    assert (failure.code, failure.detail["watch"]) == ("too_large", 8)
    assert failure.detail["limit"] == 4096
    assert isinstance(peer.one(m.ListSessions(9, None, 5)), m.Sessions)


def test_a_client_that_does_not_read_gets_no_lists() -> None:
    """Lists are large: they are refused while very much waits."""
    server = Server()
    peer = Peer(server)
    peer.protocol.send(bytes(65 << 20))
    frame = frame_of(peer.codec, m.ListSessions(8))
    peer.protocol.receive(frame, server.now)
    (answer,) = m.MSGPACK.from_server.frame(peer.protocol.next_frame() or b"")
    assert isinstance(answer, m.Failure)
    assert (answer.code, answer.retryable) == ("busy", True)


def test_a_frame_asks_for_few_lists() -> None:
    """Each looks at every session: more than eight have to wait for another frame."""
    peer = Peer(Server())
    for _ in range(2):
        answers = peer.send(*(m.ListSessions(number) for number in range(9)))
        assert [type(answer) for answer in answers[:8]] == [m.Sessions] * 8
        busy = answers[8]
        assert isinstance(busy, m.Failure)
        assert (busy.code, busy.detail) == ("busy", {"watch": 8})


@pytest.mark.parametrize("session", ["s9", "", "x" * 5000])
def test_an_unknown_session_cannot_be_watched(session: str) -> None:
    """The error names the subscription."""
    failure = Peer(Server()).failure(m.Watch(3, session))
    assert (failure.code, failure.executed) == ("unknown_session", "no")
    assert (failure.handle, failure.detail) == (None, {"watch": 3})
    assert len(failure.message) < 300


def test_a_subscription_s_number_is_used_once() -> None:
    """A second one with the same number is refused; the first goes on."""
    peer = Peer(Server())
    peer.begin()
    peer.send(m.Watch(3, "s1"))
    failure = peer.failure(m.Watch(3, "s1"))
    assert (failure.code, failure.detail) == ("protocol_error", {"watch": 3})
    assert [type(message) for message in peer.send(m.Step(1, 2, "a"))] == [
        m.Reply,
        m.Event,
    ]


def test_subscriptions_are_bounded() -> None:
    """One connection cannot make a session encode without end."""
    peer = Peer(Server())
    peer.open()
    peer.send(*(m.Watch(number, "s1") for number in range(1024)))
    assert "at most 1024" in peer.failure(m.Watch(5000, "s1")).message
    peer.send(m.Unwatch(0))
    assert isinstance(peer.one(m.Watch(5000, "s1")), m.Watching)


# Messages above the client's limit


def test_texts_are_shortened_to_the_client_s_limit() -> None:
    """An error that does not fit is said in short; progress is not said at all."""
    server = Server()
    limits = m.Limits(frame_bytes=4096, chunk_bytes=1024, message_bytes=4096)
    peer = Peer(server, limits=limits)
    session = peer.begin()
    peer.protocol.say(m.failure(1, 2, "busy", "x" * 5000, detail={"a": 1}))
    (failure,) = peer.read()
    assert failure == m.failure(1, 2, "busy", "x" * 200)
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    session.progress(0.5, "x" * 5000)
    assert peer.read() == []
