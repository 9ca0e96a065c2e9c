"""What a fleet decides: which servers come, and which go."""

from __future__ import annotations

import itertools

import pytest

from openenv_async import LocalProtocolError, ProviderError, ServerDied
from openenv_async.providers.fleet.members import HealthReport
from openenv_async.providers.fleet.settings import FleetSize
from tests.providers.fleet.world import World, ramped

# Replacing


def test_sessions_on_a_dead_server_are_lost_and_no_others() -> None:
    """A death frees no place elsewhere, and its places still come back."""
    world = ramped(4)
    places = world.placed(16)
    dead = world.serving[1]
    world.policy.died(dead, ServerDied("gone"), world.now)
    world.turn()
    assert world.loads() == [4, 4, 4]
    lost = [place for place in places if place is dead]
    ticket = world.place(len(lost))
    world.release(lost)
    world.run(2)
    assert {member.id for member in world.granted[ticket]} == {5}
    assert world.loads() == [4, 4, 4, 4]


def test_replacements_are_limited_in_rate() -> None:
    """Servers that die as soon as they serve are not started over and over."""
    world = ramped(2, replacement_burst=3, replacement_rate=0.1, health_interval=1)
    world.starts.clear()
    for _ in range(600):
        for member in world.serving:
            world.policy.died(member, ServerDied("gone"), world.now)
        world.run(0.1)
    assert 3 + 5 <= len(world.starts) <= 3 + 6


def test_growing_is_not_limited_in_rate() -> None:
    """Only what replaces the dead takes a token."""
    world = ramped(1, 8, replacement_burst=1, replacement_rate=0.001)
    world.place(32)
    world.run(3)
    assert len(world.serving) == 8


def test_warm_spare_replaces_a_dead_server_at_once() -> None:
    """The spare serves in the same turn, and another one is started."""
    world = ramped(2, warm=1)
    (spare,) = world.of("spare")
    world.policy.died(world.serving[0], ServerDied("gone"), world.now)
    world.turn()
    assert spare in world.serving
    world.run(2)
    assert [member.id for member in world.of("spare")] == [4]


# The breaker


def test_breaker_stops_starts_that_keep_failing() -> None:
    """After three failures there are pauses, each twice as long as the one before."""
    world = World(1, breaker_pause=2, breaker_longest_pause=10, replacement_burst=100)
    world.starting = "badly"
    world.run(60)
    gaps = [after - before for before, after in itertools.pairwise(world.starts)]
    assert gaps[:7] == pytest.approx([0.5, 0.5, 2.5, 4.5, 8.5, 10.5, 10.5])
    statistics = world.policy.statistics(world.now)
    assert statistics.breaker == "open"
    assert statistics.failures_in_a_row == statistics.start_failures
    assert any("starts nothing for 2 s: 3 starts failed" in t for t in world.texts)


def test_breaker_tries_one_at_a_time_and_closes() -> None:
    """After the pause one start decides for all."""
    world = World(6, concurrent_starts=4, breaker_pause=5)
    world.starting = "badly"
    world.run(1)
    assert len(world.starts) == 4
    world.starting = "well"
    world.run(5)
    assert len(world.starts) == 5
    world.run(3)
    assert len(world.serving) == 6
    assert world.policy.statistics(world.now).breaker == "closed"


def test_place_fails_fast_while_the_breaker_is_open() -> None:
    """Nobody waits for servers that do not start; the error says why they don't."""
    world = World(1, breaker_pause=30)
    world.starting = "badly"
    waiting = world.place(1)
    world.run(2)
    late = world.place(1)
    for ticket in (waiting, late):
        error = world.refused[ticket]
        assert isinstance(error, ProviderError)
        assert error.retryable
        assert "3 starts failed in a row" in str(error)
        assert "out of luck" in str(error)
        assert error.log == "last words"
        assert error.detail["failures"] == 3
        assert error.__cause__ is world.policy.breaker.cause


def test_open_breaker_does_not_refuse_what_running_servers_can_do() -> None:
    """While servers run, a caller waits for their places as before."""
    world = ramped(1, 2, breaker_pause=60)
    places = world.placed(4)
    world.starting = "badly"
    ticket, too_many = world.place(1), world.place(5)
    world.run(10)
    assert world.policy.statistics(world.now).breaker == "open"
    assert isinstance(world.refused[too_many], ProviderError)
    world.release(places[:1])
    world.run(1)
    assert ticket in world.granted


