"""Seats: a session's server, and its connection to it.

Whatever says where sessions go names servers; this turns them into connections, all
or none, and gives both back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import anyio

from .._aio import shielded
from ..providers import Placer, Served
from .connection import ConnectionOptions
from .links import Link
from .pool import Pool, pool_of

__all__ = ["Seat", "leave_seats", "take_seats"]

_RELEASE_TIMEOUT: Final = 20.0
"""Seconds for closing connections, and the servers that are free then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """Where one session is."""

    server: Served
    pool: Pool
    connection: Link


async def take_seats(
    placer: Placer, count: int, options: ConnectionOptions, *, sockets: int | None
) -> list[Seat]:
    """Find places for sessions, and connect to them.

    It is all or nothing; cancelling it leaves nothing taken.

    Args:
        placer: Says on which servers.
        count: Sessions.
        options: Of the connections.
        sockets: Connections to each server; None chooses.

    Raises:
        OpenEnvError: There is no place, or no connection to one of the servers.
    """
    places = await placer.place(count)
    groups: dict[int, list[int]] = {}
    for position, server in enumerate(places):
        groups.setdefault(id(server), []).append(position)
    seats: dict[int, Seat] = {}
    problems: list[Exception] = []

    async def connect(positions: list[int]) -> None:
        server = places[positions[0]]
        try:
            pool = pool_of(server, options)
            connections = await pool.acquire(len(positions), sockets=sockets)
        except Exception as error:  # noqa: BLE001 (raised below, without a group around it)
            problems.append(error)
            return
        for position, connection in zip(positions, connections, strict=True):
            seats[position] = Seat(server, pool, connection)

    try:
        if len(groups) == 1:
            await connect(list(range(count)))
        else:
            async with anyio.create_task_group() as group:
                for positions in groups.values():
                    group.start_soon(connect, positions)
        if problems:
            raise problems[0]
    except BaseException:
        await shielded(
            _leave(placer, list(seats.values()), places), timeout=_RELEASE_TIMEOUT
        )
        raise
    return [seats[position] for position in range(count)]


async def leave_seats(placer: Placer, seats: Sequence[Seat]) -> None:
    """Close the connections that nobody uses any more, and give the places back.

    Cancelling it changes nothing.
    """
    await shielded(
        _leave(placer, seats, [seat.server for seat in seats]),
        timeout=_RELEASE_TIMEOUT,
    )


async def _leave(
    placer: Placer, seats: Sequence[Seat], places: Sequence[Served]
) -> None:
    held: dict[Pool, list[Link]] = {}
    for seat in seats:
        held.setdefault(seat.pool, []).append(seat.connection)
    try:
        for pool, connections in held.items():
            await pool.release(connections)
    finally:
        await placer.release(places)
