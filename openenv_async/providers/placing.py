"""Where sessions go when there is no fleet: one address, or one server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import anyio

from ..errors import ServerDied
from .base import Placer, Provider, Served
from .fleet import Fleet

__all__ = ["FixedPlacer", "FixedServer", "OwnFleet", "SoloPlacer", "placer_of"]


@final
class FixedServer:
    """A server that somebody else runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def stop(self) -> None:
        """Leave it running: it is not ours."""

    async def diagnose(self) -> ServerDied | None:
        """Nobody here knows."""
        return None


@final
class FixedPlacer:
    """Puts all sessions on the server at an address.

    Args:
        url: The address.
    """

    def __init__(self, url: str) -> None:
        self._server = FixedServer(url)

    async def place(self, count: int) -> Sequence[Served]:
        """The same server for all."""
        return [self._server] * count

    async def release(self, places: Sequence[Served]) -> None:
        """Nothing was taken."""


@final
class SoloPlacer:
    """Puts all sessions on one server, which lives as long as there are any.

    A server that has died is replaced when places are asked for the next time.

    Args:
        provider: Starts the server.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._server: Served | None = None
        self._users: dict[Served, int] = {}
        self._lock = anyio.Lock()

    async def place(self, count: int) -> Sequence[Served]:
        """Start the server if need be.

        Raises:
            ProviderError: It could not be started.
        """
        async with self._lock:
            server = self._server
            if server is None or await server.diagnose() is not None:
                server = self._server = await self._provider.start()
            self._users[server] = self._users.get(server, 0) + count
        return [server] * count

    async def release(self, places: Sequence[Served]) -> None:
        """Stop a server whose last place comes back."""
        free: list[Served] = []
        for server in places:
            self._users[server] -= 1
            if not self._users[server]:
                del self._users[server]
                free.append(server)
                if server is self._server:
                    self._server = None
        with anyio.CancelScope(shield=True):
            for server in free:
                await server.stop()


@final
class OwnFleet:
    """A fleet for one client: open while there are sessions on it.

    Args:
        fleet: Is opened for the first place, and closed with the last one.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._users = 0
        self._lock = anyio.Lock()

    async def place(self, count: int) -> Sequence[Served]:
        """Open the fleet if need be; raises like `Fleet.open` and `Fleet.place`."""
        async with self._lock:
            if not self._users:
                await self._fleet.open()
            self._users += count
        try:
            return await self._fleet.place(count)
        except BaseException:
            await self._give_back(count)
            raise

    async def release(self, places: Sequence[Served]) -> None:
        """Give places back; closes the fleet with the last one."""
        try:
            await self._fleet.release(places)
        finally:
            await self._give_back(len(places))

    async def _give_back(self, count: int) -> None:
        # Whoever asks for the next places waits until the fleet is closed, to open it.
        with anyio.CancelScope(shield=True):
            async with self._lock:
                self._users -= count
                if not self._users:
                    await self._fleet.aclose()


def placer_of(url: str | None, provider: Provider | Placer | None) -> Placer:
    """What places sessions, for an address or for something that starts servers."""
    if provider is None:
        assert url is not None
        return FixedPlacer(url)
    return provider if isinstance(provider, Placer) else SoloPlacer(provider)
