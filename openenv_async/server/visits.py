"""MCP sessions by who uses them: bounded, and ended when nobody does.

An MCP session costs memory from its first message, but a session of the server only
from its first question about tools. Until then it is *unused*, and must not keep
others out: there is room for a number of them, and the oldest makes room for a new one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import anyio

from .dialect import Seat

__all__ = ["Visit", "Visits"]

_logger = logging.getLogger("openenv_async.server")

_LEAST_UNUSED: Final = 16
_MOST_UNUSED: Final = 2048
"""Unused ones that there is room for; in between as many as sessions."""
_UNUSED_LEASE: Final = 60.0
"""Seconds without a request after which an unused one ends."""
_PATIENCE: Final = 3.0
"""Seconds for all of them to end when the server does."""


class Visit:
    """One MCP session."""

    def __init__(self) -> None:
        self.id = ""
        """What its client calls it by; empty until it was told."""
        self.seat: Seat | None = None
        """Its session of the server."""
        self.requests = 0
        """HTTP requests in flight; the stream that a client keeps open is one."""
        self.scope: Final = anyio.CancelScope()
        """Around everything that the library does for it."""
        self.timer: asyncio.TimerHandle | None = None
        self.has_ended = False

    @property
    def is_used(self) -> bool:
        """Whether it has a session of the server."""
        return self.seat is not None and self.seat.is_open


class Visits:
    """The MCP sessions of one server.

    Args:
        sessions: Most sessions of the server.
        lease: Seconds that a used one outlives its last request.
    """

    def __init__(self, *, sessions: int, lease: float) -> None:
        self._room = max(_LEAST_UNUSED, min(sessions, _MOST_UNUSED))
        self._lease = lease
        self._known: dict[str, Visit] = {}
        self._unused: dict[Visit, None] = {}
        """Those without a session of the server, the one used last at the end."""
        self._inside: set[Visit] = set()
        """Those that the library has not yet let go of."""

    def __len__(self) -> int:
        return len(self._known)

    def enter(self, visit: Visit) -> None:
        """The library has begun it; `leave` is called at its end, however it ends."""
        self._inside.add(visit)

    def leave(self, visit: Visit) -> None:
        """It is gone."""
        self._inside.discard(visit)
        self.forget(visit)

    def find(self, id: str) -> Visit | None:
        """A session by its id; None if it has ended."""
        return self._known.get(id)

    def admit(self, visit: Visit, id: str) -> None:
        """A client was told its id; another one may have to go."""
        if visit.has_ended:
            return
        visit.id = id
        self._known[id] = visit
        self._unused[visit] = None
        if len(self._unused) > self._room:
            idle = (each for each in self._unused if not each.requests)
            oldest = next(idle, None) or next(iter(self._unused))
            _logger.info("= MCP session %s: makes room for another", oldest.id[:8])
            self.end(oldest)

    def begin(self, visit: Visit) -> None:
        """A request came."""
        visit.requests += 1
        self._disarm(visit)
        if visit in self._unused:
            self._unused[visit] = self._unused.pop(visit)

    def done(self, visit: Visit) -> None:
        """A request was answered, or its client left."""
        visit.requests -= 1
        self._arm(visit)

    def take(self, visit: Visit, seat: Seat) -> None:
        """It has a session of the server from now on."""
        visit.seat = seat
        self._unused.pop(visit, None)
        seat.ended = lambda: self._lost(visit)

    def _lost(self, visit: Visit) -> None:
        if visit.id and not visit.has_ended:
            self._unused[visit] = None
            self._arm(visit)

    def end(self, visit: Visit) -> None:
        """End it: what is in flight is cancelled, and its id is unknown."""
        self.forget(visit)
        visit.scope.cancel()

    def forget(self, visit: Visit) -> None:
        """Nobody finds it any more. Idempotent."""
        visit.has_ended = True
        self._known.pop(visit.id, None)
        self._unused.pop(visit, None)
        self._disarm(visit)

    async def aclose(self, *, patience: float = _PATIENCE) -> None:
        """End all of them and wait until they are gone; idempotent.

        Args:
            patience: Seconds after which those that do not end are left.
        """
        for visit in list(self._inside):
            self.end(visit)
        with anyio.CancelScope(shield=True), anyio.move_on_after(patience):
            # Polled once, at the end of a server, so that nobody pays for an event.
            while self._inside:  # noqa: ASYNC110 (see above)
                await anyio.sleep(0.01)

    # Time

    def _arm(self, visit: Visit) -> None:
        self._disarm(visit)
        if visit.requests or visit.has_ended or not visit.id:
            return
        lease = self._lease if visit.is_used else min(self._lease, _UNUSED_LEASE)
        loop = asyncio.get_running_loop()
        visit.timer = loop.call_later(lease, self._expire, visit)

    def _expire(self, visit: Visit) -> None:
        if visit.seat is not None and visit.seat.is_busy:
            # Its client left, but what it asked for still runs.
            self._arm(visit)
        else:
            _logger.info("= MCP session %s: nobody used it, it ends", visit.id[:8])
            self.end(visit)

    def _disarm(self, visit: Visit) -> None:
        if visit.timer is not None:
            visit.timer.cancel()
            visit.timer = None
