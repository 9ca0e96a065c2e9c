"""Channels: sequence numbers, the kept reply, cancellation, refusals."""

from __future__ import annotations

import pytest

from openenv_async import messages as m
from openenv_async.errors import Executed
from openenv_async.protocol import Outcome, Stage
from tests.protocol.wire import (
    CODECS,
    KEY,
    Observation,
    Peer,
    Server,
    frame_of,
    key,
    value_of,
)

TIGHT = m.Limits(frame_bytes=4096, chunk_bytes=1024, message_bytes=4096)


def begun(server: Server | None = None, **options: object) -> tuple[Server, Peer]:
    """A peer with an episode on handle 1, whose next request is 2."""
    server = server or Server()
    peer = Peer(server, **options)  # type: ignore[arg-type]  # of the constructor
    peer.begin()
    return server, peer


def seen(peer: Peer, message: m.ServerMessage) -> object:
    """What the environment echoed in a reply."""
    assert isinstance(message, m.Reply), message
    return value_of(peer.codec, message.payload)["echo"]


# Order and numbers (5.3)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_requests_are_answered_in_order(codec: m.Codec) -> None:
    """Reset, steps, state and close are each executed once and answered."""
    server = Server()
    peer = Peer(server, codec=codec)
    peer.open()
    assert seen(peer, peer.one(m.Reset(1, 1, seed=9))) == 9
    assert seen(peer, peer.one(m.Step(1, 2, "a"))) == "a"
    state = peer.one(m.GetState(1, 3))
    assert isinstance(state, m.Reply)
    assert value_of(codec, state.payload) == {"steps": 1}
    closed = peer.one(m.Close(1, 4))
    assert isinstance(closed, m.Reply)
    assert value_of(codec, closed.payload) is None
    assert (server.closed, len(server.table)) == (["s1"], 0)


def test_a_repeated_request_gets_the_kept_reply() -> None:
    """The same number again is answered from memory, not by running it again."""
    server, peer = begun()
    first = peer.one(m.Step(1, 2, "a"))
    again = peer.one(m.Step(1, 2, "a"))
    assert (seen(peer, first), seen(peer, again)) == ("a", "a")
    assert server.executions["s1", "a"] == 1


def test_a_repeated_request_that_runs_is_attached_to() -> None:
    """The same number while it runs brings no answer of its own."""
    server, peer = begun()
    server.slow = True
    assert peer.send(m.Step(1, 2, "a"), m.Step(1, 2, "a")) == []
    server.finish_all()
    assert len(peer.read()) == 1
    assert server.executions["s1", "a"] == 1


@pytest.mark.parametrize(
    ("seq", "executed"), [(1, "unknown"), (0, "no"), (-3, "no"), (4, "no"), (99, "no")]
)
def test_a_number_out_of_order_is_refused(seq: int, executed: str) -> None:
    """Old and skipped numbers are errors, and change nothing."""
    server, peer = begun()
    peer.one(m.Step(1, 2, "a"))
    failure = peer.failure(m.Step(1, seq, "b"))
    assert (failure.code, failure.executed) == ("bad_sequence", executed)
    assert seen(peer, peer.one(m.Step(1, 3, "c"))) == "c"
    assert server.executions["s1", "b"] == 0


def test_the_first_number_is_one() -> None:
    """Number 0 is never a request."""
    peer = Peer(Server())
    peer.open()
    assert peer.failure(m.Reset(1, 0)).code == "bad_sequence"
    assert isinstance(peer.one(m.Reset(1, 1)), m.Reply)


def test_a_second_request_in_flight_is_refused() -> None:
    """The session is busy; the refused number may be used again."""
    server, peer = begun()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    failure = peer.failure(m.Step(1, 3, "b"))
    assert (failure.code, failure.executed, failure.retryable) == ("busy", "no", True)
    server.finish_all()
    peer.read()
    server.slow = False
    assert seen(peer, peer.one(m.Step(1, 3, "b"))) == "b"


# What a stage does not permit (5.6)


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ([], "reset_required"),
        ([m.Reset(1, 1), m.Step(1, 2, "final")], "episode_done"),
        ([m.Reset(1, 1), m.Step(1, 2, "fail")], "episode_broken"),
    ],
)
def test_a_step_without_a_running_episode_is_refused(
    before: list[m.Step], code: str
) -> None:
    """The refusal is kept like a reply, and `reset` helps."""
    server = Server()
    peer = Peer(server)
    peer.open()
    for request in before:
        peer.one(request)
    seq = len(before) + 1
    for _ in range(2):
        failure = peer.failure(m.Step(1, seq, "never"))
        assert (failure.code, failure.executed, failure.seq) == (code, "no", seq)
    assert isinstance(peer.one(m.Reset(1, seq + 1)), m.Reply)
    assert server.executions["s1", "never"] == 0


def test_a_broken_episode_says_what_broke_it() -> None:
    """The refusal names the stage and the earlier failure."""
    _, peer = begun()
    assert peer.failure(m.Step(1, 2, "fail")).code == "environment_failed"
    failure = peer.failure(m.Step(1, 3, "a"))
    assert "environment_failed: it raised" in failure.message
    assert failure.detail == {"stage": "broken"}


