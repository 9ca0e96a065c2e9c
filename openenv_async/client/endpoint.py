"""Where a server is: an address that a client can connect to."""

from __future__ import annotations

import dataclasses
from typing import Final
from urllib.parse import urlsplit

from ..errors import LocalProtocolError

__all__ = ["Endpoint"]

_SCHEMES: Final = {"ws": False, "http": False, "wss": True, "https": True}
_UNIX: Final = ("ws+unix", "http+unix", "unix")
_MEMORY: Final = "memory"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A parsed address.

    Args:
        url: As it was given, for messages.
        host: Name or address; `localhost` for a Unix socket.
        port: TCP port; 0 for a Unix socket.
        path: HTTP path of the WebSocket.
        tls: Whether to use TLS.
        uds: Path of a Unix socket; empty for TCP.
        memory: Name of a server in this process; empty for all others.
    """

    url: str
    host: str
    port: int
    path: str
    tls: bool = False
    uds: str = ""
    memory: str = ""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse `ws://host:port`, `wss://...` or `ws+unix:///path/to/socket`.

        `http` and `https` mean the same as `ws` and `wss`; without a path, `/ws` is
        taken. `memory://name` is a server in this process.

        Raises:
            LocalProtocolError: It is none of these.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise LocalProtocolError(f"expected an address, got {url!r}") from error
        is_unix = parts.scheme in _UNIX and not parts.netloc
        if is_unix and parts.path and not (parts.query or parts.fragment):
            return cls(url=url, host="localhost", port=0, path="/ws", uds=parts.path)
        if url == f"{_MEMORY}://{parts.netloc}" and parts.netloc:
            return cls(
                url=url, host="localhost", port=0, path="/ws", memory=parts.netloc
            )
        tls = _SCHEMES.get(parts.scheme)
        if tls is None or not parts.hostname:
            raise LocalProtocolError(
                "expected ws://host:port, wss://host:port or ws+unix:///path, got "
                f"{url!r}"
            )
        if parts.query or parts.fragment or parts.username or parts.password:
            # The rest may be a secret, which does not belong into a log.
            raise LocalProtocolError(
                "expected an address without query, fragment or user, got one with "
                f"them at host {parts.hostname!r}: a token has an argument of its own"
            )
        path = parts.path.rstrip("/")
        if not path.endswith("/ws"):
            path += "/ws"
        return cls(
            url=url,
            host=parts.hostname,
            port=(443 if tls else 80) if port is None else port,
            path=path,
            tls=tls,
        )

    @property
    def websocket_url(self) -> str:
        """The URL of the handshake."""
        if self.uds:
            return f"ws://localhost{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}{self.path}"
