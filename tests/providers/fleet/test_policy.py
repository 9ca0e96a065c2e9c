"""What a fleet decides: where sessions go, and who is alive."""

from __future__ import annotations

import itertools

import pytest

from openenv_async import AtCapacity, LocalProtocolError, ServerDied
from openenv_async.providers.fleet.members import HealthReport, Member
from tests.providers.fleet.world import World, ramped

# Ramping up


def test_ramp_starts_few_at_a_time() -> None:
    """Ten servers come up, never more than three of them at once."""
    world = World(10, concurrent_starts=3)
    world.run(5)
    assert len(world.serving) == 10
    assert world.most_starting == 3
    assert world.policy.statistics(world.now).starts == 10


def test_start_that_hangs_holds_up_no_other() -> None:
    """Servers that never come take one place each, until their time is up."""
    world = World(3, concurrent_starts=2, start_timeout=7)
    world.starting = "never"
    world.turn()
    world.starting = "well"
    world.run(6.9)
    assert not world.serving
    world.run(2)
    assert len(world.serving) == 3
    assert world.policy.statistics(world.now).start_failures == 2


def test_first_check_makes_a_server_ready() -> None:
    """A server that was started but does not answer gets no session."""
    world = World(1, start_timeout=20)
    world.run(0.5)
    (member,) = world.of("starting")
    world.ill.add(member)
    ticket = world.place()
    world.run(5)
    assert world.of("starting") == [member]
    world.ill.clear()
    world.run(1)
    assert world.granted[ticket] == [member]


def test_server_that_ends_while_it_starts_is_no_death() -> None:
    """One that dies, or shuts down, before it was ready counts as a failed start."""
    world = World(1, start_timeout=3)
    world.run(0.5)
    (first,) = world.of("starting")
    world.policy.suspect(first, world.now)
    world.policy.died(first, ServerDied("gone"), world.now)
    world.report = lambda member: HealthReport(status="draining")
    world.run(4)
    statistics = world.policy.statistics(world.now)
    assert (statistics.start_failures, statistics.deaths) == (2, {})
    assert not world.serving


# Placing


def test_sessions_go_where_fewest_are() -> None:
    """Eight sessions on four servers are two each; neighbours share a server."""
    world = ramped(4)
    places = world.placed(8)
    assert world.loads() == [2, 2, 2, 2]
    assert [one.id for one, _ in itertools.groupby(places)] == [1, 2, 3, 4]
    world.release(places[:3])
    assert world.placed(1)[0].id == 1


def test_single_sessions_go_round() -> None:
    """Placed one by one, sessions are spread just the same."""
    world = ramped(3)
    for _ in range(6):
        world.placed(1)
    assert world.loads() == [2, 2, 2]


def test_no_server_gets_more_than_its_share() -> None:
    """A full fleet lets callers wait until a place comes back."""
    world = ramped(2)
    places = world.placed(8)
    ticket = world.place(1)
    world.run(1)
    assert ticket not in world.granted
    world.release(places[:1])
    world.run(0.1)
    assert world.granted[ticket] == places[:1]
    assert world.loads() == [4, 4]


def test_nobody_is_overtaken() -> None:
    """A call for few sessions waits behind one for many."""
    world = ramped(2)
    places = world.placed(7)
    many, few = world.place(3), world.place(1)
    world.run(1)
    assert not {many, few} & set(world.granted)
    world.release(places[:2])
    world.run(0.1)
    assert many in world.granted
    assert few not in world.granted
    world.release(places[2:3])
    world.run(0.1)
    assert few in world.granted


def test_caller_that_gives_up_lets_others_through() -> None:
    """Whoever leaves the line holds up nobody behind."""
    world = ramped(1)
    world.placed(3)
    many, few = world.place(2), world.place(1)
    world.policy.line.leave(many)
    world.run(0.1)
    assert few in world.granted


