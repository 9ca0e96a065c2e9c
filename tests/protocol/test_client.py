"""The client's machine: greeting, sessions, requests, reconnects, bad servers."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from openenv_async import messages as m
from openenv_async.errors import (
    LocalProtocolError,
    OpenEnvError,
    RemoteProtocolError,
    SessionBusy,
    SessionClosed,
    SessionLost,
    TakenOver,
    Unauthorized,
    VersionMismatch,
)
from openenv_async.protocol import ClientProtocol, Phase, decode_error, error_of
from tests.protocol.wire import (
    CODECS,
    Observation,
    Odd,
    Server,
    Wire,
    key,
    value_of,
)


def echoed(wire: Wire, message: m.ServerMessage) -> object:
    """What the environment echoed in a reply."""
    assert isinstance(message, m.Reply), message
    return value_of(wire.codec, message.payload)["echo"]


# The greeting (3.1)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_client_greets_and_is_ready(codec: m.Codec) -> None:
    """After `welcome` the client knows the server's name, limits and environments."""
    wire = Wire(Server(), codec=codec, connect=False)
    assert not wire.client.ready
    wire.connect()
    assert (wire.client.phase, wire.client.ready) == (Phase.GREETING, False)
    wire.pump()
    assert wire.client.ready
    assert wire.client.welcome is not None
    assert wire.client.welcome.environments == ["echo", "other"]
    assert [type(message) for _, message in wire.events] == [m.Welcome]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (m.Welcome(2, "", "", m.Limits(), []), VersionMismatch),
        (m.failure(None, None, "version_mismatch", ""), VersionMismatch),
        (m.failure(None, None, "unauthorized", ""), Unauthorized),
        (m.Welcome(1, "", "", m.Limits(frame_bytes=0), []), RemoteProtocolError),
        (m.Ping(1), RemoteProtocolError),
        (m.Chunk(1, True, b""), RemoteProtocolError),
        (["welcome", 1], RemoteProtocolError),
        (["welcome", 1, 2, 3, 4, 5], RemoteProtocolError),
        (7, RemoteProtocolError),
    ],
    ids=repr,
)
def test_a_bad_greeting_is_an_error(said: object, kind: type[OpenEnvError]) -> None:
    """Whatever is no `welcome` ends the connection with a typed error."""
    odd = Odd(greet=False)
    odd.client.open(key(1))
    with pytest.raises(kind):
        odd.say(said)


def test_a_server_may_leave_before_it_greets() -> None:
    """`goodbye` instead of `welcome` is told to the caller."""
    odd = Odd(greet=False)
    assert odd.say(m.Goodbye("full")) == [(None, m.Goodbye("full"))]
    assert odd.client.phase is Phase.CLOSED


def test_a_second_welcome_is_an_error() -> None:
    """The greeting comes once."""
    with pytest.raises(RemoteProtocolError, match="no 'welcome' in phase 'ready'"):
        Odd().say(Odd.welcome)


def test_a_token_travels_in_hello() -> None:
    """Where HTTP headers cannot be set (3.4)."""
    client: ClientProtocol[object] = ClientProtocol(token="secret")
    client.connection_made(0.0)
    (hello,) = m.MSGPACK.from_client.frame(client.next_frame() or b"")
    assert isinstance(hello, m.Hello)
    assert hello.token == "secret"


# Sessions


def test_a_session_may_be_opened_before_the_connection() -> None:
    """It is opened, and its first request sent, as soon as that is possible."""
    wire = Wire(Server(), connect=False)
    session = wire.client.open(key(1), environment="other", owner="me", lease=9.0)
    wire.client.reset(session, seed=4)
    assert (session.opened, session.id) == (False, "")
    wire.connect()
    wire.pump()
    assert (session.opened, session.id, session.environment) == (True, "s1", "other")
    assert echoed(wire, wire.answer(session)) == 4


def test_a_session_s_requests_are_numbered() -> None:
    """Each call is the next number, whatever it asks."""
    wire = Wire(Server())
    session = wire.open()
    wire.step(session, "a")
    wire.client.state(session, 5.0)
    wire.pump()
    state = wire.answer(session)
    assert isinstance(state, m.Reply)
    assert value_of(m.MSGPACK, state.payload) == {"steps": 1}
    wire.client.close(session)
    wire.pump()
    assert isinstance(wire.answer(session), m.Reply)
    assert session.seq == 4


