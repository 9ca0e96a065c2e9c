"""What a server says to the client's machine: answers, ends, and nonsense."""

from __future__ import annotations

import pytest

from openenv_async import messages as m
from openenv_async.errors import RemoteProtocolError, SessionClosed, SessionLost
from openenv_async.protocol import Phase
from tests.protocol.wire import Event, Odd, Server, Wire, key, value_of

# What a server may say at any time


def test_a_session_is_ended_by_the_server() -> None:
    """A call in flight may have been executed; later ones were not."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    server.slow = True
    wire.client.step(session, "a", None)
    wire.pump()
    server.running.clear()
    server.close(server.session(), "shutting_down")
    wire.pump()
    assert isinstance(wire.answer(session), m.Ended)
    with pytest.raises(SessionLost) as caught:
        wire.client.step(session, "b", None)
    assert (caught.value.code, caught.value.executed) == ("shutting_down", "no")


def test_a_session_resumed_elsewhere_is_closed() -> None:
    """Whoever holds the key has moved it: no infrastructure is at fault."""
    server = Server()
    wire, other = Wire(server), Wire(server)
    session = wire.open()
    other.client.open(key(1))
    other.pump()
    wire.pump()
    assert isinstance(wire.answer(session), m.Ended)
    assert type(session.ended) is SessionClosed


def test_progress_belongs_to_the_call_in_flight() -> None:
    """Progress of another number, or of no session, is not told."""
    odd = Odd()
    session = odd.open()
    odd.client.reset(session)
    told = odd.say(
        m.Progress(session.handle, 1, 0.5, "half"),
        m.Progress(session.handle, 2),
        m.Progress(99, 1),
    )
    assert told == [(session, m.Progress(session.handle, 1, 0.5, "half"))]


def test_a_reply_belongs_to_the_call_in_flight() -> None:
    """Replies to other numbers, twice, or to no session, are not told."""
    odd = Odd()
    session = odd.open()
    handle = session.handle
    odd.client.reset(session)
    replies = [m.Reply(handle, 0, 1), m.Reply(handle, 1, 2), m.Reply(handle, 1, 3)]
    told = odd.say(*replies, m.Reply(99, 1, 4))
    assert [
        value_of(m.MSGPACK, message.payload)
        for _, message in told
        if isinstance(message, m.Reply)
    ] == [2]


@pytest.mark.parametrize("times", [1, 2])
def test_a_reply_in_chunks_is_told_once(times: int) -> None:
    """A reply may be large, and may come a second time after a resume."""
    odd = Odd()
    session = odd.open()
    odd.client.reset(session)
    data = m.MSGPACK.encode(m.Reply(session.handle, 1, "x" * 100))
    told: list[Event] = []
    for stream in range(times):
        told += odd.say(m.Chunk(stream, False, data[:50]))
        told += odd.say(m.Chunk(stream, True, data[50:]))
    assert [type(message) for _, message in told] == [m.Reply]


def test_a_failure_belongs_to_the_call_in_flight() -> None:
    """Late failures and those of no session are not told."""
    odd = Odd()
    session = odd.open()
    odd.client.reset(session)
    late = m.failure(session.handle, 0, "bad_sequence", "")
    mine = m.failure(session.handle, 1, "busy", "")
    told = odd.say(late, m.failure(99, 1, "busy", ""), mine, mine)
    assert told == [(session, mine)]


def test_a_goodbye_is_told_and_calls_go_on() -> None:
    """A draining server still answers, and can say so again."""
    odd = Odd()
    session = odd.open()
    data = m.MSGPACK.encode(m.Goodbye("large"))
    assert odd.say(m.Goodbye("bye", 1.0)) == [(None, m.Goodbye("bye", 1.0))]
    assert odd.say(m.Chunk(1, True, data)) == [(None, m.Goodbye("large"))]
    assert (odd.client.phase, odd.client.ready) == (Phase.DRAINING, True)
    odd.client.reset(session)
    assert [type(message) for message in odd.heard()] == [m.Reset]


def test_a_ping_is_answered() -> None:
    """With the same nonce; a pong is not told."""
    odd = Odd()
    odd.heard()
    assert odd.say(m.Ping(4), m.Pong(5)) == []
    assert odd.heard() == [m.Pong(4)]


def test_lists_and_events_belong_to_no_session() -> None:
    """They are told with the number that the caller gave them."""
    odd = Odd()
    row = Server()
    wire = Wire(row)
    wire.open()
    wire.client.say(m.ListSessions(1))
    wire.client.say(m.Watch(2, "s1"))
    wire.client.say(m.Watch(3, "nobody"))
    wire.pump()
    told = [(session, type(message)) for session, message in wire.take_events()]
    assert told == [(None, m.Sessions), (None, m.Watching), (None, m.Failure)]
    assert odd.say(m.Sessions(1, [], 0)) == [(None, m.Sessions(1, [], 0))]


def test_messages_for_forgotten_sessions_are_ignored() -> None:
    """They crossed the end of their session."""
    odd = Odd()
    assert odd.say(m.Opened(9, "s9", "echo", 0, 1.0), m.Ended(9, "busy", "")) == []


# What a server must not say


@pytest.mark.parametrize(
    "said",
    [
        m.failure(None, None, "invalid_frame", "unreadable"),
        m.Chunk(1, True, m.MSGPACK.encode(m.Chunk(1, True, b""))),
        m.Chunk(1, True, m.MSGPACK.encode(["jump"])),
        ["jump"],
        {"reply": 1},
    ],
    ids=repr,
)
def test_a_server_that_breaks_the_rules_is_an_error(said: object) -> None:
    """What cannot be understood, and belongs to no session, ends the connection."""
    with pytest.raises(RemoteProtocolError):
        Odd().say(said)


def test_an_unreadable_message_may_cost_a_session() -> None:
    """One that names a session, but no number, ends that session alone."""
    odd = Odd()
    session = odd.open()
    ((told, failure),) = odd.say(["opened", session.handle])
    assert told is session
    assert isinstance(failure, m.Failure)
    assert isinstance(session.ended, RemoteProtocolError)


def test_an_unreadable_reply_costs_its_own_call() -> None:
    """The call fails, and says that the environment may have run it."""
    odd = Odd()
    session = odd.open()
    odd.client.reset(session)
    ((told, failure),) = odd.say(["reply", session.handle, 1])
    assert told is session
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("protocol_error", "unknown")
    odd.client.reset(session)


def test_a_session_at_another_number_is_lost() -> None:
    """The others go on, and the server is told to close it."""
    odd = Odd()
    session = odd.client.open(key(1))
    odd.heard()
    ((told, ended),) = odd.say(m.Opened(session.handle, "s1", "echo", 7, 60.0))
    assert told is session
    assert isinstance(ended, m.Ended)
    assert isinstance(session.ended, SessionLost)
    assert odd.heard() == [m.Cancel(session.handle, 0)]
