"""Sessions: taking over and handing back, rows of lists, progress, outcomes."""

from __future__ import annotations

import pytest

from openenv_async import messages as m
from openenv_async.protocol import Outcome, Session, Stage
from tests.protocol.wire import (
    KEY,
    Observation,
    Peer,
    Server,
    key,
    value_of,
)

GUEST = key(0x9)


def driven(*, hold: bool = False) -> tuple[Server, Peer, Peer]:
    """A server, the owner of session s1 on handle 1, and its guest on handle 7."""
    server = Server()
    owner, guest = Peer(server), Peer(server)
    owner.begin(hold=hold)
    opened = guest.one(m.TakeOver(7, "s1", GUEST))
    assert isinstance(opened, m.Opened)
    assert (opened.handle, opened.seq, opened.resumed) == (7, 0, False)
    return server, owner, guest


def echoed(peer: Peer, message: m.ServerMessage) -> object:
    """What the environment echoed in a reply."""
    assert isinstance(message, m.Reply), message
    return value_of(peer.codec, message.payload)["echo"]


# Taking over (7.3)


def test_a_guest_drives_the_same_environment() -> None:
    """The guest counts its own numbers, and the episode goes on where it was."""
    server, _, guest = driven()
    assert echoed(guest, guest.one(m.Step(7, 1, "g"))) == "g"
    assert server.session().step == 1


def test_an_owner_is_refused_meanwhile() -> None:
    """Without `hold` the owner's requests are answered at once, and kept."""
    server, owner, _ = driven()
    for _ in range(2):
        failure = owner.failure(m.Step(1, 2, "o"))
        assert (failure.code, failure.executed) == ("taken_over", "no")
        assert failure.retryable
    assert server.executions["s1", "o"] == 0


def test_an_owner_may_wait_meanwhile() -> None:
    """With `hold` the owner's request is executed when the session comes back."""
    server, owner, guest = driven(hold=True)
    assert owner.send(m.Step(1, 2, "o"), m.Step(1, 2, "o")) == []
    (ended,) = guest.send(m.HandBack(7))
    assert isinstance(ended, m.Ended)
    assert (ended.handle, ended.code) == (7, "session_closed")
    assert [echoed(owner, message) for message in owner.read()] == ["o"]
    assert (server.executions["s1", "o"], server.woken) == (1, 1)


def test_an_owner_s_waiting_request_can_be_cancelled() -> None:
    """It is answered as not executed, and the session goes on."""
    server, owner, guest = driven(hold=True)
    owner.send(m.Step(1, 2, "o"))
    failure = owner.failure(m.Cancel(1, 2))
    assert (failure.code, failure.executed) == ("cancelled", "no")
    guest.send(m.HandBack(7))
    assert owner.read() == []
    assert echoed(owner, owner.one(m.Step(1, 3, "p"))) == "p"
    assert server.executions["s1", "o"] == 0


def test_an_owner_s_waiting_request_survives_a_reconnect() -> None:
    """It is executed once, and its reply delivered to the new connection."""
    server, owner, guest = driven(hold=True)
    owner.send(m.Step(1, 2, "o"))
    owner.drop()
    again = Peer(server)
    again.send(m.Resume(1, KEY), m.Step(1, 2, "o"))
    guest.send(m.HandBack(7))
    assert [echoed(again, message) for message in again.read()] == ["o"]
    assert server.executions["s1", "o"] == 1


def test_a_waiting_request_has_a_deadline() -> None:
    """Its time counts from its arrival; when it is over, it never begins."""
    server, owner, guest = driven(hold=True)
    owner.send(m.Step(1, 2, "o", timeout=5.0))
    assert server.table.next_tick() == server.now + 5.0
    server.tick(4.9)
    assert owner.read() == []
    server.tick(0.2)
    (failure,) = owner.read()
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("deadline_exceeded", "no")
    assert server.table.next_tick() is None
    guest.send(m.HandBack(7))
    assert owner.read() == []
    assert echoed(owner, owner.one(m.Step(1, 3, "p"))) == "p"


def test_a_waiting_request_waits_since_its_arrival() -> None:
    """The time of the guest's request before it does not count."""
    server, owner, guest = driven(hold=True)
    server.slow = True
    guest.send(m.Step(7, 1, "g"))
    server.now += 50.0
    owner.send(m.Step(1, 2, "o", timeout=5.0))
    guest.send(m.HandBack(7))
    server.finish_all()
    assert server.session().since_ns == server.now * 1e9
    assert server.table.next_tick() is None


