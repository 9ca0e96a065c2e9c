"""The contracts of what starts servers, and of what says where sessions go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..errors import ServerDied

__all__ = ["Placer", "Provider", "Served"]


class Served(Protocol):
    """One running server.

    An implementation may raise `ProviderError` from `stop`, and nothing else.
    """

    @property
    def url(self) -> str:
        """Where clients connect: `ws://host:port` or `ws+unix:///path`."""
        ...

    async def stop(self) -> None:
        """Stop it and remove what it left; idempotent, and complete when cancelled."""
        ...

    async def diagnose(self) -> ServerDied | None:
        """Tell why it has ended by itself; None while it runs, or nobody knows.

        Called whenever a connection to it is lost or cannot be made, so it answers
        within a second or so and raises nothing.
        """
        ...


class Provider(Protocol):
    """Starts servers of one kind, as many as are asked for.

    An implementation may raise `ProviderError` from both methods, and nothing else.
    """

    async def start(self) -> Served:
        """Start one and wait until it answers. Cancelling leaves nothing behind."""
        ...

    async def stop(self) -> None:
        """Stop all that it started; idempotent, and complete when cancelled."""
        ...


@runtime_checkable
class Placer(Protocol):
    """Says on which servers new sessions go, and takes the places back.

    An implementation may raise `ProviderError` and `AtCapacity`, and nothing else.
    """

    async def place(self, count: int) -> Sequence[Served]:
        """Find places for sessions; one entry each, and several may share a server.

        It is all or nothing. Cancelling leaves nothing taken.
        """
        ...

    async def release(self, places: Sequence[Served]) -> None:
        """Give places back, one entry a session; complete when cancelled."""
        ...