def test_a_refused_session_ends() -> None:
    """The failure is told, and later calls get a fresh copy of it."""
    wire = Wire(Server())
    session = wire.client.open(key(1), environment="nobody")
    wire.pump()
    failure = wire.answer(session)
    assert isinstance(failure, m.Failure)
    assert failure.code == "unknown_environment"
    with pytest.raises(OpenEnvError, match="expected one of") as first:
        wire.client.step(session, "a", None)
    with pytest.raises(OpenEnvError) as second:
        wire.client.reset(session)
    assert first.value is not second.value
    assert (first.value.code, first.value.executed) == ("unknown_environment", "no")
    assert not wire.client.sessions


def test_a_second_call_on_a_session_is_refused() -> None:
    """Nothing is sent, and the first one goes on."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    server.slow = True
    wire.client.step(session, "a", None)
    with pytest.raises(SessionBusy, match="'step' while request 2"):
        wire.client.step(session, "b", None)
    with pytest.raises(SessionBusy, match="'state' while request 2"):
        wire.client.state(session)
    wire.pump()
    server.finish_all()
    wire.pump()
    assert echoed(wire, wire.answer(session)) == "a"


@pytest.mark.parametrize("is_open", [True, False])
def test_an_action_that_cannot_be_encoded_changes_nothing(is_open: bool) -> None:
    """The error is local, and the number stays free."""
    wire = Wire(Server())
    session = wire.open()
    if not is_open:
        wire.drop()
    with pytest.raises(LocalProtocolError, match="msgpack can encode") as caught:
        wire.client.step(session, object(), None)
    assert caught.value.code == "invalid_action"
    if not is_open:
        wire.connect()
        wire.pump()
    assert echoed(wire, wire.step(session, "a")) == "a"


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan"), True, "5"])
def test_a_deadline_is_a_positive_number(timeout: Any) -> None:
    """Others are refused locally, whatever the call, and change nothing."""
    wire = Wire(Server())
    session = wire.open()
    calls = [
        partial(wire.client.step, session, "a", timeout),
        partial(wire.client.reset, session, timeout=timeout),
        partial(wire.client.state, session, timeout),
        partial(wire.client.close, session, timeout),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="positive number of seconds"):
            call()
    assert echoed(wire, wire.step(session, "b")) == "b"


@pytest.mark.parametrize("seed", [1.5, "7", 2**63, -(2**63) - 1])
def test_a_seed_is_an_integer_of_64_bits(seed: Any) -> None:
    """Others are refused locally, because not every encoding has them."""
    wire = Wire(Server())
    session = wire.open()
    with pytest.raises(LocalProtocolError, match="64 bits") as caught:
        wire.client.reset(session, seed=seed)
    assert caught.value.code == "invalid_action"
    wire.client.reset(session, seed=-(2**63))
    wire.pump()
    assert echoed(wire, wire.answer(session)) == -(2**63)


def small_server() -> Server:
    """A server that takes little."""
    limits = m.Limits(frame_bytes=4096, chunk_bytes=1024, message_bytes=8192)
    return Server(limits=limits)


def test_an_action_above_the_server_s_limit_changes_nothing() -> None:
    """The error names size and limit, and the number stays free."""
    wire = Wire(small_server())
    session = wire.open()
    with pytest.raises(LocalProtocolError, match="at most 8192") as caught:
        wire.client.step(session, "x" * 9000, None)
    assert caught.value.detail["limit"] == 8192
    assert echoed(wire, wire.step(session, "a")) == "a"


def test_an_action_may_turn_out_too_large_after_the_greeting() -> None:
    """Made while the limits were unknown, it fails alone, and its number is free."""
    wire = Wire(small_server(), connect=False)
    session = wire.client.open(key(1))
    wire.client.reset(session, options={"k": "x" * 9000})
    wire.connect()
    wire.pump()
    failure = wire.answer(session)
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("too_large", "no")
    wire.client.reset(session)
    wire.pump()
    assert isinstance(wire.answer(session), m.Reply)


def test_an_opening_above_the_server_s_limit_is_refused() -> None:
    """The error is local, and no session is left behind."""
    wire = Wire(small_server())
    with pytest.raises(LocalProtocolError, match="at most 8192"):
        wire.client.open(key(1), owner="x" * 9000)
    assert not wire.client.sessions


# Giving up


def test_a_session_is_abandoned() -> None:
    """The server closes it without an answer; calls are refused from now on."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    wire.client.abandon(session)
    wire.pump()
    assert server.closed == ["s1"]
    assert wire.take_events() == []
    with pytest.raises(SessionClosed):
        wire.client.step(session, "a", None)