def test_a_waiting_request_goes_with_its_session() -> None:
    """Its deadline ends nothing that has ended already."""
    server, owner, _ = driven(hold=True)
    owner.send(m.Step(1, 2, "o", timeout=5.0))
    server.close(server.session(), "shutting_down")
    assert [type(message) for message in owner.read()] == [m.Ended]
    assert server.table.next_tick() is None
    server.tick(6.0)


def test_a_guest_waits_for_the_owner_s_request() -> None:
    """What was in flight at the take-over ends first, and its owner gets it."""
    server = Server()
    owner, guest = Peer(server), Peer(server)
    owner.begin()
    server.slow = True
    owner.send(m.Step(1, 2, "o"))
    guest.send(m.TakeOver(7, "s1", GUEST), m.Step(7, 1, "g"))
    server.finish_all()
    assert [echoed(owner, message) for message in owner.read()] == ["o"]
    assert guest.read() == []
    server.finish_all()
    assert [echoed(guest, message) for message in guest.read()] == ["g"]


def test_an_owner_waits_for_the_guest_s_last_request() -> None:
    """A hand-back during a request lets it end; then the owner's turn comes."""
    server, owner, guest = driven()
    server.slow = True
    guest.send(m.Step(7, 1, "g"))
    assert isinstance(guest.one(m.HandBack(7)), m.Ended)
    assert owner.send(m.Step(1, 2, "o")) == []
    server.finish_all()
    assert (owner.read(), guest.read()) == ([], [])
    server.finish_all()
    assert [echoed(owner, message) for message in owner.read()] == ["o"]


def test_a_waiting_request_is_checked_when_its_turn_comes() -> None:
    """What the guest did to the episode decides what the owner may do."""
    _, owner, guest = driven(hold=True)
    owner.send(m.Step(1, 2, "o"))
    guest.one(m.Step(7, 1, "final"))
    guest.send(m.HandBack(7))
    (failure,) = owner.read()
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.seq) == ("episode_done", 2)


def test_a_guest_cannot_close() -> None:
    """The session is its owner's to close."""
    server, owner, guest = driven()
    failure = guest.failure(m.Close(7, 1))
    assert (failure.code, failure.executed) == ("protocol_error", "no")
    assert "hand_back" in failure.message
    guest.send(m.HandBack(7))
    assert isinstance(owner.one(m.Close(1, 2)), m.Reply)
    assert server.closed == ["s1"]


def test_a_guest_s_waiting_request_ends_with_the_take_over() -> None:
    """What had not begun when the session was handed back never does."""
    server = Server()
    owner, guest = Peer(server), Peer(server)
    owner.begin()
    server.slow = True
    owner.send(m.Step(1, 2, "o"))
    guest.send(m.TakeOver(7, "s1", GUEST), m.Step(7, 1, "g"))
    failure, ended = guest.send(m.HandBack(7))
    assert isinstance(failure, m.Failure)
    assert (failure.code, failure.executed) == ("cancelled", "no")
    assert isinstance(ended, m.Ended)
    server.finish_all()
    assert server.executions["s1", "g"] == 0


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("runs", [True, False])
def test_an_owner_closes_whoever_drives(hold: bool, runs: bool) -> None:
    """The guest has to go, once what it has in flight is done."""
    server, owner, guest = driven(hold=hold)
    if runs:
        server.slow = True
        guest.send(m.Step(7, 1, "g"))
    answers = owner.send(m.Close(1, 2))
    (ended,) = guest.read()
    assert isinstance(ended, m.Ended)
    assert len(answers) == (0 if runs else 1)
    server.finish_all()
    server.finish_all()
    (reply,) = answers + owner.read()
    assert isinstance(reply, m.Reply)
    assert (server.executions["s1", "g"], server.closed) == (int(runs), ["s1"])


def test_a_guest_that_vanishes_hands_back_after_its_lease() -> None:
    """A guest may come back within its lease, but does not keep the session."""
    server, owner, guest = driven(hold=True)
    guest.drop()
    owner.send(m.Step(1, 2, "o"))
    server.tick(59)
    assert owner.read() == []
    server.tick(2)
    assert [echoed(owner, message) for message in owner.read()] == ["o"]
    assert Peer(server).failure(m.Resume(1, GUEST)).code == "unknown_session"