def test_call_for_more_than_there_can_be_fails_at_once() -> None:
    """No wait helps, so the error is not retryable; it has the numbers."""
    world = ramped(2)
    with pytest.raises(AtCapacity, match="at most 8 sessions on 2 servers, got 9") as e:
        world.place(9)
    assert not e.value.retryable
    assert e.value.detail["max_sessions"] == 8


def test_wait_for_a_place_is_bounded() -> None:
    """After its time a caller gets the numbers, and may try again."""
    world = ramped(2)
    world.placed(8)
    ticket = world.place(2, timeout=3)
    world.run(2.9)
    assert ticket not in world.refused
    world.run(0.2)
    error = world.refused[ticket]
    assert isinstance(error, AtCapacity)
    assert error.retryable
    assert "8 of 8 places are taken on 2 servers of at most 2" in str(error)
    assert error.detail["sessions"] == 8
    assert world.policy.statistics(world.now).refused == 1


def test_place_that_came_back_does_not_come_back_again() -> None:
    """Giving a place back twice is the caller's error, and changes nothing."""
    world = ramped(1)
    places = world.placed(2)
    with pytest.raises(LocalProtocolError, match="given back before"):
        world.release([*places, places[0]])
    assert world.loads() == [2]
    world.release(places)
    assert world.loads() == [0]


# What servers say of themselves


def test_sessions_of_others_take_places() -> None:
    """A server that reports more sessions than were placed has less room."""
    world = ramped(2)
    first, second = world.serving
    world.report = lambda member: HealthReport(
        sessions=member.placed + (3 if member is first else 0)
    )
    world.run(6)
    places = world.placed(5)
    assert places.count(first) == 1
    assert places.count(second) == 4
    assert world.policy.statistics(world.now).servers[0].foreign == 3


def test_places_given_back_during_a_check_are_not_of_others() -> None:
    """A report that is older than a release does not count its sessions as foreign."""
    world = ramped(1)
    places = world.placed(4)
    world.report = lambda member: HealthReport(sessions=4)
    world.run(4.9)
    checks = len(world.checked)
    while len(world.checked) == checks:
        world.run(0.001)
    world.release(places)
    world.report = lambda member: HealthReport(sessions=member.placed)
    world.policy.reported(places[0], HealthReport(sessions=4), world.now)
    assert places[0].foreign == 0


def test_server_that_allows_less_gets_less() -> None:
    """The server's own limit binds, and is told."""
    world = World(2, sessions=10)
    world.report = lambda member: HealthReport(sessions=0, max_sessions=3)
    world.run(5)
    world.report = lambda member: HealthReport(sessions=member.placed, max_sessions=3)
    world.placed(6)
    assert world.loads() == [3, 3]
    assert "allows only 3 of 10 sessions" in world.texts
    with pytest.raises(AtCapacity):
        world.place(7)


def test_server_that_shuts_down_is_drained_and_replaced() -> None:
    """One that says it drains keeps its sessions, and another one takes its part."""
    world = ramped(1)
    places = world.placed(2)
    (old,) = world.serving
    world.report = lambda member: HealthReport(
        status="draining" if member is old else "healthy"
    )
    world.run(7)
    assert old.state == "draining"
    assert [member.id for member in world.serving] == [2]
    world.release(places)
    world.run(1)
    assert old.state == "stopped"


def test_server_that_was_restarted_is_told_of() -> None:
    """Another incarnation at the same address is counted."""
    world = World(1)
    world.report = lambda member: HealthReport(incarnation="one")
    world.run(10)
    world.report = lambda member: HealthReport(incarnation="two")
    world.run(10)
    assert world.policy.statistics(world.now).restarts == 1
    assert "was restarted: its 0 sessions are lost" in world.texts


# Who lives


