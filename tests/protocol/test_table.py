"""The table: capacity, waiting, leases, resuming, the bound of kept replies."""

from __future__ import annotations

import math

import pytest

from openenv_async import messages as m
from openenv_async.protocol import Session
from tests.protocol.wire import KEY, Peer, Server, Wire, key, value_of

TWO = m.Limits(sessions=2, lease=60.0)


def full() -> tuple[Server, Peer]:
    """A server with room for two sessions, which are open on handles 1 and 2."""
    server = Server(limits=TWO)
    peer = Peer(server)
    peer.open(1, key(1))
    peer.open(2, key(2))
    return server, peer


# Opening (4.1)


def test_open_creates_a_session() -> None:
    """The answer has a public id, the environment, and number 0."""
    peer = Peer(Server())
    assert peer.open(lease=5.0) == m.Opened(1, "s1", "echo", 0, 5.0, False)
    assert peer.open(2, key(2), environment="other").environment == "other"


def test_open_again_attaches() -> None:
    """With a key that exists, `open` is a resume: it creates nothing."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    opened = peer.open(5)
    assert (opened.session, opened.seq, opened.resumed) == (session.id, 1, True)
    assert len(server.table) == 1
    assert peer.failure(m.Step(1, 2, "a")).code == "unknown_session"
    assert isinstance(peer.one(m.Step(5, 2, "a")), m.Reply)


def test_open_again_on_the_same_handle_attaches() -> None:
    """The same message twice is the same as once."""
    server = Server()
    peer = Peer(server)
    peer.begin()
    assert peer.open().resumed
    assert isinstance(peer.one(m.Step(1, 2, "a")), m.Reply)


@pytest.mark.parametrize("name", ["nobody", "x" * 5000])
def test_open_refuses_an_unknown_environment(name: str) -> None:
    """The error lists what there is, and frees the handle."""
    peer = Peer(Server())
    failure = peer.failure(m.Open(1, KEY, name))
    assert failure.code == "unknown_environment"
    assert "['echo', 'other']" in failure.message
    assert len(failure.message) < 300
    peer.open()


@pytest.mark.parametrize(
    ("asked", "given"),
    [(None, 60.0), (5.0, 5.0), (3600.0, 60.0), (-1.0, 0.0), (math.nan, 0.0)],
)
def test_a_lease_is_bounded_by_the_server(asked: float | None, given: float) -> None:
    """A client may ask for less than the server's most, and not for more."""
    assert Peer(Server()).open(lease=asked).lease == given


# Capacity (4.2)


def test_a_full_server_says_how_full() -> None:
    """Without patience, `open` is refused with the numbers."""
    _, peer = full()
    failure = peer.failure(m.Open(3, key(3)))
    assert (failure.code, failure.retryable) == ("at_capacity", True)
    assert failure.detail == {"sessions": 2, "max_sessions": 2}


def test_a_full_server_lets_wait() -> None:
    """A waiting `open` is served when a session ends."""
    server, peer = full()
    assert peer.send(m.Open(3, key(3), wait=10.0)) == []
    assert (server.table.waiting, server.table.vacant) == (1, False)
    answers = peer.send(m.Close(1, 1))
    assert [type(message) for message in answers] == [m.Reply]
    assert (server.table.vacant, server.table.next_tick()) == (True, 0.0)
    server.tick()
    (opened,) = peer.read()
    assert isinstance(opened, m.Opened)
    assert (opened.handle, server.table.waiting) == (3, 0)


def test_whoever_waits_longest_is_served_first() -> None:
    """Waiting opens are served in the order in which they came."""
    server, peer = full()
    other = Peer(server)
    other.send(m.Open(8, key(8), wait=10.0))
    peer.send(m.Open(9, key(9), wait=10.0))
    peer.send(m.Cancel(1, 0))
    assert [type(message) for message in other.read()] == [m.Opened]
    assert peer.read() == []


def test_waiting_ends() -> None:
    """When the time is over, the answer is the same as without patience."""
    server, peer = full()
    peer.send(m.Open(3, key(3), wait=10.0))
    assert server.table.next_tick() == server.now + 10.0
    server.tick(9.9)
    assert peer.read() == []
    server.tick(0.2)
    (failure,) = peer.read()
    assert isinstance(failure, m.Failure)
    assert failure.code == "at_capacity"
    peer.send(m.Cancel(1, 0))
    peer.open(3, key(3))