def test_a_poisoned_session_can_only_be_closed() -> None:
    """A call that hangs leaves nothing to do but to close."""
    server, peer = begun()
    session = server.session()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.running.clear()
    session.fail("deadline_exceeded", "it hangs", outcome=Outcome.POISONED)
    peer.read()
    for seq, request in ((3, m.Step(1, 3, "b")), (4, m.Reset(1, 4))):
        failure = peer.failure(request)
        assert (failure.code, failure.seq) == ("session_poisoned", seq)
    server.slow = False
    assert isinstance(peer.one(m.Close(1, 5)), m.Reply)


def test_a_retired_session_refuses_everything() -> None:
    """While its environment closes without its client, nothing new begins."""
    server, peer = begun()
    session = server.session()
    server.table.retire(session)
    assert session.stage is Stage.CLOSED
    for request in (m.Step(1, 2, "a"), m.Close(1, 3)):
        assert peer.failure(request).code == "session_closed"
    assert server.executions["s1", "a"] == 0


# The kept reply


def test_a_reply_is_acknowledged_by_the_next_request() -> None:
    """Only the last reply is kept."""
    server, peer = begun()
    server.large = 2000
    peer.one(m.Step(1, 2, "large"))
    assert server.table.kept > 2000
    peer.one(m.Step(1, 3, "a"))
    assert server.table.kept == 0


def test_an_evicted_reply_is_lost() -> None:
    """Beyond the bound a resend is told that the step ran, and it does not again."""
    server, peer = begun(Server(kept_bytes=1000))
    peer.one(m.Step(1, 2, "large"))
    failure = peer.failure(m.Step(1, 2, "large"))
    assert (failure.code, failure.executed) == ("reply_lost", "yes")
    assert server.executions["s1", "large"] == 1
    assert seen(peer, peer.one(m.Step(1, 3, "a"))) == "a"


@pytest.mark.parametrize("executed", ["no", "unknown", "yes"])
def test_an_evicted_failure_says_what_was_executed(executed: Executed) -> None:
    """When an error was evicted, the resend is told what the error had said."""
    server, peer = begun(Server(kept_bytes=1000))
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.running.clear()
    server.session().fail("invalid_action", "x" * 2000, executed=executed)
    peer.read()
    failure = peer.failure(m.Step(1, 2, "a"))
    assert (failure.code, failure.executed) == ("reply_lost", executed)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_a_reply_above_the_client_s_limit_is_an_error(kept_bytes: int) -> None:
    """The client gets size and limit, learns that it ran, and may go on."""
    server, peer = begun(Server(kept_bytes=kept_bytes), limits=TIGHT)
    server.large = 5000
    failure = peer.failure(m.Step(1, 2, "large"))
    assert (failure.code, failure.executed) == ("too_large", "yes")
    assert failure.detail is not None
    assert failure.detail["limit"] == 4096
    assert peer.failure(m.Step(1, 2, "large")).code == "reply_lost"
    assert seen(peer, peer.one(m.Step(1, 3, "a"))) == "a"


def test_an_error_above_the_client_s_limit_stays_truthful() -> None:
    """A refusal that is too large still says that nothing was executed."""
    server, peer = begun(limits=TIGHT)
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.running.clear()
    server.session().fail("invalid_action", "x" * 5000, executed="no")
    (failure,) = peer.read()
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("too_large", "no")


@pytest.mark.parametrize("action", ["a", "large"])
def test_a_kept_reply_moves_to_another_handle(action: str) -> None:
    """After a resume under another handle, the kept reply carries that one."""
    server, peer = begun()
    peer.send(m.Step(1, 2, action))
    kept = server.table.kept
    peer.drop()
    again = Peer(server)
    (opened,) = again.send(m.Resume(70, KEY))
    assert isinstance(opened, m.Opened)
    assert (opened.seq, opened.resumed) == (2, True)
    reply = again.one(m.Step(70, 2, action))
    assert isinstance(reply, m.Reply)
    assert (reply.handle, reply.seq) == (70, 2)
    assert abs(server.table.kept - kept) <= 1
    assert server.executions["s1", action] == 1


def test_a_reply_without_a_connection_is_kept() -> None:
    """What ends after the connection is delivered after the resume."""
    server, peer = begun()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    peer.drop()
    server.finish_all()
    again = Peer(server)
    again.send(m.Resume(1, KEY))
    assert seen(again, again.one(m.Step(1, 2, "a"))) == "a"
    assert server.executions["s1", "a"] == 1


def test_a_session_does_not_change_its_encoding() -> None:
    """A resume in the other encoding is refused; the owner's goes on."""
    server, peer = begun()
    text = Peer(server, codec=m.JSON)
    failure = text.failure(m.Resume(5, KEY))
    assert (failure.code, failure.handle) == ("protocol_error", 5)
    assert seen(peer, peer.one(m.Step(1, 2, "a"))) == "a"


