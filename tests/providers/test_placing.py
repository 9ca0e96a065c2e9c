"""A fleet of one client opens and closes with its sessions, in whatever order."""

from __future__ import annotations

import anyio

from openenv_async.providers import Fleet, OwnFleet, Served
from tests.providers.fleet.scripted import ScriptedProvider, scripted


def _own(provider: ScriptedProvider, replicas: int) -> OwnFleet:
    return OwnFleet(Fleet(provider, replicas=replicas, sessions_per_replica=1))


async def test_own_fleet_is_open_while_there_are_places() -> None:
    """Its servers start for the first place, and stop with the last one."""
    async with scripted() as provider:
        fleet = _own(provider, 2)
        first, second = await fleet.place(2)
        await fleet.release([first])
        assert len(provider.servers) == 2
        await fleet.release([second])
        assert provider.servers == []


async def test_own_fleet_opens_again_after_it_has_closed() -> None:
    """Whoever asks for a place while the last one closes it gets a new server."""
    async with scripted() as provider:
        fleet = _own(provider, 1)
        (place,) = await fleet.place(1)
        (server,) = provider.servers
        server.may_stop.clear()
        again: list[Served] = []

        async def ask() -> None:
            again.extend(await fleet.place(1))

        async with anyio.create_task_group() as group:
            group.start_soon(fleet.release, [place])
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert not again
            server.may_stop.set()
        assert again[0].url != server.url
        await fleet.release(again)


async def test_own_fleet_forgets_whoever_gives_up() -> None:
    """A place that nobody waits for any more does not keep the servers."""
    async with scripted() as provider:
        fleet = _own(provider, 1)
        (place,) = await fleet.place(1)
        with anyio.move_on_after(0.05) as scope:
            await fleet.place(1)
        assert scope.cancelled_caught
        await fleet.release([place])
        assert provider.servers == []
