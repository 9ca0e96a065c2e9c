"""Who may talk to a server: Host, Origin and bearer token.

A browser sends a page's requests to any address, also to a server on the same machine,
and WebSockets are not covered by the same-origin policy. So a foreign `Origin` is
refused, and so is a `Host` that is a name we were not told: a page can point its own
name at our address (DNS rebinding), but it cannot make the browser send an address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import urlsplit

__all__ = ["AccessPolicy", "bearer_token"]

_HOST: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z_.-]+))(?::[0-9]{1,5})?"
)
_LOCAL_NAMES = frozenset({"localhost"})

Headers = Iterable[tuple[bytes, bytes]]


class AccessPolicy:
    """Decides on a request's `Host` and `Origin`.

    Args:
        hosts: Names that the server is reached by; `"*"` allows every name. Addresses
            and `localhost` are always allowed.
        origins: Origins of other sites that may connect, such as
            `https://example.org`; `"*"` allows every origin.
    """

    def __init__(
        self, *, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts) | _LOCAL_NAMES
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request must be refused; None if it may go on."""
        hosts = _values(headers, b"host")
        origins = _values(headers, b"origin")
        if len(hosts) > 1 or len(origins) > 1:
            return "expected one Host and at most one Origin header"
        host = hosts[0].lower() if hosts else ""
        if host and not self._knows_host(host):
            return (
                f"expected a known Host, got {host!r}: start the server with "
                f"--allow-host to serve under that name"
            )
        if origins and not self._knows_origin(origins[0].lower().rstrip("/"), host):
            return (
                f"expected a request from this server's own pages, got Origin "
                f"{origins[0]!r}: start the server with --allow-origin to let it in"
            )
        return None

    def _knows_host(self, host: str) -> bool:
        if "*" in self._hosts:
            return True
        name = _host_name(host)
        if name is None:
            return False
        return name in self._hosts or host in self._hosts or _is_address(name)

    def _knows_origin(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


def _host_name(host: str) -> str | None:
    """The name in a Host header, without port and brackets; None if it is malformed.

    Stricter than a URL parser, which would find a name in almost anything.
    """
    match = _HOST.fullmatch(host)
    return None if match is None else (match["ipv6"] or match["name"])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def bearer_token(headers: Headers) -> str | None:
    """The token of an `Authorization: Bearer` header, if there is one."""
    for value in _values(headers, b"authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer" and token:
            return token.strip()
    return None
