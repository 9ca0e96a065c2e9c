"""Addresses: what is one, and what it means."""

from __future__ import annotations

import pytest

from openenv_async import LocalProtocolError
from openenv_async.client.endpoint import Endpoint


@pytest.mark.parametrize(
    ("url", "websocket_url", "uds"),
    [
        ("ws://host:8000", "ws://host:8000/ws", ""),
        ("ws://host:8000/", "ws://host:8000/ws", ""),
        ("ws://host:8000/ws", "ws://host:8000/ws", ""),
        ("ws://host:8000/ws/", "ws://host:8000/ws", ""),
        ("ws://host", "ws://host:80/ws", ""),
        ("http://host", "ws://host:80/ws", ""),
        ("wss://host", "wss://host:443/ws", ""),
        ("https://host:1", "wss://host:1/ws", ""),
        ("ws://host/base/", "ws://host:80/base/ws", ""),
        ("ws://HOST:1", "ws://host:1/ws", ""),
        ("ws://[::1]:8000", "ws://[::1]:8000/ws", ""),
        ("ws+unix:///run/env.sock", "ws://localhost/ws", "/run/env.sock"),
        ("http+unix:///run/env.sock", "ws://localhost/ws", "/run/env.sock"),
        ("unix:///run/env.sock", "ws://localhost/ws", "/run/env.sock"),
        ("unix:/run/env.sock", "ws://localhost/ws", "/run/env.sock"),
    ],
)
def test_addresses_are_parsed(url: str, websocket_url: str, uds: str) -> None:
    """Scheme, host, port and path are completed to a WebSocket address."""
    endpoint = Endpoint.parse(url)
    assert endpoint.url == url
    assert endpoint.websocket_url == websocket_url
    assert endpoint.uds == uds
    assert endpoint.tls is websocket_url.startswith("wss")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:8000",
        "localhost",
        "ftp://host",
        "ws://",
        "ws:///path",
        "ws://host:port",
        "ws://host:99999",
        "ws://host:-1",
        "ws://[::1",
        "ws+unix://",
        "ws+unix://host/path",
        "ws+unix:///path?query",
        "ws+unix:///path#fragment",
    ],
)
def test_what_is_no_address_is_misuse(url: str) -> None:
    """The error says what was expected, and shows what was given."""
    with pytest.raises(LocalProtocolError, match="expected") as caught:
        Endpoint.parse(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["ws://host?token=secret", "ws://host#secret", "ws://user:secret@host"],
)
def test_a_secret_in_an_address_is_not_shown(url: str) -> None:
    """The error names the host and what was expected, but not the secret."""
    with pytest.raises(LocalProtocolError, match="at host 'host'") as caught:
        Endpoint.parse(url)
    assert "secret" not in str(caught.value)


def test_equal_addresses_are_equal_keys() -> None:
    """The same address twice leads to the same pool."""
    assert Endpoint.parse("ws://host:1") == Endpoint.parse("ws://host:1")
    assert hash(Endpoint.parse("ws://host:1")) == hash(Endpoint.parse("ws://host:1"))
    assert Endpoint.parse("ws://host:1") != Endpoint.parse("ws://host:2")
