"""Watching a session: events, their order, what a slow watcher loses (7.2)."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import messages as m
from tests.protocol.wire import CODECS, Observation, Peer, Server, key, value_of

GUEST = key(0x9)


def watched(
    codec: m.Codec = m.MSGPACK, *, watcher: m.Codec | None = None, queue: int = 256
) -> tuple[Server, Peer, Peer]:
    """A server, the owner of s1 on handle 1, and a watcher with subscription 5."""
    server = Server()
    owner, eye = Peer(server, codec=codec), Peer(server, codec=watcher or codec)
    owner.begin()
    watching = eye.one(m.Watch(5, "s1", queue))
    assert isinstance(watching, m.Watching)
    assert (watching.id, watching.row.session) == (5, "s1")
    return server, owner, eye


def events(eye: Peer) -> list[tuple[str, int, Any, Any]]:
    """Kind, number, request and payload of what a watcher was told."""
    return [
        (
            event.kind,
            event.seq,
            value_of(eye.codec, event.request),
            value_of(eye.codec, event.payload),
        )
        for event in eye.read()
        if isinstance(event, m.Event) and event.id == 5
    ]


def observation(echo: object, reward: float | None = 1.0) -> dict[str, object]:
    """An observation as generic decoding shows it."""
    return {"echo": echo, "reward": reward, "terminated": False, "truncated": False}


@pytest.mark.parametrize("watcher", CODECS, ids=repr)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_watcher_sees_requests_and_replies(codec: m.Codec, watcher: m.Codec) -> None:
    """All that the environment answers is shown, in the watcher's encoding."""
    _, owner, eye = watched(codec, watcher=watcher)
    owner.send(m.Step(1, 2, "a"))
    owner.send(m.Reset(1, 3, seed=4, episode_id="e", options={"k": 1}))
    owner.send(m.GetState(1, 4))
    owner.send(m.Step(1, 5, "fail"))
    owner.send(m.Close(1, 6))
    code = {"code": "environment_failed", "message": "it raised"}
    asked = {"seed": 4, "episode_id": "e", "options": {"k": 1}}
    assert events(eye) == [
        ("step", 2, "a", observation("a")),
        ("reset", 3, asked, observation(4, None)),
        ("state", 4, None, {"steps": 0}),
        ("error", 5, "fail", code),
        (
            "ended",
            6,
            None,
            {"code": "session_closed", "message": "the session was closed"},
        ),
    ]


def test_a_watcher_sees_times() -> None:
    """Events carry the same durations as replies."""
    server, owner, eye = watched()
    server.slow = True
    owner.send(m.Step(1, 2, "a"))
    server.session().queue_ns = 11
    server.finish_all()
    (event,) = eye.read()
    assert isinstance(event, m.Event)
    assert (event.queue_ns, event.environment_ns, event.encode_ns) == (11, 7, 0)


@pytest.mark.parametrize("how", ["lease", "given up", "close fails"])
def test_a_watcher_learns_of_the_end(how: str) -> None:
    """However a session ends, its watchers are told, and told last."""
    server, owner, eye = watched()
    if how == "lease":
        owner.drop()
        server.tick(61)
    elif how == "given up":
        owner.send(m.Cancel(1, 0))
    else:
        server.slow = True
        owner.send(m.Close(1, 2))
        server.running.clear()
        server.session().fail("environment_failed", "in close")
    kinds = [kind for kind, _, _, _ in events(eye)]
    assert kinds == (["error", "ended"] if how == "close fails" else ["ended"])
    assert isinstance(eye.one(m.Watch(5, "s1")), m.Failure)


def test_the_last_event_is_not_dropped() -> None:
    """However full the queue is, a watcher learns that nothing follows."""
    _, owner, eye = watched(queue=1)
    for seq in range(2, 5):
        owner.send(m.Step(1, seq, seq))
    owner.send(m.Close(1, 5))
    assert [(kind, seq) for kind, seq, _, _ in events(eye)] == [
        ("step", 2),
        ("ended", 5),
    ]


def test_the_last_event_is_the_last() -> None:
    """It overtakes no event that is still on its way in chunks."""
    server = Server()
    limits = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=8192)
    owner, eye = Peer(server), Peer(server, limits=limits)
    owner.begin()
    eye.send(m.Watch(5, "s1"))
    owner.send(m.Step(1, 2, "large"))
    owner.send(m.Close(1, 3))
    told = eye.read()
    assert [type(message) for message in told[:-1]] == [m.Chunk] * (len(told) - 1)
    assert isinstance(told[-1], m.Event)
    assert told[-1].kind == "ended"