def test_a_guest_may_come_back() -> None:
    """A guest's channel is resumed by its key like an owner's."""
    server, _, guest = driven()
    guest.one(m.Step(7, 1, "g"))
    guest.drop()
    again = Peer(server)
    opened, reply = again.send(m.Resume(3, GUEST), m.Step(3, 1, "g"))
    assert isinstance(opened, m.Opened)
    assert (opened.seq, echoed(again, reply)) == (1, "g")
    assert server.executions["s1", "g"] == 1


def test_taking_over_again_is_the_same() -> None:
    """When the answer was lost, the same request with the same key gets it again."""
    server, _, guest = driven()
    guest.drop()
    again = Peer(server)
    opened = again.one(m.TakeOver(4, "s1", GUEST))
    assert isinstance(opened, m.Opened)
    assert opened.resumed
    assert echoed(again, again.one(m.Step(4, 1, "g"))) == "g"


def test_a_session_has_one_guest() -> None:
    """A second take-over is refused until the first one ends."""
    server, _, guest = driven()
    second = Peer(server)
    assert second.failure(m.TakeOver(2, "s1", key(5))).code == "taken_over"
    guest.send(m.HandBack(7))
    assert isinstance(second.one(m.TakeOver(2, "s1", key(5))), m.Opened)


def test_a_key_opens_one_channel() -> None:
    """An owner cannot take its own session over with the owner's key."""
    server = Server()
    owner = Peer(server)
    owner.begin()
    assert owner.failure(m.TakeOver(1, "s1", KEY)).code == "taken_over"
    # The refusal costs nothing that was there: the handle still means the session,
    # and its lease begins with the end of the connection.
    assert echoed(owner, owner.one(m.Step(1, 2, "o"))) == "o"
    owner.drop()
    server.tick(61)
    assert server.closed == ["s1"]


@pytest.mark.parametrize("session", ["s2", "", "x" * 5000])
def test_only_a_session_can_be_taken_over(session: str) -> None:
    """An unknown id is an error that shows it shortened."""
    failure = Peer(Server()).failure(m.TakeOver(1, session, GUEST))
    assert failure.code == "unknown_session"
    assert len(failure.message) < 300


def test_only_a_guest_hands_back() -> None:
    """An owner's handle, or none, cannot be handed back."""
    server = Server()
    owner = Peer(server)
    owner.begin()
    for handle in (1, 99):
        assert owner.failure(m.HandBack(handle)).code == "unknown_session"


@pytest.mark.parametrize("running", [False, True])
def test_a_guest_learns_of_the_end(running: bool) -> None:
    """When the owner's `close` ends the session, the guest's request is not lost."""
    server = Server()
    owner, guest = Peer(server), Peer(server)
    owner.begin()
    server.slow = True
    owner.send(m.Close(1, 2))
    guest.send(m.TakeOver(7, "s1", GUEST), *([m.Step(7, 1, "g")] if running else []))
    server.finish_all()
    assert isinstance(owner.read()[0], m.Reply)
    (ended,) = guest.read()
    assert isinstance(ended, m.Ended)
    assert (ended.handle, ended.code) == (7, "session_closed")


def test_a_guest_learns_that_the_owner_gave_up() -> None:
    """The session ends under the guest, which is told, whatever it was doing."""
    server, owner, guest = driven()
    server.slow = True
    guest.send(m.Step(7, 1, "g"))
    owner.send(m.Cancel(1, 0))
    (ended,) = guest.read()
    assert isinstance(ended, m.Ended)
    assert guest.failure(m.Step(7, 1, "g")).code == "unknown_session"
    assert len(server.table) == 0


def test_a_guest_that_gives_up_hands_back() -> None:
    """Number 0 from a guest ends the take-over and not the session."""
    server, owner, guest = driven(hold=True)
    owner.send(m.Step(1, 2, "o"))
    assert guest.send(m.Cancel(7, 0)) == []
    assert [echoed(owner, message) for message in owner.read()] == ["o"]
    assert server.closed == []


# Lists (7.1), progress (5.4), and what a server does by itself


def test_a_row_describes_a_session() -> None:
    """Lists show where the episode is and who is there."""
    server = Server()
    peer = Peer(server)
    session = peer.begin(owner="me" * 500)
    peer.send(m.Step(1, 2, "a"))
    server.slow = True
    peer.send(m.Step(1, 3, "b"))
    row = session.row(server.now + 5)
    assert row == m.SessionRow(
        session="s1",
        environment="echo",
        owner="me" * 100,
        state="running",
        episode=1,
        step=1,
        reward=1.0,
        age=5.0,
        busy=5.0,
        attached=True,
        taken_over=False,
    )