def test_a_session_is_abandoned_without_a_connection() -> None:
    """Nothing can be said; its lease ends it."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    wire.drop()
    wire.client.abandon(session)
    wire.client.abandon(session)
    wire.connect()
    wire.pump()
    server.tick(61)
    assert server.closed == ["s1"]


def test_an_ended_session_keeps_its_reason() -> None:
    """Abandoning what was lost does not hide why it was."""
    wire = Wire(Server())
    session = wire.client.open(key(1), environment="nobody")
    wire.pump()
    reason = session.ended
    wire.client.abandon(session)
    assert session.ended is reason


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_client_says_goodbye(is_connected: bool) -> None:
    """Only to a server that is there."""
    server = Server()
    wire = Wire(server)
    far = wire.far
    assert far is not None
    if not is_connected:
        wire.drop()
    wire.client.goodbye()
    wire.to_server()
    assert far.close_code == (1000 if is_connected else None)


# Cancelling (5.5)


def test_a_call_is_cancelled_once() -> None:
    """A second cancellation says nothing; without a call neither does the first."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    wire.client.cancel(session)
    assert not wire.client.pending
    server.slow = True
    wire.client.step(session, "a", None)
    wire.pump()
    wire.client.cancel(session)
    wire.client.cancel(session)
    wire.pump()
    failure = wire.answer(session)
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("cancelled", "unknown")
    assert (session.cancelling, session.pending) == (False, None)


def test_a_reply_may_beat_the_cancellation() -> None:
    """Then the call has its result, and the next one is not cancelled."""
    wire = Wire(Server())
    session = wire.open()
    wire.client.step(session, "a", None)
    wire.to_server()
    wire.client.cancel(session)
    wire.pump()
    assert echoed(wire, wire.answer(session)) == "a"
    assert echoed(wire, wire.step(session, "b")) == "b"


@pytest.mark.parametrize("arrived", [True, False])
def test_a_call_is_cancelled_without_a_connection(arrived: bool) -> None:
    """After the reconnect it is stopped, or never begins."""
    server = Server()
    server.slow = True
    wire = Wire(server)
    session = wire.client.open(key(1))
    wire.client.reset(session)
    wire.pump()
    server.finish_all()
    wire.pump()
    wire.take_events()
    wire.client.step(session, "a", None)
    if arrived:
        wire.to_server()
    wire.drop()
    wire.client.cancel(session)
    wire.connect()
    wire.pump()
    failure = wire.answer(session)
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == (
        "cancelled",
        "unknown" if arrived else "no",
    )
    assert not server.running


# Taking over (7.3)


def test_a_client_takes_over_and_hands_back() -> None:
    """The guest drives under its own number, and learns when it is over."""
    server = Server()
    owner, guest = Wire(server), Wire(server)
    session = owner.open()
    taken = guest.client.take_over(key(2), session.id, lease=5.0)
    guest.pump()
    assert (taken.id, taken.environment) == ("s1", "echo")
    assert echoed(guest, guest.step(taken, "g")) == "g"
    refused = owner.step(session, "o")
    assert isinstance(refused, m.Failure)
    assert isinstance(error_of(refused), TakenOver)
    guest.client.hand_back(taken)
    guest.pump()
    assert isinstance(guest.answer(taken), m.Ended)
    assert isinstance(taken.ended, SessionClosed)
    assert echoed(owner, owner.step(session, "o")) == "o"