def test_empty_fleet_tries_again_for_a_caller_after_the_pause() -> None:
    """With no server needed otherwise, the next call is what starts one."""
    world = World(0, 1, breaker_pause=5, shrink_after=1)
    world.starting = "badly"
    first = world.place(1)
    world.run(30)
    assert first in world.refused
    tries = len(world.starts)
    world.starting = "well"
    world.run(60)
    assert len(world.starts) == tries
    second = world.place(1)
    world.run(1)
    assert second in world.granted


# Growing and shrinking


def test_fleet_grows_with_demand_up_to_its_bound() -> None:
    """As many servers as the sessions need come, and no more than allowed."""
    world = ramped(1, 3)
    world.placed(4)
    tickets = [world.place(5), world.place(3), world.place(1)]
    world.run(3)
    assert len(world.serving) == 3
    assert [ticket in world.granted for ticket in tickets] == [True, True, False]


def test_fleet_shrinks_when_the_demand_stays_low() -> None:
    """Not before the whole window has passed; then the emptiest servers go."""
    world = ramped(1, 4, shrink_after=30)
    world.place(16)
    world.run(2)
    (places,) = world.granted.values()
    world.release(places[1:])
    world.run(29)
    assert len(world.serving) == 4
    world.run(2)
    assert len(world.policy.roster.members) == 1
    assert world.serving == places[:1]


def test_demand_that_comes_and_goes_stops_no_server() -> None:
    """The most that was needed in the window counts."""
    world = ramped(1, 4, shrink_after=30)
    for _ in range(10):
        ticket = world.place(16)
        world.run(2)
        world.release(world.granted[ticket])
        world.run(20)
    assert len(world.starts) == 4


def test_server_that_is_not_needed_keeps_its_sessions() -> None:
    """A shrinking fleet lets sessions end; if demand returns, so does the server."""
    world = ramped(1, 2, shrink_after=10)
    ticket = world.place(8)
    world.run(2)
    first, second = world.serving
    places = world.granted[ticket]
    world.release([place for place in places if place is second][:3])
    world.release([place for place in places if place is first][:1])
    world.run(20)
    assert [member.state for member in (first, second)] == ["serving", "draining"]
    again = world.place(3)
    world.run(0.5)
    assert set(world.granted[again]) == {first, second}
    assert len(world.starts) == 2


def test_warm_spares_are_beside_those_that_serve() -> None:
    """Spares get no session until they are needed, and are then made up for."""
    world = ramped(1, 3, warm=2)
    assert (len(world.serving), len(world.of("spare"))) == (1, 2)
    world.placed(4)
    assert world.loads() == [4]
    world.placed(1)
    assert len(world.serving) == 2
    world.run(2)
    assert len(world.of("spare")) == 2
    world.placed(7)
    world.run(2)
    assert (len(world.serving), len(world.of("spare"))) == (3, 2)


def test_server_in_doubt_does_not_keep_waiting_callers() -> None:
    """While sessions wait, a fleet that may grow starts another one."""
    world = ramped(1, 2, health_failures=1000)
    world.ill.update(world.serving)
    world.run(6)
    assert len(world.starts) == 1
    ticket = world.place(1)
    world.run(1)
    assert [member.id for member in world.granted[ticket]] == [2]


def test_resize_grows_and_shrinks_without_losing_sessions() -> None:
    """Bounds change at once; servers that are too many drain."""
    world = ramped(2)
    places = world.placed(8)
    world.policy.resize(FleetSize(least=4, most=4, sessions=4))
    world.run(2)
    assert len(world.serving) == 4
    world.policy.resize(FleetSize(least=1, most=1, sessions=4))
    world.run(2)
    assert (len(world.serving), len(world.of("draining"))) == (1, 1)
    world.release(places)
    world.run(1)
    assert len(world.policy.roster.members) == 1


# Draining


def test_drained_server_ends_when_its_sessions_have() -> None:
    """It gets no new ones, another one is started, and it stops without any."""
    world = ramped(1)
    places = world.placed(1)
    (old,) = world.serving
    world.policy.drain(old, None)
    later = world.place(1)
    world.run(100)
    assert old.state == "draining"
    assert world.granted[later] != places
    world.release(places)
    world.run(1)
    assert old.state == "stopped"
    assert world.policy.statistics(world.now).drained == 1
    assert world.policy.statistics(world.now).deaths == {}


