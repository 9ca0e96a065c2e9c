"""The contract of everything that can start a server."""

from __future__ import annotations

import dataclasses
from typing import Protocol

__all__ = ["Provider", "Served"]


@dataclasses.dataclass(frozen=True)
class Served:
    """Something that serves.

    Args:
        url: Where clients connect.
    """

    url: str


class Provider(Protocol):
    """Starts something that serves environments, and stops it.

    An implementation may raise `ProviderError` from both methods, and nothing else.
    """

    async def start(self) -> Served:
        """Start it and wait until it answers. Cancelling leaves nothing behind."""
        ...

    async def stop(self) -> None:
        """Stop it and remove what it left; idempotent, and complete when cancelled."""
        ...