def test_a_hand_back_needs_a_connection() -> None:
    """Without one, nothing is said: the lease hands back."""
    server = Server()
    owner, guest = Wire(server), Wire(server)
    taken = guest.client.take_over(key(2), owner.open().id, lease=5.0)
    guest.pump()
    guest.drop()
    guest.client.hand_back(taken)
    assert not guest.client.pending
    server.tick(6)
    assert server.session().guest is None


def test_a_take_over_survives_a_lost_answer() -> None:
    """When the connection drops before the answer came, it is asked for again."""
    server = Server()
    owner, guest = Wire(server), Wire(server)
    taken = guest.client.take_over(key(2), owner.open().id, lease=5.0)
    guest.to_server()
    guest.drop()
    guest.connect()
    guest.pump()
    assert echoed(guest, guest.step(taken, "g")) == "g"


def test_a_take_over_does_not_reach_another_server() -> None:
    """Public ids mean nothing to a new incarnation, or somebody else's session."""
    server = Server()
    owner, guest = Wire(server), Wire(server)
    taken = guest.client.take_over(key(2), owner.open().id, lease=5.0)
    guest.drop()
    fresh = Server(incarnation="two")
    Wire(fresh).open(9)
    guest.connect(fresh)
    guest.pump()
    assert isinstance(guest.answer(taken), m.Ended)
    assert isinstance(taken.ended, SessionLost)
    assert fresh.session().guest is None


# Reconnects (4.3)


def test_a_call_without_a_connection_waits_for_one() -> None:
    """It is sent when the session is resumed, and executed once."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    wire.drop()
    wire.client.step(session, "a", None)
    assert not wire.client.pending
    wire.connect()
    wire.pump()
    assert echoed(wire, wire.answer(session)) == "a"
    assert server.executions["s1", "a"] == 1


def test_a_new_incarnation_has_lost_the_sessions() -> None:
    """Every session ends with a typed loss, and none is quietly a fresh one."""
    wire = Wire(Server())
    idle, busy = wire.open(1), wire.open(2)
    wire.client.step(busy, "a", None)
    wire.drop()
    fresh = Server(incarnation="two")
    wire.connect(fresh)
    wire.pump()
    for session, executed in ((idle, "no"), (busy, "unknown")):
        assert isinstance(session.ended, SessionLost)
        assert session.ended.executed == executed
        assert "'one', got 'two'" in session.ended.message
    assert (len(fresh.table), fresh.executions) == (0, {})


def test_an_opening_reaches_another_server() -> None:
    """A session that was never open may begin on a server that was replaced."""
    wire = Wire(Server())
    session = wire.client.open(key(1))
    wire.drop()
    wire.connect(Server(incarnation="two"))
    wire.pump()
    assert session.opened


def test_a_session_may_be_gone_after_a_reconnect() -> None:
    """When its lease was too short, it is lost, and the call says unknown."""
    server = Server()
    wire = Wire(server)
    session = wire.open()
    wire.client.step(session, "a", None)
    wire.drop()
    server.tick(61)
    wire.connect()
    wire.pump()
    failure = wire.answer(session)
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("unknown_session", "unknown")
    assert isinstance(session.ended, SessionLost)


def test_a_small_greeting_follows_small_chunks() -> None:
    """What the last server took does not decide how the next one is greeted."""
    limits = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=4096)
    server = Server(limits=limits)
    wire = Wire(server, token="t" * 300)
    wire.open()
    wire.drop()
    wire.connect()
    wire.pump()
    assert wire.client.ready


# Errors


def test_error_of_builds_the_exception() -> None:
    """Everything that the message says is kept."""
    failure = m.failure(1, 2, "at_capacity", "full", detail={"sessions": 2})
    error = error_of(failure)
    assert (error.code, error.retryable, error.detail) == (
        "at_capacity",
        True,
        {"sessions": 2},
    )


def test_decode_error_says_that_it_was_executed() -> None:
    """A payload of another type is the server's, or the wrong client class."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"reward": "much"}, Observation)
    error = decode_error(caught.value)
    assert error.executed == "yes"
    assert "reward" in error.message