def test_draining_ends_at_its_deadline() -> None:
    """Sessions that are left by then are lost, and can be told why."""
    world = ramped(1)
    (old,) = world.placed(1)
    world.policy.drain(old, world.now + 10)
    world.run(9.9)
    assert old.state == "draining"
    world.run(1)
    assert old.state == "stopped"
    assert "had 1 sessions when its draining had to end" in str(old.death)


def test_server_that_dies_while_it_drains_is_not_replaced_again() -> None:
    """Its part was taken when the draining began."""
    world = ramped(1)
    (old,) = world.placed(1)
    world.policy.drain(old, None)
    world.run(2)
    world.policy.died(old, ServerDied("gone"), world.now)
    world.run(2)
    assert len(world.starts) == 2
    assert world.policy.statistics(world.now).deaths == {"unknown": 1}


def test_server_that_is_told_to_stop_is_replaced() -> None:
    """Stopping one does not wait for its sessions, and is not counted as a death."""
    world = ramped(1)
    (old,) = world.placed(1)
    world.policy.retire(old)
    world.policy.retire(old)
    world.run(2)
    assert old.state == "stopped"
    assert [member.id for member in world.serving] == [2]
    statistics = world.policy.statistics(world.now)
    assert (statistics.drained, statistics.deaths) == (1, {})


# Stopping


def test_stop_that_hangs_holds_up_no_other() -> None:
    """A server that does not stop is shown, and its place is taken all the same."""
    world = ramped(2, stop_timeout=20)
    world.stopping = "never"
    world.policy.retire(world.serving[0])
    world.run(2)
    assert len(world.serving) == 2
    assert world.policy.statistics(world.now).overdue_stops == 0
    world.run(20)
    statistics = world.policy.statistics(world.now)
    assert (statistics.overdue_stops, statistics.replicas["stopping"]) == (1, 1)


def test_stop_that_fails_is_told() -> None:
    """The error is counted and logged, and the fleet goes on."""
    world = ramped(1)
    world.stopping = "badly"
    world.policy.retire(world.serving[0])
    world.run(2)
    assert world.policy.statistics(world.now).stop_failures == 1
    assert "could not be stopped: stuck" in world.texts
    assert len(world.serving) == 1


def test_close_ends_everything() -> None:
    """Waiting calls fail, starts are aborted, servers stop and none comes after."""
    world = World(3, concurrent_starts=1)
    ticket = world.place(12)
    world.run(0.8)
    assert (len(world.serving), len(world.of("starting"))) == (1, 1)
    world.policy.close()
    world.run(0.5)
    assert isinstance(world.refused[ticket], LocalProtocolError)
    assert not world.policy.roster.members
    world.run(100)
    assert len(world.starts) == 2


def test_late_news_of_a_server_that_is_gone_changes_nothing() -> None:
    """Answers and deaths that arrive after the end are ignored."""
    world = ramped(1)
    (old,) = world.serving
    world.policy.retire(old)
    world.run(2)
    world.policy.reported(old, HealthReport(sessions=4), world.now)
    world.policy.check_failed(old, "no answer", world.now)
    world.policy.died(old, ServerDied("gone"), world.now)
    world.policy.start_failed(old, ProviderError("no"), world.now)
    world.policy.drain(old, None)
    world.policy.retire(old)
    world.run(2)
    assert old.state == "stopped"
    statistics = world.policy.statistics(world.now)
    assert (statistics.deaths, statistics.start_failures) == ({}, 0)


# Numbers


def test_statistics_say_what_there_is() -> None:
    """Servers by state, sessions, places, waits and starts are in one value."""
    world = ramped(2, warm=1)
    world.placed(7)
    world.place(2)
    world.run(1)
    statistics = world.policy.statistics(world.now)
    assert statistics.replicas == {
        "starting": 0,
        "spare": 1,
        "serving": 2,
        "draining": 0,
        "stopping": 0,
    }
    assert (statistics.sessions, statistics.places, statistics.placed) == (7, 8, 7)
    assert (statistics.waiting_calls, statistics.waiting_sessions) == (1, 2)
    assert statistics.start_seconds.count == 3
    assert statistics.start_seconds.p50 == pytest.approx(0.502)
    assert 0 < statistics.place_seconds.longest < 0.1
    assert [server.sessions for server in statistics.servers] == [4, 3, 0]
