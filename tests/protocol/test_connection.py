"""What both sides share: heartbeats, limits, congestion."""

from __future__ import annotations

import pytest

from openenv_async import messages as m
from openenv_async.protocol import Phase
from openenv_async.protocol.connection import Connection, tag_of, unusable
from tests.protocol.wire import Server, Wire, decoded

INTERVAL = m.Limits().heartbeat


def connection(phase: Phase = Phase.READY) -> Connection:
    """One side of a connection, at time 0."""
    made = Connection(m.MSGPACK, None, None)
    made.phase = phase
    assert made.tick(0.0)
    return made


def ends_at(side: Connection, start: float = 0.0) -> float:
    """When a connection gives up, looking twice an interval, in intervals."""
    half = 0
    while side.tick(start + INTERVAL * half / 2):
        half += 1
    return half / 2


def said(side: Connection) -> list[m.ServerMessage]:
    """What waits to be sent."""
    frame = side.next_frame()
    return [] if frame is None else decoded(m.MSGPACK, frame)


# Heartbeats (3.5)


def test_a_connection_pings_after_silence() -> None:
    """A silent peer is pinged once an interval, with a new nonce each time."""
    side = connection()
    nonces: list[m.ServerMessage] = []
    for tenth in range(1, 29):
        assert side.tick(INTERVAL * tenth / 10)
        nonces += said(side)
    assert nonces == [m.Ping(1), m.Ping(2)]


def test_a_connection_gives_up_after_three_intervals() -> None:
    """A peer that stays silent counts as gone."""
    assert ends_at(connection()) == 3


def test_a_connection_asks_before_it_gives_up() -> None:
    """A side that was blocked itself pings, and waits for one interval more."""
    assert ends_at(connection(), start=100 * INTERVAL) == 1


def test_a_probe_asks_sooner_and_once() -> None:
    """A silent peer is pinged before its heartbeat, and not again until it answers."""
    side = connection()
    side.probe(1.9, 2.0)
    assert said(side) == []
    side.probe(2.0, 2.0)
    side.probe(9.0, 2.0)
    assert said(side) == [m.Ping(1)]
    side.taken(10.0)
    side.probe(12.0, 2.0)
    assert said(side) == [m.Ping(2)]


def test_only_a_peer_that_was_asked_is_silent() -> None:
    """It has some time to answer; then silence counts from the last sign of life."""
    side = connection()
    assert side.silence(100.0, 3.0) == 0.0
    side.probe(100.0, 2.0)
    assert side.silence(102.9, 3.0) == 0.0
    assert side.silence(103.0, 3.0) == 103.0
    side.taken(104.0)
    assert side.silence(200.0, 3.0) == 0.0


def test_nobody_is_probed_before_the_greeting() -> None:
    """A ping is no first message."""
    side = connection(Phase.GREETING)
    side.probe(100.0, 2.0)
    assert said(side) == []
    assert side.silence(200.0, 3.0) == 0.0


def test_a_probe_does_not_put_off_the_end() -> None:
    """A peer that answers no probe is dropped as if there had been none."""
    side = connection()
    side.probe(2.0, 2.0)
    assert 3 <= ends_at(side) <= 3.5


def test_a_peer_that_takes_what_is_sent_is_alive() -> None:
    """`taken` counts like a message from the peer."""
    side = connection()
    assert side.tick(INTERVAL)
    side.taken(INTERVAL * 2)
    assert ends_at(side, start=INTERVAL * 2) == 3


def test_a_peer_that_does_not_greet_is_not_pinged() -> None:
    """Before the greeting, one interval is all that a peer has."""
    side = connection(Phase.GREETING)
    assert side.tick(INTERVAL * 0.99)
    assert not side.tick(INTERVAL)
    assert said(side) == []


def test_both_sides_keep_a_quiet_connection() -> None:
    """Machines that ping each other stay connected for as long as they like."""
    server = Server()
    wire = Wire(server)
    assert wire.far is not None
    for _ in range(50):
        server.now += INTERVAL * 0.6
        assert wire.client.tick(server.now)
        assert wire.far.tick(server.now)
        wire.pump()


def test_a_cut_line_is_noticed_by_both_sides() -> None:
    """When nothing arrives any more, both sides give up by themselves."""
    server = Server()
    wire = Wire(server)
    assert wire.far is not None
    assert ends_at(wire.client, server.now) == 3
    assert ends_at(wire.far, server.now) == 3


# Limits (3.2)


@pytest.mark.parametrize(
    ("limits", "trouble"),
    [
        (m.Limits(), ""),
        (m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=4096), ""),
        (m.Limits(frame_bytes=1023), "frame_bytes of at least 1024, got 1023"),
        (m.Limits(chunk_bytes=-1), "chunk_bytes of at least 256, got -1"),
        (m.Limits(message_bytes=0), "message_bytes of at least 4096, got 0"),
    ],
)
def test_limits_that_cannot_be_kept_are_named(limits: m.Limits, trouble: str) -> None:
    """Limits must leave room for the protocol's own messages."""
    assert unusable(limits).removeprefix("expected ") == trouble


def test_a_connection_is_congested_by_bytes() -> None:
    """Above 64 MiB that wait, no more should be read from the peer."""
    side = connection()
    side.send(bytes(40 << 20))
    assert (side.congested, side.pending) == (False, True)
    side.send(bytes(40 << 20))
    assert side.congested
    assert side.pending_bytes == 80 << 20


def test_a_connection_is_congested_by_messages() -> None:
    """So many messages wait that no more should be read from the peer."""
    side = connection()
    side.small.extend([b""] * 131_073)
    assert side.congested


def test_say_encodes_and_queues() -> None:
    """A message that was said leaves with the next frame."""
    side = connection()
    side.say(m.Pong(3))
    assert (side.takes_whole(1024), said(side)) == (True, [m.Pong(3)])
    assert not side.pending


def test_tag_of_names_a_message() -> None:
    """Error texts call a message what the wire calls it."""
    assert tag_of(m.GetState(1, 2)) == "state"
