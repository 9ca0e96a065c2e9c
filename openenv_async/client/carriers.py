"""What carries frames: the contract of a socket, and servers in this very process.

A server in this process registers a `Carrier` under a name, and clients reach it at
`memory://name`. Nothing else in the client knows of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Final, Protocol

from ..errors import ConnectFailed, LocalProtocolError
from .endpoint import Endpoint

__all__ = ["Carrier", "Socket", "carrier_of", "carrying"]


class Socket(Protocol):
    """One open client connection: whole messages in and out."""

    @property
    def paused(self) -> bool:
        """Whether the other side takes no more for now."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        ...

    def send(self, frame: bytes) -> None:
        """Write a message; never blocks, and does nothing once the socket ends."""

    def abort(self) -> None:
        """Drop the connection at once; `lost` is called in a later turn."""

    async def aclose(self, timeout: float) -> None:
        """Close in order; drops the connection when that takes too long."""


class Carrier(Protocol):
    """A server in this process, as its clients see it."""

    async def open(
        self,
        *,
        subprotocol: str,
        token: str | None,
        is_text: bool,
        received: Callable[[bytes], None],
        writable: Callable[[], None],
        lost: Callable[[Socket], None],
    ) -> Socket:
        """Connect; the arguments are those of `open_websocket`.

        Raises:
            ConnectFailed: It does not take the connection.
            Unauthorized: The token is wrong.
        """
        ...

    async def get(self, path: str, *, token: str | None) -> tuple[int, bytes]:
        """Answer an HTTP GET: status and body."""
        ...


_carriers: Final[dict[str, Carrier]] = {}


@contextlib.contextmanager
def carrying(name: str, carrier: Carrier) -> Generator[None, None, None]:
    """Make a server reachable under a name, which nobody else may have meanwhile.

    Raises:
        LocalProtocolError: Another one has it, or no address can have it.
    """
    if name in _carriers or not name or "/" in name:
        raise LocalProtocolError(
            f"expected a free name for a server in this process, got {name!r}"
        )
    _carriers[name] = carrier
    try:
        yield
    finally:
        del _carriers[name]


def carrier_of(endpoint: Endpoint) -> Carrier:
    """The server at an address in this process.

    Raises:
        ConnectFailed: There is none of that name.
    """
    carrier = _carriers.get(endpoint.memory)
    if carrier is None:
        raise ConnectFailed(
            f"expected a server in this process at {endpoint.url!r}, got one of "
            f"{sorted(_carriers)!r}"
        )
    return carrier
