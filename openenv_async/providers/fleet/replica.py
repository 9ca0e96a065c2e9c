"""A server of a fleet, as callers see it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeAlias, final

from ...errors import ServerDied
from ..base import Served
from .members import Member, ReplicaState

__all__ = ["Replica"]

_Deed: TypeAlias = Callable[["Replica"], Coroutine[object, object, None]]


@final
class Replica:
    """A server of a fleet, as `Fleet.place` hands it out.

    Args:
        member: What the fleet knows of it.
        server: What the provider started.
        look: Makes the fleet find out whether it lives.
        retire: Makes the fleet stop it.
    """

    def __init__(
        self,
        member: Member,
        server: Served,
        look: _Deed,
        retire: _Deed,
    ) -> None:
        self.member = member
        self.server = server
        """What the provider started."""
        self._look = look
        self._retire = retire

    def __repr__(self) -> str:
        return f"<Replica {self.id} {self.state} {self.url}>"

    @property
    def id(self) -> int:
        """Its number in the fleet's log and statistics; never used again."""
        return self.member.id

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.server.url

    @property
    def state(self) -> ReplicaState:
        """Where it is in its life."""
        return self.member.state

    @property
    def sessions(self) -> int:
        """How many are placed on it."""
        return self.member.placed

    async def stop(self) -> None:
        """Stop it whatever is on it; the fleet replaces it if it is needed.

        Cancelling changes nothing: it is stopped all the same.
        """
        await self._retire(self)

    async def diagnose(self) -> ServerDied | None:
        """Tell why its sessions are gone; None while it lives, or nobody knows.

        Also makes the fleet look after it: whoever asks has lost a connection.
        """
        if self.member.death is None:
            await self._look(self)
        return self.member.death