def test_a_row_of_a_quiet_session() -> None:
    """Without a request, a connection or a reward there is less to show."""
    server = Server()
    peer = Peer(server)
    peer.open()
    peer.drop()
    row = server.session().row(server.now)
    assert (row.state, row.busy, row.reward, row.attached) == ("new", None, None, False)


def test_progress_reaches_whoever_waits() -> None:
    """A running request reports; without one, or a connection, nothing is said."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    session.progress(0.1, "nobody waits")
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    session.progress(0.5, "half")
    assert peer.read() == [m.Progress(1, 2, 0.5, "half")]
    peer.drop()
    session.progress(0.9, "gone")
    server.finish_all()


def test_progress_is_not_said_to_a_client_that_does_not_read() -> None:
    """It would fill the memory."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    peer.protocol.send(bytes(65 << 20))
    before = peer.protocol.pending_bytes
    session.progress(0.5, "half")
    assert peer.protocol.pending_bytes == before


def test_progress_before_any_request_is_not_said() -> None:
    """A session that never ran has nobody to tell."""
    server = Server()
    peer = Peer(server)
    peer.open()
    server.session().progress(0.5, "early")
    assert peer.read() == []


@pytest.mark.parametrize("request_", [m.Reset(1, 2), m.Step(1, 2, "final")])
def test_an_observation_may_end_the_episode(request_: m.Reset | m.Step) -> None:
    """A reset or a step whose observation is final leaves the session done."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(request_)
    server.running.clear()
    session.reply(m.raw(m.MSGPACK.encode(None)), done=True, reward=2.0)
    assert (session.stage, session.reward) == (Stage.DONE, 2.0)


def test_a_step_without_a_reward_adds_none() -> None:
    """The sum of rewards changes only by rewards that there are."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    for seq, reward in ((2, None), (3, 0.5), (4, 0.25)):
        peer.send(m.Step(1, seq, "a"))
        server.running.clear()
        session.reply(m.raw(m.MSGPACK.encode(None)), reward=reward)
    assert (session.step, session.reward) == (3, 0.75)


def test_a_plain_step_without_a_reward_adds_none() -> None:
    """The short way counts rewards like the long one."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.running.clear()
    session.step_reply(Observation(truncated=True), 0)
    assert (session.stage, session.reward) == (Stage.DONE, None)


def test_a_value_that_cannot_be_encoded_changes_nothing() -> None:
    """The request is still in flight, and can be answered with an error."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    server.running.clear()
    with pytest.raises(TypeError):
        session.reply(object())
    with pytest.raises(TypeError):
        session.step_reply(Observation(object()), 0)
    assert session.request is not None
    session.fail("environment_failed", "unencodable", outcome=Outcome.BROKEN)
    assert [type(message) for message in peer.read()] == [m.Failure]


@pytest.mark.parametrize(
    "observation_",
    [
        Observation(reward="much"),  # type: ignore[arg-type]  # as environments do
        Observation(terminated=1),  # type: ignore[arg-type]  # as environments do
        Observation(truncated="yes"),  # type: ignore[arg-type]  # as environments do
    ],
)
def test_an_observation_that_is_none_changes_nothing(observation_: Observation) -> None:
    """Reward and end have their types, or the request is still in flight."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    with pytest.raises(TypeError, match="expected a"):
        session.step_reply(observation_, 0)
    assert session.request is not None


def test_a_reward_may_be_any_number() -> None:
    """An integer, or a boolean, is one."""
    server = Server()
    peer = Peer(server)
    session = peer.begin()
    server.slow = True
    peer.send(m.Step(1, 2, "a"))
    session.step_reply(Observation(reward=3), 0)
    assert session.reward == 3


@pytest.mark.parametrize(
    ("stage", "then"),
    [
        (Stage.NEW, Stage.NEW),
        (Stage.RUNNING, Stage.BROKEN),
        (Stage.DONE, Stage.BROKEN),
        (Stage.BROKEN, Stage.BROKEN),
    ],
)
def test_an_episode_may_break_by_itself(stage: Stage, then: Stage) -> None:
    """When a worker dies between requests, only an episode that ran is lost."""
    session = Session(Server().table, "s1", "echo", "", 0.0)
    session.stage = stage
    session.break_episode("worker_died")
    assert session.stage is then
    assert session.channels() == []
    session.release_held()
