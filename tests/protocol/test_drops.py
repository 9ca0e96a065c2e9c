"""Exactly once: the line is cut at every point, and nothing runs twice or gets lost.

A script of calls is played over a line whose every move is counted: a frame leaves, a
frame arrives, an environment ends what it runs. Then it is played again, once for each
move, with the line cut right there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import messages as m
from openenv_async.errors import SessionLost
from tests.protocol.wire import CODECS, Server, Wire, key, value_of

SMALL = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=8192)
"""Limits under which the large action and the large reply come in many chunks."""

LARGE_ACTION = "y" * 1500
SCRIPT = ["a", LARGE_ACTION, "large", "b"]


def small_server(incarnation: str = "one") -> Server:
    """A server that sends and takes chunks, and runs until it is told to finish."""
    server = Server(limits=SMALL, incarnation=incarnation)
    server.large = 1500
    server.slow = True
    return server


def moves(wire: Wire) -> Iterator[bool]:
    """Make one move after the other, until nothing moves; the client speaks first."""
    ways = deque([wire.send_up, wire.arrive_up, wire.send_down, wire.arrive_down])
    while True:
        if any(way() for way in ways):
            yield True
        elif wire.server.running:
            wire.server.finish_all()
            yield True
        else:
            return


class Player:
    """Plays the script; notes what came of each call."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.session = wire.client.open(key(1))
        self.left = deque(["reset", *SCRIPT])
        self.outcomes: list[m.ServerMessage] = []

    def play(self) -> Iterator[bool]:
        """Make the calls one by one; yields after each move."""
        while self.left and self.session.ended is None:
            action = self.left.popleft()
            if action == "reset":
                self.wire.client.reset(self.session)
            else:
                self.wire.client.step(self.session, action, None)
            while self.session.pending is not None:
                for _ in moves(self.wire):
                    self._note()
                    yield True
                if self.session.pending is not None:
                    yield False  # Nothing moves: the line must be down.

    def _note(self) -> None:
        self.outcomes += [message for _, message in self.wire.take_events()]

    def replies(self) -> list[object]:
        """What the environment echoed, call by call."""
        return [
            value_of(self.wire.codec, message.payload)["echo"]
            for message in self.outcomes
            if isinstance(message, m.Reply)
        ]


EXPECTED = [None, "a", LARGE_ACTION, "x" * 1500, "b"]


def played(
    codec: m.Codec, cuts: list[int], reconnect: Callable[[Wire], None]
) -> tuple[Server, Player, int]:
    """Play the script and cut the line after these moves; counts the moves."""
    server = small_server()
    wire = Wire(server, codec=codec, limits=SMALL)
    player = Player(wire)
    made = 0
    for moved in player.play():
        assert moved, "a call waits for ever"
        made += 1
        if made in cuts:
            wire.drop()
            reconnect(wire)
    return server, player, made


def counted(codec: m.Codec) -> int:
    """How many moves the script takes without a cut."""
    return played(codec, [], Wire.connect)[2]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_the_line_may_be_cut_anywhere(codec: m.Codec) -> None:
    """Wherever it is cut, each call is executed once and answered once."""
    number = counted(codec)
    assert number > 50
    for cut in range(1, number + 1):
        server, player, _ = played(codec, [cut], Wire.connect)
        assert player.replies() == EXPECTED
        assert set(server.executions.values()) == {1}
        server.check()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@given(data=st.data())
def test_the_line_may_be_cut_often(codec: m.Codec, data: st.DataObject) -> None:
    """Nor do several cuts lose or repeat anything."""
    cuts = data.draw(st.lists(st.integers(1, counted(codec)), max_size=12))
    server, player, _ = played(codec, cuts, Wire.connect)
    assert player.replies() == EXPECTED
    assert set(server.executions.values()) == {1}


def test_a_server_may_be_replaced_anywhere() -> None:
    """The session is lost, with a typed error, or was never open: never both."""
    for cut in range(1, counted(m.MSGPACK) + 1):
        fresh = small_server("two")
        server, player, _ = played(
            m.MSGPACK, [cut], partial(Wire.connect, server=fresh)
        )
        first, second = server.executions, fresh.executions
        assert set((first + second).values()) <= {1}
        if player.session.ended is None:
            # It had not been open yet, so that all of it happened on the new server.
            assert (player.replies(), sum(first.values())) == (EXPECTED, 0)
            continue
        assert isinstance(player.session.ended, SessionLost)
        assert sum(second.values()) == 0
        assert player.replies() == EXPECTED[: len(player.replies())]
        assert len(player.outcomes) == len(player.replies()) + 1


def test_a_lease_may_end_anywhere() -> None:
    """A client that comes back too late learns that the session is lost."""

    def late(wire: Wire) -> None:
        wire.server.tick(61)
        wire.connect()

    for cut in range(1, counted(m.MSGPACK) + 1):
        server, player, _ = played(m.MSGPACK, [cut], late)
        assert set(server.executions.values()) <= {1}
        if player.session.ended is not None:
            assert isinstance(player.session.ended, SessionLost)
            assert server.closed == ["s1"]
            assert len(player.outcomes) == len(player.replies()) + 1


def test_a_kept_reply_may_be_evicted_anywhere() -> None:
    """A reply that was dropped is an error that says that the step ran."""

    def evicted(wire: Wire) -> None:
        for channel in wire.server.table.by_key.values():
            channel.evict()
        wire.connect()

    lost = 0
    for cut in range(1, counted(m.MSGPACK) + 1):
        server, player, _ = played(m.MSGPACK, [cut], evicted)
        assert set(server.executions.values()) == {1}
        failures = [f for f in player.outcomes if isinstance(f, m.Failure)]
        assert len(player.outcomes) == len(EXPECTED)
        assert all((f.code, f.executed) == ("reply_lost", "yes") for f in failures)
        lost += len(failures)
    assert lost > 10


def test_a_call_may_be_cancelled_anywhere() -> None:
    """Its outcome is told once: the reply, or an error that knows if it ran."""
    for cancel_at in range(1, counted(m.MSGPACK) + 1):
        server = small_server()
        wire = Wire(server, limits=SMALL)
        player = Player(wire)
        for made, _ in enumerate(player.play(), start=1):
            if made == cancel_at:
                wire.client.cancel(player.session)
        assert len(player.outcomes) == len(EXPECTED)
        for action, outcome in zip(["reset", *SCRIPT], player.outcomes, strict=True):
            ran = server.executions["s1", action]
            assert ran <= 1
            if isinstance(outcome, m.Failure):
                assert outcome.executed == "unknown" or ran == 0
            else:
                assert ran == 1