def test_a_slow_watcher_loses_events_and_is_told_how_many() -> None:
    """A full queue drops events; the next one that fits says how many."""
    server, owner, eye = watched(queue=3)
    for seq in range(2, 10):
        owner.send(m.Step(1, seq, seq))
    told = [event for event in eye.read() if isinstance(event, m.Event)]
    assert [event.seq for event in told] == [2, 3, 4]
    owner.send(m.Step(1, 10, 10))
    (late,) = eye.read()
    assert isinstance(late, m.Event)
    assert (late.seq, late.dropped) == (10, 5)
    assert sum(server.executions.values()) == 10


def test_a_watcher_s_queue_is_bounded_by_the_server() -> None:
    """Whatever it asks for, what waits for it has an end, in number and in bytes."""
    server, owner, eye = watched(queue=10**9)
    for seq in range(2, 4200):
        owner.send(m.Step(1, seq, 0))
    assert len(eye.read()) == 4096
    eye.protocol.send(bytes(65 << 20))
    owner.send(m.Step(1, 4200, 0))
    watchers = server.session().watchers
    assert watchers is not None
    assert watchers[0].dropped == 4198 - 4096 + 1


def test_a_watcher_does_not_get_what_it_could_not_take() -> None:
    """An event above the watcher's limit is dropped and counted."""
    server = Server()
    small = m.Limits(frame_bytes=4096, chunk_bytes=1024, message_bytes=4096)
    owner, eye = Peer(server), Peer(server, limits=small)
    owner.begin()
    eye.send(m.Watch(5, "s1"))
    server.large = 5000
    owner.send(m.Step(1, 2, "large"))
    owner.send(m.Step(1, 3, "a"))
    (event,) = eye.read()
    assert isinstance(event, m.Event)
    assert (event.seq, event.dropped) == (3, 1)


def test_a_value_that_has_no_json_does_not_harm_the_session() -> None:
    """What the watcher's encoding cannot say is dropped and counted, no more."""
    server = Server()
    owner, eye = Peer(server), Peer(server, codec=m.JSON)
    owner.begin()
    eye.send(m.Watch(5, "s1"))
    # An action with an extension type, and one that is no UTF-8.
    for seq, action in ((2, b"\xd4\x05a"), (3, b"\xa1\xff")):
        server.slow = True
        owner.send(m.Step(1, seq, m.raw(action)))
        server.running.clear()
        server.session().reply(m.raw(m.MSGPACK.encode(Observation("fine"))))
        assert isinstance(owner.read()[0], m.Reply)
    server.slow = False
    owner.send(m.Step(1, 4, "a"))
    (event,) = eye.read()
    assert isinstance(event, m.Event)
    assert (event.seq, event.dropped) == (4, 2)


def test_two_watchers_see_the_same() -> None:
    """Each has its own subscription, and ends it by itself."""
    server, owner, eye = watched()
    other = Peer(server)
    other.send(m.Watch(5, "s1"))
    owner.send(m.Step(1, 2, "a"))
    assert events(eye) == events(other) != []
    assert eye.send(m.Unwatch(5), m.Unwatch(99)) == []
    owner.send(m.Step(1, 3, "b"))
    assert events(eye) == []
    assert [seq for _, seq, _, _ in events(other)] == [3]


def test_a_lost_watcher_costs_nothing() -> None:
    """With its connection a subscription ends, and steps go the short way again."""
    server, owner, eye = watched()
    channel = server.session().owner
    assert channel is not None
    assert channel.fast is None
    eye.drop()
    assert channel.fast is not None
    assert server.session().watchers is None
    assert isinstance(owner.one(m.Step(1, 2, "a")), m.Reply)


def test_a_watcher_sees_the_guest() -> None:
    """Events name the number of whoever made the request."""
    server, owner, eye = watched()
    guest = Peer(server)
    guest.send(m.TakeOver(7, "s1", GUEST), m.Step(7, 1, "g"))
    guest.send(m.HandBack(7))
    owner.send(m.Step(1, 2, "o"))
    assert [(seq, asked) for _, seq, asked, _ in events(eye)] == [(1, "g"), (2, "o")]
