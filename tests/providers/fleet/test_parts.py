"""The pieces of a fleet's policy, each for itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import LocalProtocolError, LocalProvider, ProviderError
from openenv_async.providers.fleet import Fleet, FleetSettings, Percentiles
from openenv_async.providers.fleet.breaker import Breaker, BreakerState, TokenBucket
from openenv_async.providers.fleet.demand import DemandWindow
from openenv_async.providers.fleet.members import Member, ReplicaState, spread

# Sizes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"replicas": 0}, "at least one replica, got 0"),
        ({"replicas": 2, "max_replicas": 3}, "got both"),
        ({"min_replicas": 3, "max_replicas": 2}, "got 3 and 2"),
        ({"min_replicas": -1}, "got -1 and 1"),
        ({"max_replicas": 0}, "got 0 and 0"),
        ({"sessions_per_replica": 0}, "sessions_per_replica of at least 1, got 0"),
        ({"warm": -1}, "warm of at least 0, got -1"),
        ({"warm": True}, "warm to be a whole number, got True"),
        ({"replicas": 2.5}, "replicas to be a whole number, got 2.5"),
        ({"min_replicas": "1"}, "min_replicas to be a whole number, got '1'"),
        ({"max_replicas": 2.0}, "max_replicas to be a whole number, got 2.0"),
        ({"sessions_per_replica": "4"}, "sessions_per_replica to be .* got '4'"),
        ({"place_timeout": -1}, "place_timeout of at least 0, got -1"),
        ({"place_timeout": float("nan")}, "place_timeout of at least 0, got nan"),
    ],
)
def test_fleet_refuses_numbers_out_of_range(options: dict[str, Any], text: str) -> None:
    """The error names the value and what was expected."""
    with pytest.raises(LocalProtocolError, match=text):
        Fleet(LocalProvider("echo_env"), **{"sessions_per_replica": 1, **options})


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 1, 1),
        ({"replicas": 4}, 4, 4),
        ({"min_replicas": 3}, 3, 3),
        ({"max_replicas": 3}, 1, 3),
        ({"min_replicas": 0, "max_replicas": 2}, 0, 2),
    ],
)
def test_fleet_takes_a_number_or_bounds(
    options: dict[str, Any], least: int, most: int
) -> None:
    """One number is both bounds; a missing bound has a sensible value."""
    fleet = Fleet(LocalProvider("echo_env"), sessions_per_replica=1, **options)
    statistics = fleet.statistics()
    assert (statistics.least, statistics.most) == (least, most)
    assert fleet.replicas == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrent_starts", 0),
        ("health_failures", 0),
        ("breaker_failures", 0),
        ("replacement_burst", 0),
        ("replacement_rate", 0),
        ("start_timeout", -1),
        ("start_timeout", float("nan")),
        ("start_timeout", None),
        ("health_failures", 1.5),
    ],
)
def test_settings_refuse_values_out_of_range(name: str, value: float) -> None:
    """The error names the setting."""
    with pytest.raises(LocalProtocolError, match=name):
        FleetSettings(**{name: value})  # type: ignore[arg-type]  # any of them


# The breaker


def _opened() -> Breaker:
    breaker = Breaker(2, 1.0, 3.0)
    for start in (1, 2):
        breaker.began(start)
        breaker.failed(start, ProviderError("no"), 10.0)
    return breaker


def test_breaker_opens_after_failures_in_a_row() -> None:
    """A success in between begins the count anew."""
    breaker = Breaker(2, 1.0, 3.0)
    breaker.failed(1, ProviderError("no"), 10.0)
    breaker.succeeded()
    breaker.failed(2, ProviderError("no"), 10.0)
    assert breaker.state(10.0) is BreakerState.CLOSED
    breaker.failed(3, ProviderError("no"), 10.0)
    assert breaker.state(10.0) is BreakerState.OPEN
    assert not breaker.allows(10.9)


def test_breaker_that_is_half_open_lets_one_start_through() -> None:
    """Its failure opens it for longer, up to the bound."""
    breaker = _opened()
    now = 10.0
    for pause in (1.0, 2.0, 3.0, 3.0):
        assert breaker.until - now == pytest.approx(pause)
        now = breaker.until
        assert breaker.state(now) is BreakerState.HALF_OPEN
        assert breaker.allows(now)
        breaker.began(9)
        assert not breaker.allows(now)
        breaker.failed(9, ProviderError("no"), now)


def test_breaker_is_not_opened_again_by_starts_from_before() -> None:
    """Failures of starts that were under way neither prolong a pause nor decide."""
    breaker = _opened()
    breaker.failed(3, ProviderError("no"), 10.9)
    assert breaker.until == 11.0
    breaker.began(4)
    breaker.failed(3, ProviderError("no"), 11.0)
    assert breaker.state(11.0) is BreakerState.HALF_OPEN
    breaker.succeeded()
    assert breaker.state(11.0) is BreakerState.CLOSED
    assert breaker.failures == 0


def test_breaker_forgets_a_trial_that_told_nothing() -> None:
    """If the start that should decide is called off, the next one decides."""
    breaker = _opened()
    breaker.began(4)
    breaker.forget(3)
    assert not breaker.allows(11.0)
    breaker.forget(4)
    assert breaker.allows(11.0)


# The bucket


def test_bucket_gives_a_burst_and_then_a_rate() -> None:
    """It refuses until the time that it names, and not longer."""
    bucket = TokenBucket(0.1, 2, 0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.ready_at() == pytest.approx(10.0)
    assert not bucket.take(9.9)
    assert bucket.take(bucket.ready_at())
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


@given(
    rate=st.floats(0.01, 100),
    burst=st.integers(1, 5),
    waits=st.lists(st.floats(0, 50), min_size=1, max_size=50),
)
def test_bucket_never_gives_more_than_it_may(
    rate: float, burst: int, waits: list[float]
) -> None:
    """However it is asked, no more tokens come than the burst and the rate allow."""
    bucket = TokenBucket(rate, burst, 0.0)
    now, taken = 0.0, 0
    for wait in waits:
        now += wait
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 0.01


# The window


@given(
    steps=st.lists(
        st.tuples(st.floats(0.01, 20), st.integers(0, 9)), min_size=1, max_size=60
    )
)
def test_window_is_the_maximum_of_what_held_in_it(
    steps: list[tuple[float, int]],
) -> None:
    """It agrees with looking at the whole history each time."""
    window = DemandWindow(10.0)
    history: list[tuple[float, float, int]] = []
    now, current = 0.0, 0
    for index, (wait, value) in enumerate(steps):
        if index:
            history.append((now, now + wait, current))
        now, current = now + wait, value
        found = window.note(value, now)
        held = [one for _, end, one in history if now < end + 10.0]
        assert found == max([value, *held])
        changes_at = window.changes_at()
        assert (changes_at is None) == (found == value)
        assert changes_at is None or changes_at > now


# Spreading


@given(loads=st.lists(st.integers(0, 6), min_size=1, max_size=8), share=st.floats(0, 1))
def test_spread_levels_the_loads(loads: list[int], share: float) -> None:
    """No member gets a session while another one with room has less."""
    members = [
        Member(id=index, began=0.0, state=ReplicaState.SERVING, placed=load)
        for index, load in enumerate(loads)
    ]
    count = int(share * sum(member.room(5) for member in members))
    places = spread(count, members, 5)
    assert len(places) == count
    for member in places:
        member.placed += 1
    for member in set(places):
        assert member.placed <= 5
        lowest = min((m.placed for m in members if m.room(5)), default=member.placed)
        assert member.placed <= lowest + 1


# Percentiles


def test_percentiles_are_values_that_were_measured() -> None:
    """Half of the samples are at most the median; nothing measured is all zero."""
    assert Percentiles.of([]) == Percentiles()
    found = Percentiles.of(range(1, 101))
    assert (found.count, found.p50, found.p90, found.p99) == (100, 50, 90, 99)
    assert found.longest == 100
    assert Percentiles.of([2.0]).p50 == 2.0