def test_a_waiting_open_can_be_withdrawn() -> None:
    """Number 0 for its handle takes it back; others go on waiting."""
    server, peer = full()
    peer.send(m.Open(3, key(3), wait=10.0), m.Open(4, key(4), wait=10.0))
    assert peer.failure(m.Open(3, key(5))).code == "protocol_error"
    assert peer.send(m.Cancel(3, 0), m.Cancel(4, 1)) == []
    (opened,) = peer.send(m.Cancel(1, 0))
    assert isinstance(opened, m.Opened)
    assert (opened.handle, server.table.waiting) == (4, 0)
    assert peer.failure(m.Open(3, key(3))).code == "at_capacity"


def test_a_waiting_open_goes_with_its_connection() -> None:
    """Nobody is there to get the session."""
    server, peer = full()
    other = Peer(server)
    other.send(m.Open(3, key(3), wait=10.0))
    peer.send(m.Open(4, key(4), wait=10.0))
    other.drop()
    assert len(peer.send(m.Cancel(1, 0))) == 1
    assert (len(server.table), server.table.waiting) == (2, 0)


def test_a_waiting_open_s_key_may_come_to_exist() -> None:
    """The same key waiting twice opens one session."""
    server, peer = full()
    other = Peer(server)
    peer.send(m.Open(3, key(3), wait=10.0))
    other.send(m.Open(3, key(3), wait=10.0))
    answers = peer.send(m.Cancel(1, 0))
    assert [type(message) for message in answers] == [m.Opened, m.Ended]
    (opened,) = other.read()
    assert isinstance(opened, m.Opened)
    assert opened.resumed


def test_a_draining_server_opens_nothing() -> None:
    """New sessions are refused; what is there can be resumed."""
    server = Server()
    peer = Peer(server)
    peer.begin()
    server.table.draining = True
    assert peer.failure(m.Open(2, key(2))).code == "shutting_down"
    peer.drop()
    assert isinstance(Peer(server).one(m.Open(1, KEY)), m.Opened)


def test_room_is_announced() -> None:
    """The server is told when somebody can be served who waits."""
    server, peer = full()
    calls: list[int] = []
    server.table.made_room = lambda: calls.append(1)
    peer.send(m.Close(1, 1))
    peer.open(1, key(1))
    assert calls == []
    peer.send(m.Open(3, key(3), wait=10.0))
    peer.send(m.Close(1, 1))
    assert calls == [1]


# Resuming (4.3) and leases (4.4)


def test_a_session_survives_its_connection() -> None:
    """Within its lease a session is resumed by its key, where it was."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    peer.drop()
    assert server.table.next_tick() == server.now + 60.0
    server.tick(59)
    again = Peer(server)
    (opened,) = again.send(m.Resume(4, KEY))
    assert opened == m.Opened(4, session.id, "echo", 1, 60.0, True)
    assert server.table.next_tick() is None
    server.tick(1000)
    assert isinstance(again.one(m.Step(4, 2, "a")), m.Reply)


def test_a_session_ends_with_its_lease() -> None:
    """When nobody comes back, the environment is closed and the key forgotten."""
    server = Server()
    peer = Peer(server)
    peer.begin(lease=5.0)
    peer.drop()
    server.tick(4.9)
    assert server.closed == []
    server.tick(0.2)
    assert server.closed == ["s1"]
    failure = Peer(server).failure(m.Resume(1, KEY))
    assert (failure.code, failure.seq, failure.executed) == (
        "unknown_session",
        None,
        "unknown",
    )


def test_a_lease_s_end_is_final_at_once() -> None:
    """While its environment still closes, a session is not found any more."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    peer.drop()
    assert server.table.tick(server.now + 61) == [session]
    assert server.table.tick(server.now + 62) == []
    assert Peer(server).failure(m.Resume(1, KEY)).code == "unknown_session"
    assert not Peer(server).open(2).resumed
    server.table.remove(session, "lease_expired")
    assert isinstance(Peer(server).one(m.Resume(3, KEY)), m.Opened)


def test_a_request_runs_on_without_its_connection() -> None:
    """What was in flight at the end of the connection is not executed again."""
    server = Server()
    peer = Peer(server)
    peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    peer.drop()
    again = Peer(server)
    again.send(m.Resume(1, KEY), m.Step(1, 2, "a"))
    server.finish_all()
    (reply,) = again.read()
    assert isinstance(reply, m.Reply)
    assert value_of(m.MSGPACK, reply.payload)["echo"] == "a"
    assert server.executions["s1", "a"] == 1