def test_servers_are_checked_before_a_hand_out_unless_just_now() -> None:
    """An old check of a chosen server is repeated; a new one is not."""
    world = ramped(3, health_interval=1000, freshness=1)
    first, second, _ = world.serving
    before = len(world.checked)
    world.placed(1)
    assert world.checked[before:] == [first]
    world.run(0.5)
    world.placed(2)
    assert len(world.checked) == before + 3
    world.release([first])
    world.policy.drain(second, None)
    world.placed(1)
    assert len(world.checked) == before + 3


def test_every_hand_out_is_checked_where_that_is_asked_for() -> None:
    """With no freshness at all, a check has to begin after the call."""
    world = ramped(1, health_interval=1000, freshness=0)
    before = len(world.checked)
    world.place(1)
    world.run(0.001)
    late = world.place(1)
    world.run(0.002)
    assert late not in world.granted
    world.run(0.01)
    assert late in world.granted
    assert len(world.checked) == before + 2


def test_dead_spare_is_not_handed_out() -> None:
    """A spare that died unnoticed is found out, and the next one steps in."""
    world = ramped(0, 4, warm=2, health_interval=1000)
    first, second = world.of("spare")

    def died(member: Member) -> HealthReport:
        if member is first:
            world.policy.died(member, ServerDied("gone"), world.now)
        return HealthReport()

    world.report = died
    assert world.placed(1) == [second]
    assert world.policy.statistics(world.now).deaths == {"unknown": 1}


def test_server_that_does_not_answer_is_passed_over() -> None:
    """A hand-out waits a tenth of a second for a check, and then goes elsewhere."""
    world = ramped(2, health_interval=1000)
    mute, other = world.serving
    world.mute.add(mute)
    ticket = world.place(2)
    world.run(0.09)
    assert ticket not in world.granted
    world.run(0.02)
    assert world.granted[ticket] == [other, other]


def test_suspicion_makes_older_checks_void() -> None:
    """Where a connection was lost, the next session goes only after a new check."""
    world = ramped(1)
    (member,) = world.serving
    world.placed(1)
    world.ill.add(member)
    world.policy.suspect(member, world.now)
    ticket = world.place(1)
    world.run(0.5)
    assert ticket not in world.granted


def test_checks_that_fail_in_a_row_are_a_death() -> None:
    """After the third one the server is given up and replaced; two are forgiven."""
    world = ramped(1)
    (member,) = world.serving
    places = world.placed(3)
    world.ill.add(member)
    while member.failures < 2:
        world.run(0.1)
    world.ill.clear()
    world.run(5)
    assert world.serving == [member]
    world.ill.add(member)
    world.run(20)
    assert [member.id for member in world.serving] == [2]
    assert member.death is not None
    assert "failed 3 health checks in a row, the last: no answer" in str(member.death)
    assert world.policy.statistics(world.now).deaths == {"unhealthy": 1}
    world.release(places)


def test_spare_steps_in_for_one_in_doubt() -> None:
    """While a check of a server fails a spare serves, and steps back afterwards."""
    world = ramped(1, warm=1)
    (doubtful,), (spare,) = world.serving, world.of("spare")
    world.ill.add(doubtful)
    while not doubtful.failures:
        world.run(0.1)
    assert world.placed(1) == [spare]
    world.ill.clear()
    world.run(3)
    assert doubtful.failures == 0
    assert len(world.policy.roster.members) == 2
    assert [member.state for member in (doubtful, spare)] == ["spare", "serving"]


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        ({"exit_code": -9}, "signal 9"),
        ({"exit_code": 137, "oom_killed": True}, "out of memory"),
        ({"exit_code": 3}, "exit status 3"),
        ({}, "unknown"),
    ],
)
def test_deaths_are_counted_by_cause(detail: dict[str, object], cause: str) -> None:
    """The cause is what the provider found out."""
    world = ramped(1)
    (member,) = world.serving
    world.policy.died(member, ServerDied("gone", detail=detail), world.now)
    world.run(1)
    assert world.policy.statistics(world.now).deaths == {cause: 1}
