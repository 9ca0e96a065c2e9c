"""The connections of this process: one server, few sockets, all sessions.

A server that does not agree to our subprotocol is spoken to in OpenEnv's dialect, with
a socket for each session. That costs no connection more: the first socket is kept.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import Final, TypeAlias

from .._aio import shielded
from ..providers import FixedServer, Served
from .connection import Connection, ConnectionOptions, Diagnose
from .dialect import DialectLink
from .endpoint import Endpoint
from .links import Link
from .transport import SpeaksDialect

__all__ = ["Pool", "pool_of"]

SPREAD: Final = 128
"""Sessions on a socket from which on a second one pays."""
_DEFAULT_SOCKETS: Final = 2
"""Client and server work at the same time with two; more gained nothing."""

_RELEASE_TIMEOUT: Final = 5.0
"""Seconds for closing a connection that could not be made."""

_Key: TypeAlias = tuple[Endpoint, ConnectionOptions]


class Pool:
    """The connections of one event loop to one server with the same options."""

    def __init__(self, endpoint: Endpoint, options: ConnectionOptions) -> None:
        self._endpoint = endpoint
        self._options = options
        self.diagnose: Diagnose | None = None
        """Tells why the server has ended by itself, if it has."""
        self._connections: list[Link] = []
        self._dialect = options.dialect
        """Whether the server is known to speak OpenEnv's dialect."""

    async def acquire(self, count: int, *, sockets: int | None) -> list[Link]:
        """Get connections for a number of sessions, one entry a session.

        Args:
            count: Sessions.
            sockets: Connections to spread them over; None chooses. Where the server
                speaks OpenEnv's dialect, each session has one.

        Raises:
            OpenEnvError: No connection could be made; none is held then.
        """
        chosen = self._choose(count, sockets)
        for connection in chosen:
            connection.acquire()
        try:
            for connection in set(chosen):
                await connection.wait_greeted()
        except SpeaksDialect:
            link = self._switch(chosen)
            link.acquire(count)
            await shielded(self.release(chosen), timeout=_RELEASE_TIMEOUT)
            return [link] * count
        except BaseException:
            await shielded(self.release(chosen), timeout=_RELEASE_TIMEOUT)
            raise
        return chosen

    def _switch(self, connections: list[Link]) -> DialectLink:
        """Speak the dialect from now on, first on the sockets that are open."""
        link = self._dialect_link()
        for connection in connections:
            if isinstance(connection.error, SpeaksDialect):
                socket = connection.error.take()
                if socket is not None:
                    link.adopt(socket)
        return link

    def _dialect_link(self) -> DialectLink:
        self._dialect = True
        for link in self._connections:
            if isinstance(link, DialectLink):
                return link
        link = DialectLink(self._endpoint, self._options, self.diagnose)
        self._connections.append(link)
        return link

    def _choose(self, count: int, sockets: int | None) -> list[Link]:
        self._forget_failed()
        if self._dialect:
            return [self._dialect_link()] * count
        live = self._connections
        total = count + sum(connection.users for connection in live)
        if sockets is None:
            wanted = _DEFAULT_SOCKETS if total >= SPREAD else 1
        else:
            # Not more than there are sessions: what nobody takes, nobody closes.
            wanted = min(sockets, count)
        while len(live) < wanted:
            live.append(Connection(self._endpoint, self._options, self.diagnose))
        spread = sorted(live, key=lambda connection: connection.users)[:wanted]
        # Neighbours share a socket, so that a batch fills one after the other and the
        # server begins with the first while the rest is still being encoded.
        return [spread[position * len(spread) // count] for position in range(count)]

    def _forget_failed(self) -> None:
        self._connections = [
            connection for connection in self._connections if connection.error is None
        ]

    async def release(self, connections: list[Link]) -> None:
        """Give connections back, one entry a session; closes those that are free."""
        free = {connection for connection in connections if connection.release()}
        self._connections = [
            connection for connection in self._connections if connection not in free
        ]
        for connection in free:
            await connection.aclose()
        pools = _pools.get(asyncio.get_running_loop(), {})
        key = self._endpoint, self._options
        if not self._connections and pools.get(key) is self:
            # Servers of their own come and go, each at another address.
            del pools[key]


_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Pool]] = (
    weakref.WeakKeyDictionary()
)


def pool_of(server: Served, options: ConnectionOptions) -> Pool:
    """The pool of the running loop for a server."""
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    key = Endpoint.parse(server.url), options
    pool = pools.get(key)
    if pool is None:
        pool = pools[key] = Pool(*key)
    if not isinstance(server, FixedServer):
        pool.diagnose = server.diagnose
    return pool