def test_a_key_decides_where_a_session_is() -> None:
    """A resume moves the session even while its old connection is up."""
    server = Server()
    old, new = Peer(server), Peer(server)
    old.begin()
    new.send(m.Resume(9, KEY))
    assert old.read() == [m.Ended(1, "session_closed", "resumed elsewhere")]
    assert old.failure(m.Step(1, 2, "a")).code == "unknown_session"
    assert isinstance(new.one(m.Step(9, 2, "a")), m.Reply)
    old.drop()
    server.tick(1000)
    assert server.closed == []


def test_a_connection_ends_twice() -> None:
    """Losing a connection is idempotent."""
    server = Server()
    peer = Peer(server)
    peer.begin()
    peer.drop()
    server.now += 30
    peer.drop()
    server.tick(31)
    assert server.closed == ["s1"]


def test_a_retired_session_has_no_lease() -> None:
    """The end of its connection does not end it a second time."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.table.retire(session)
    peer.drop()
    assert server.table.next_tick() is None
    assert server.table.tick(server.now + 1000) == []
    server.table.remove(session)


def test_ending_a_session_tells_its_client() -> None:
    """A session that the server ends is announced with the reason (4.5)."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.close(session, "shutting_down")
    (ended,) = peer.read()
    assert isinstance(ended, m.Ended)
    assert (ended.handle, ended.code) == (1, "shutting_down")
    assert peer.failure(m.Step(1, 2, "a")).code == "unknown_session"


def test_the_end_does_not_overtake_a_reply_in_chunks() -> None:
    """What was answered before the end of a session is told before it."""
    limits = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=8192)
    server = Server()
    wire = Wire(server, limits=limits)
    session = wire.open()
    server.slow = True
    wire.client.step(session, "large", None)
    wire.to_server()
    server.finish_all()
    server.close(server.session(), "shutting_down")
    wire.pump()
    reply, ended = (message for _, message in wire.take_events())
    assert isinstance(reply, m.Reply)
    assert isinstance(ended, m.Ended)


def test_a_session_without_an_owner_can_be_retired() -> None:
    """Nothing is there to forget."""
    table = Server().table
    session = Session(table, "s9", "echo", "", 0.0)
    table.retire(session)
    table.remove(session, "a code that nobody knows")


# The bound of kept replies (5.3)


def test_the_largest_kept_replies_go_first() -> None:
    """Over the bound, replies are dropped by size until a fifth is free."""
    server = Server(kept_bytes=20_000)
    peer = Peer(server)
    for handle, size in enumerate([3000, 9000, 2000, 500, 8000], start=1):
        server.large = size
        peer.begin(handle, key(handle))
        peer.send(m.Step(handle, 2, "large"))
    assert server.table.kept < 16_000
    answers = [peer.one(m.Step(handle, 2, "large")) for handle in range(1, 6)]
    lost = [message.handle for message in answers if isinstance(message, m.Failure)]
    assert lost == [2]
    assert sum(server.executions.values()) == 10


def test_small_replies_are_not_counted() -> None:
    """Their bound is the number of sessions."""
    server = Server(kept_bytes=0)
    peer = Peer(server)
    peer.begin()
    peer.send(m.Step(1, 2, "a"))
    assert server.table.kept == 0
    assert isinstance(peer.one(m.Step(1, 2, "a")), m.Reply)
    peer.send(m.Step(1, 3, "large"))
    assert server.table.kept == 0


def test_a_session_s_end_frees_its_kept_reply() -> None:
    """What is kept is forgotten with the session."""
    server = Server()
    peer = Peer(server)
    peer.begin()
    peer.send(m.Step(1, 2, "large"))
    assert server.table.kept > 4000
    peer.send(m.Close(1, 3))
    assert server.table.kept == 0


def test_work_is_announced() -> None:
    """A table that nobody listens to hands work out all the same."""
    server = Server()
    server.table._wake = None
    owner, guest = Peer(server), Peer(server)
    owner.begin(hold=True)
    guest.send(m.TakeOver(7, "s1", key(9)))
    owner.send(m.Step(1, 2, "o"))
    guest.send(m.HandBack(7))
    assert [type(message) for message in owner.read()] == [m.Reply]
