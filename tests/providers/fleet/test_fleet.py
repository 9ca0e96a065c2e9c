"""A fleet does what its policy says, and stays usable whatever its servers do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from openenv_async import (
    AtCapacity,
    LocalProtocolError,
    Placer,
    ProviderError,
    ServerDied,
)
from openenv_async.providers.fleet import Fleet, FleetSettings, FleetStatistics
from tests.providers.fleet.scripted import ScriptedProvider, scripted
from tests.serving import eventually

_QUICK: dict[str, Any] = {
    "health_interval": 0.05,
    "health_timeout": 0.25,
    "start_timeout": 0.3,
    "stop_timeout": 0.3,
    "breaker_pause": 0.2,
}


def _fleet(
    provider: ScriptedProvider,
    *,
    sessions: int = 4,
    place_timeout: float = 5.0,
    quick: dict[str, Any] | None = None,
    **options: Any,
) -> Fleet:
    settings = FleetSettings(**{**_QUICK, **(quick or {})})
    return Fleet(
        provider,
        sessions_per_replica=sessions,
        place_timeout=place_timeout,
        settings=settings,
        **options,
    )


def _count(fleet: Fleet, state: str) -> int:
    return fleet.statistics().replicas[state]


# Opening and closing


async def test_fleet_serves_when_it_opens_and_leaves_nothing() -> None:
    """All servers are there after opening, and none after leaving."""
    async with scripted() as provider:
        async with _fleet(provider, replicas=3) as fleet:
            assert isinstance(fleet, Placer)
            assert len(fleet.replicas) == len(provider.servers) == 3
            places = await fleet.place(6)
            assert len({place.url for place in places}) == 3
        assert len(fleet.replicas) == 0
        await fleet.release(places)


async def test_fleet_can_be_opened_again() -> None:
    """Closing is idempotent; while it is open, it is not opened twice."""
    async with scripted() as provider:
        fleet = _fleet(provider)
        await fleet.aclose()
        for _ in range(2):
            async with fleet:
                await fleet.release(await fleet.place(1))
                with pytest.raises(LocalProtocolError, match="not open yet"):
                    await fleet.open()
            await fleet.aclose()
        assert fleet.statistics().placed == 1


async def test_fleet_that_is_not_open_places_nothing() -> None:
    """Before and after, the caller is told to open it."""
    async with scripted() as provider:
        fleet = _fleet(provider)
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="async with"):
                await fleet.place(1)
            async with fleet:
                pass


async def test_opening_fails_when_no_server_starts() -> None:
    """The error has the last cause; nothing is left."""
    async with scripted() as provider:
        provider.before_start = provider.fail
        with pytest.raises(ProviderError, match="no luck today") as caught:
            await _fleet(provider, replicas=2).open()
        assert caught.value.log == "last words"
        assert isinstance(caught.value.__cause__, ProviderError)


async def test_start_that_hangs_does_not_hold_up_opening() -> None:
    """Past the ramp timeout the fleet opens with the servers that are there."""

    async def hang(number: int) -> None:
        if number == 2:
            await anyio.sleep_forever()

    async with scripted() as provider:
        provider.before_start = hang
        quick = {"ramp_timeout": 0.1, "start_timeout": 60}
        async with _fleet(provider, replicas=3, quick=quick) as fleet:
            assert (_count(fleet, "serving"), _count(fleet, "starting")) == (2, 1)


async def test_start_that_hangs_is_given_up_and_repeated() -> None:
    """After the start timeout another server is started in its place."""

    async def hang(number: int) -> None:
        if number == 1:
            await anyio.sleep_forever()

    async with scripted() as provider:
        provider.before_start = hang
        async with _fleet(provider, quick={"ramp_timeout": 0.01}) as fleet:
            statistics = fleet.statistics()
            assert (statistics.starts, statistics.start_failures) == (2, 1)


async def test_server_of_a_start_that_ignored_its_end_is_stopped() -> None:
    """A provider that goes on when it is cancelled leaves no server behind."""
    release = anyio.Event()

    async def ignore(number: int) -> None:
        if number == 1:
            with anyio.CancelScope(shield=True):
                await release.wait()

    async with scripted() as provider:
        provider.before_start = ignore
        async with _fleet(provider, quick={"ramp_timeout": 0.01}) as fleet:
            assert _count(fleet, "stopping") == 1
            release.set()
            await eventually(lambda: not _count(fleet, "stopping"))
            assert len(provider.servers) == 1


async def test_provider_that_breaks_its_promise_does_not_break_the_fleet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Errors of the wrong kind are logged, and count as failures."""

    async def wrong(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError

    async with scripted() as provider:
        provider.before_start = wrong
        async with _fleet(provider) as fleet:
            assert fleet.statistics().start_failures == 1
            (server,), (replica,) = provider.servers, fleet.replicas
            server.stop_error = ZeroDivisionError()
            await replica.stop()
            assert fleet.statistics().stop_failures == 1
            server.stop_error = None
            await server.stop()
    assert caplog.text.count("ZeroDivisionError") >= 2


async def test_server_that_cannot_be_stopped_is_counted() -> None:
    """The provider's error is logged, and the fleet goes on without the server."""
    async with scripted() as provider:
        async with _fleet(provider) as fleet:
            (server,) = provider.servers
            server.stop_error = ProviderError("the engine refuses")
            await fleet.replicas[0].stop()
            assert fleet.statistics().stop_failures == 1
            await fleet.release(await fleet.place(4))
        server.stop_error = None
        await server.stop()


async def test_start_that_is_not_needed_any_more_is_not_begun() -> None:
    """What was asked for and taken back in one turn reaches no provider."""
    async with scripted() as provider, _fleet(provider) as fleet:
        fleet.resize(4, 4)
        assert _count(fleet, "starting") == 3
        fleet.resize(1, 1)
        await eventually(lambda: not _count(fleet, "stopping"))
        assert provider.starts == 1


async def test_stop_that_hangs_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Closing stops all that can be stopped, and leaves the rest with a warning."""
    async with scripted() as provider:
        fleet = _fleet(provider, replicas=3)
        async with fleet:
            stuck = provider.servers[1]
            stuck.may_stop.clear()
            closing = asyncio.ensure_future(fleet.aclose())  # noqa: TID251 (awaited below)
            await eventually(lambda: provider.servers == [stuck])
            await closing
        stuck.may_stop.set()
        await stuck.stop()
    assert "replica 2 was left: it does not stop" in caplog.text


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.01])
async def test_cancelling_the_opening_leaves_nothing(delay: float) -> None:
    """Whenever it is cancelled, every server is stopped."""
    async with scripted() as provider:
        fleet = _fleet(provider, replicas=4)
        opening = asyncio.ensure_future(fleet.open())  # noqa: TID251 (cancelled below)
        await asyncio.sleep(delay)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
            # It was too late: it is open.
            await fleet.aclose()
            raise asyncio.CancelledError


async def test_closing_completes_although_it_is_cancelled_twice() -> None:
    """The cancellation comes out when all servers are stopped."""
    async with scripted() as provider:
        fleet = _fleet(provider, replicas=2)
        await fleet.open()
        for server in provider.servers:
            server.may_stop.clear()
        closing = asyncio.ensure_future(fleet.aclose())  # noqa: TID251 (awaited below)
        second = asyncio.ensure_future(fleet.aclose())  # noqa: TID251 (awaited below)
        for _ in range(2):
            await asyncio.sleep(0.01)
            closing.cancel()
        for server in provider.servers:
            server.may_stop.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await second
        assert provider.servers == []


async def test_body_s_own_exception_comes_out() -> None:
    """An exception stops the servers as well."""
    async with scripted() as provider:
        with pytest.raises(ZeroDivisionError):
            async with _fleet(provider, replicas=2):
                raise ZeroDivisionError


# Placing


async def test_warm_spare_is_handed_out_within_milliseconds() -> None:
    """A fleet with spares needs no start for a new session, only a check."""
    async with scripted() as provider:
        provider.before_start = lambda _number: anyio.sleep(0.2)
        quick = {"start_timeout": 5, "health_interval": 60}
        async with _fleet(
            provider, quick=quick, min_replicas=0, max_replicas=3, warm=3, sessions=1
        ) as fleet:
            # Nothing has to serve yet, so opening waits for nothing.
            assert _count(fleet, "starting") == 3
            await eventually(lambda: _count(fleet, "spare") == 3)
            took = []
            for _ in range(3):
                began = time.perf_counter()
                await fleet.place(1)
                took.append(time.perf_counter() - began)
            assert sorted(took)[1] < 0.02
            assert fleet.statistics().place_seconds.count == 3


async def test_place_waits_for_room_in_order() -> None:
    """Callers are served one after the other as places come back."""
    async with scripted() as provider, _fleet(provider, sessions=1) as fleet:
        held = await fleet.place(1)
        order: list[int] = []

        async def call(number: int) -> None:
            places = await fleet.place(1)
            order.append(number)
            await fleet.release(places)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(call, number)
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            assert order == []
            assert fleet.statistics().waiting_calls == 5
            await fleet.release(held)
        assert order == [0, 1, 2, 3, 4]


async def test_place_gives_up_in_time() -> None:
    """When no place comes back, the error has the numbers."""
    async with scripted() as provider:
        async with _fleet(provider, replicas=2, place_timeout=0.05) as fleet:
            await fleet.place(8)
            with pytest.raises(AtCapacity, match="8 of 8 places") as caught:
                await fleet.place(1)
            assert caught.value.detail["sessions"] == 8
            with pytest.raises(AtCapacity, match="at most 8"):
                await fleet.place(9)
            with pytest.raises(LocalProtocolError, match="at least one session"):
                await fleet.place(0)


@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_a_place_leaves_nothing_taken(turns: int) -> None:
    """While it waits, and in the very turn in which the places come."""
    async with scripted() as provider, _fleet(provider) as fleet:
        held = await fleet.place(3)
        waiting = asyncio.ensure_future(fleet.place(2))  # noqa: TID251 (cancelled below)
        await asyncio.sleep(0.01)
        await fleet.release(held)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await fleet.release(await waiting)
        statistics = fleet.statistics()
        assert (statistics.sessions, statistics.waiting_calls) == (0, 0)
        assert len(await fleet.place(4)) == 4


@pytest.mark.parametrize("then", ["nothing", "places", "timeout"])
async def test_cancelling_a_wait_leaves_nothing_taken(then: str) -> None:
    """Also when places, or the end of its time, come before it has noticed."""
    async with scripted() as provider, _fleet(provider, place_timeout=0.1) as fleet:
        held = await fleet.place(4)
        waiting = asyncio.ensure_future(fleet.place(1))  # noqa: TID251 (cancelled below)
        await asyncio.sleep(0.01)
        waiting.cancel()
        if then == "places":
            await fleet.release(held)
        elif then == "timeout":
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                pass
            fleet.resize(1, 1)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        statistics = fleet.statistics()
        assert statistics.sessions == (0 if then == "places" else 4)
        assert statistics.waiting_calls == 0


async def test_closing_ends_the_wait_for_places() -> None:
    """Whoever waits gets an error instead of waiting for ever."""
    async with scripted() as provider:
        async with _fleet(provider) as fleet:
            await fleet.place(4)
            waiting = asyncio.ensure_future(fleet.place(1))  # noqa: TID251 (awaited below)
            await asyncio.sleep(0.01)
        with pytest.raises(LocalProtocolError, match="closed during the call"):
            await waiting


async def test_place_fails_fast_while_nothing_starts() -> None:
    """An open breaker is told at once, with its cause; it closes by itself."""
    async with scripted() as provider:
        async with _fleet(provider, min_replicas=0, max_replicas=1) as fleet:
            provider.before_start = provider.fail
            with pytest.raises(ProviderError, match="3 starts failed in a row"):
                await fleet.place(1)
            began = time.perf_counter()
            with pytest.raises(ProviderError, match="no luck today"):
                await fleet.place(1)
            assert time.perf_counter() - began < 0.1
            assert fleet.statistics().breaker == "open"
            provider.before_start = None
            await asyncio.sleep(0.25)
            assert len(await fleet.place(1)) == 1
            assert fleet.statistics().breaker == "closed"


async def test_places_of_others_are_refused() -> None:
    """Only what this fleet handed out comes back, and only once."""
    async with scripted() as provider, _fleet(provider) as fleet:
        with pytest.raises(LocalProtocolError, match="expected replicas"):
            await fleet.release([provider.servers[0]])
        places = await fleet.place(1)
        await fleet.release(places)
        with pytest.raises(LocalProtocolError, match="given back before"):
            await fleet.release(places)


async def test_fleet_belongs_to_its_event_loop() -> None:
    """A call from another loop is an error, not a hang."""
    caught: list[BaseException] = []

    def elsewhere(fleet: Fleet) -> None:
        try:
            asyncio.run(_place(fleet))
        except LocalProtocolError as error:
            caught.append(error)

    async def _place(fleet: Fleet) -> None:
        await fleet.place(1)

    async with scripted() as provider, _fleet(provider) as fleet:
        thread = threading.Thread(target=elsewhere, args=(fleet,))
        thread.start()
        await eventually(lambda: not thread.is_alive())
    assert "event loop that opened the fleet" in str(caught[0])


# Servers that die


async def test_client_that_lost_a_server_learns_why() -> None:
    """Its diagnosis has the provider's facts, also after the remains are gone."""
    async with scripted() as provider:
        quick = {"health_interval": 60}
        async with _fleet(provider, replicas=2, quick=quick) as fleet:
            first, second = (await fleet.place(2))[:2]
            assert await first.diagnose() is None
            await provider.servers[0].die(ServerDied("boom", detail={"exit_code": 3}))
            death = await first.diagnose()
            assert death is not None
            assert death.exit_code == 3
            await eventually(lambda: _count(fleet, "serving") == 2)
            assert await first.diagnose() is death
            assert await second.diagnose() is None
            assert fleet.statistics().deaths == {"exit status 3": 1}
            assert first.sessions == 1
            await fleet.release([first, second])


async def test_death_is_noticed_without_a_client() -> None:
    """Health checks find a server that ended, and one that does not answer."""
    async with scripted() as provider:
        async with _fleet(provider, replicas=2) as fleet:
            dead, mute = provider.servers
            await dead.die()
            mute.answers.clear()
            await eventually(
                lambda: fleet.statistics().deaths == {"signal 9": 1, "unhealthy": 1}
            )
            await eventually(lambda: _count(fleet, "serving") == 2)
            await eventually(lambda: {dead, mute}.isdisjoint(provider.servers))


async def test_client_of_a_server_that_hangs_learns_of_it() -> None:
    """A server that the fleet gave up for dead is diagnosed as that."""
    async with scripted() as provider, _fleet(provider) as fleet:
        (place,) = await fleet.place(1)
        provider.servers[0].answers.clear()
        await eventually(lambda: place.state == "stopped")
        death = await place.diagnose()
        assert "health checks in a row, the last: no answer within" in str(death)


async def test_diagnosis_that_fails_or_hangs_is_no_death(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider that cannot tell counts as one that does not know."""
    monkeypatch.setattr("openenv_async.providers.fleet.keeper._DIAGNOSIS", 0.01)
    async with scripted() as provider, _fleet(provider) as fleet:
        (server,), (place,) = provider.servers, await fleet.place(1)

        async def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(server, "diagnose", anyio.sleep_forever)
        assert await place.diagnose() is None
        monkeypatch.setattr(server, "diagnose", fail)
        assert await place.diagnose() is None
        assert place.state == "serving"
    assert "ZeroDivisionError" in caplog.text


# Operating


async def test_drain_returns_when_the_server_is_gone() -> None:
    """It waits for the sessions; a new server takes over meanwhile."""
    async with scripted() as provider, _fleet(provider) as fleet:
        places = await fleet.place(2)
        old = places[0]
        draining = asyncio.ensure_future(fleet.drain(old))  # noqa: TID251 (awaited below)
        await eventually(lambda: old.state == "draining")
        assert await fleet.place(1) != [old]
        assert not draining.done()
        assert old in fleet.replicas
        await fleet.release(places)
        await draining
        assert old.state == "stopped"
        await fleet.drain(old)


async def test_drain_ends_at_its_timeout() -> None:
    """Sessions that are left then are lost, and told so."""
    async with scripted() as provider, _fleet(provider) as fleet:
        (place,) = await fleet.place(1)
        await fleet.drain(place, timeout=0.05)
        assert "when its draining had to end" in str(await place.diagnose())
        assert "Replica 1 stopped" in repr(place)


async def test_roll_replaces_every_server() -> None:
    """One after the other; there is always one less than usual at most."""
    least: list[int] = []
    async with scripted() as provider:
        async with _fleet(provider, replicas=3) as fleet:
            before = {replica.id for replica in fleet.replicas}

            async def watch(number: int) -> None:
                least.append(_count(fleet, "serving"))

            provider.before_start = watch
            await fleet.roll(timeout=1)
            await eventually(lambda: _count(fleet, "serving") == 3)
            after = {replica.id for replica in fleet.replicas}
    assert before.isdisjoint(after)
    assert min(least) == 2


async def test_roll_stops_when_servers_do_not_start() -> None:
    """The servers that are left go on serving."""
    async with scripted() as provider:
        quick = {"breaker_pause": 60}
        async with _fleet(provider, replicas=3, quick=quick) as fleet:
            provider.before_start = provider.fail
            with pytest.raises(ProviderError, match="no luck today"):
                await fleet.roll(timeout=1)
            assert _count(fleet, "serving") == 2
            assert len(await fleet.place(8)) == 8


async def test_closing_ends_a_roll() -> None:
    """Whoever rolls when the fleet is closed is told."""
    async with scripted() as provider:
        async with _fleet(provider, replicas=2) as fleet:
            await fleet.place(8)
            rolling = asyncio.ensure_future(fleet.roll(timeout=None))  # noqa: TID251 (awaited below)
            await asyncio.sleep(0.02)
        with pytest.raises(LocalProtocolError, match="open fleet"):
            await rolling


async def test_resize_takes_effect_open_or_not() -> None:
    """Bounds that are set before opening hold as well."""
    async with scripted() as provider:
        fleet = _fleet(provider)
        fleet.resize(2, 2)
        async with fleet:
            assert _count(fleet, "serving") == 2
            fleet.resize(1, 1)
            await eventually(lambda: len(provider.servers) == 1)
            with pytest.raises(LocalProtocolError, match="got 3 and 2"):
                fleet.resize(3, 2)


async def test_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each change of a server's state is a line; troubles are warnings."""
    caplog.set_level(logging.INFO, "openenv_async.fleet")
    async with scripted() as provider:
        async with _fleet(provider) as fleet:
            await provider.servers[0].die()
            await eventually(lambda: fleet.statistics().deaths)
            await eventually(lambda: _count(fleet, "serving") == 1)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    expected: list[tuple[str, Callable[[str], bool]]] = [
        ("INFO", lambda text: text.startswith("= replica 1 serves after ")),
        ("WARNING", lambda text: text == "= replica 1 died with 0 sessions: gone"),
        ("INFO", lambda text: text.startswith("= replica 2 serves after ")),
        ("INFO", lambda text: text == "= replica 2 the fleet was closed; stops"),
    ]
    found = iter(lines)
    for level, fits in expected:
        assert any(line[0] == level and fits(line[1]) for line in found)


async def test_statistics_can_be_sent_as_json() -> None:
    """Dashboards get them as they are."""
    async with scripted() as provider, _fleet(provider, replicas=2) as fleet:
        await fleet.place(3)
        statistics = fleet.statistics()
        encoded = msgspec.json.encode(statistics)
        assert msgspec.json.decode(encoded, type=FleetStatistics) == statistics
        assert [server.sessions for server in statistics.servers] == [2, 1]