# Malformed requests


def test_a_malformed_request_counts() -> None:
    """Its number is used up, and its error is kept like any reply."""
    _, peer = begun()
    for _ in range(2):
        failure = peer.failure(["step", 1, 2])
        assert (failure.code, failure.executed) == ("protocol_error", "no")
    assert seen(peer, peer.one(m.Step(1, 3, "a"))) == "a"


def test_a_malformed_request_while_another_runs_does_not_count() -> None:
    """It is answered, and the number stays free."""
    server, peer = begun()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    assert peer.failure(["step", 1, 3]).seq == 3
    server.finish_all()
    assert len(peer.read()) == 1
    server.slow = False
    assert seen(peer, peer.one(m.Step(1, 3, "b"))) == "b"


# Cancelling (5.5)


def test_a_running_request_is_cancelled() -> None:
    """The answer says so, and that nobody knows how far it came."""
    server, peer = begun()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    failure = peer.failure(m.Cancel(1, 2))
    assert (failure.code, failure.seq, failure.executed) == ("cancelled", 2, "unknown")
    assert not server.running


def test_a_cancellation_may_overtake_its_request() -> None:
    """A request whose cancellation came first is refused, not executed."""
    server, peer = begun()
    assert peer.send(m.Cancel(1, 2)) == []
    failure = peer.failure(m.Step(1, 2, "a"))
    assert (failure.code, failure.executed) == ("cancelled", "no")
    assert server.executions["s1", "a"] == 0
    assert seen(peer, peer.one(m.Step(1, 3, "b"))) == "b"


def test_a_cancellation_overtakes_a_request_in_chunks() -> None:
    """That is how a large request is stopped while it is still on its way."""
    server, peer = begun()
    data = peer.codec.encode(m.Step(1, 2, "x" * 1000))
    assert peer.send(m.Chunk(1, False, data[:500]), m.Cancel(1, 2)) == []
    failure = peer.failure(m.Chunk(1, True, data[500:]))
    assert (failure.code, failure.executed) == ("cancelled", "no")
    assert sum(server.executions.values()) == 1


@pytest.mark.parametrize("seq", [1, 2, 4, -1])
def test_a_cancellation_of_nothing_is_ignored(seq: int) -> None:
    """Answered, skipped and impossible numbers are no error."""
    _, peer = begun()
    peer.one(m.Step(1, 2, "a"))
    assert peer.send(m.Cancel(1, seq)) == []
    assert seen(peer, peer.one(m.Step(1, 3, "b"))) == "b"


def test_a_cancellation_of_an_unknown_handle_is_ignored() -> None:
    """It crossed the end of its session."""
    _, peer = begun()
    assert peer.send(m.Cancel(9, 1), m.Cancel(9, 0)) == []


def test_a_client_gives_a_session_up() -> None:
    """Number 0 closes the session without an answer, and frees key and handle."""
    server, peer = begun()
    answers = peer.send(m.Cancel(1, 0), m.Step(1, 2, "a"))
    assert [message.code for message in answers if isinstance(message, m.Failure)] == [
        "unknown_session"
    ]
    assert (len(answers), server.closed) == (1, ["s1"])
    assert not peer.open().resumed


# The short way of plain steps


def test_a_large_reply_takes_the_long_way() -> None:
    """Replies that count against the bound are found whichever way they take."""
    server, peer = begun()
    session = server.session()
    assert session.owner is not None
    for seq, action in enumerate(["a", "large", "b", "final"], start=2):
        assert isinstance(peer.one(m.Step(1, seq, action)), m.Reply)
        assert (session.owner.counted > 0) is (action == "large")
    assert (session.stage, session.step, session.reward) == (Stage.DONE, 4, 4.0)


def test_a_client_of_small_messages_has_no_short_way() -> None:
    """A client whose chunks are small gets everything through the outbox."""
    limits = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=8192)
    server, peer = begun(limits=limits)
    owner = server.session().owner
    assert owner is not None
    assert owner.fast is None
    answers = peer.send(m.Step(1, 2, "large"))
    assert all(isinstance(message, m.Chunk) for message in answers)


def test_a_session_that_ended_keeps_nothing() -> None:
    """An answer to a channel that is gone is neither kept nor counted."""
    server, peer = begun()
    session = server.session()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.table.remove(session, "lease_expired")
    peer.read()
    session.reply(m.raw(m.MSGPACK.encode(Observation("x" * 5000))))
    assert (server.table.kept, peer.read()) == (0, [])


def test_many_sessions_answer_in_one_frame() -> None:
    """Steps that came in one frame are answered in one frame."""
    server = Server()
    peer = Peer(server)
    for handle in range(20):
        peer.begin(handle, key(handle))
    frame = frame_of(peer.codec, *(m.Step(handle, 2, "a") for handle in range(20)))
    server.take(peer.protocol.receive(frame, server.now))
    answers = m.MSGPACK.from_server.frame(peer.protocol.next_frame() or b"")
    assert [m_.handle for m_ in answers if isinstance(m_, m.Reply)] == list(range(20))
