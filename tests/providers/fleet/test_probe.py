"""A fleet's health checks take every answer, and none at all."""

from __future__ import annotations

import pytest

from openenv_async.providers.fleet.probe import ProbeFailed, probe
from tests.fakes import answering
from tests.serving import eventually, serving

_OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "options",
    [{}, {"tcp": True}, {"tcp": True, "mount": "/below"}, {"token": "secret"}],
)
async def test_probe_asks_our_servers(options: dict[str, object]) -> None:
    """Over Unix socket and TCP, mounted or not, and without a token."""
    async with serving(max_sessions=7, **options) as server:  # type: ignore[arg-type]  # any of them
        for url in (server.url, f"{server.url}/ws"):
            if server.path is not None and url.endswith("/ws"):
                continue
            report = await probe(url, timeout=5)
            assert (report.sessions, report.max_sessions) == (0, 7)
            assert report.incarnation == server.core.incarnation
            assert not report.draining


async def test_probe_keeps_a_spare_from_ending_itself() -> None:
    """A server without connections does not count as forgotten while it is checked."""
    async with serving() as server:
        await eventually(lambda: server.core.idle_seconds >= 0.1)
        await probe(server.url, timeout=5)
        assert server.core.idle_seconds < 0.1


async def test_probe_sees_a_server_that_drains() -> None:
    """Status 503 with that word is an answer, not a failure."""
    body = b'{"status": "draining", "sessions": 2}'
    answer = b"HTTP/1.1 503 Unavailable\r\nContent-Length: %d\r\n\r\n%b"
    async with answering(answer % (len(body), body)) as url:
        report = await probe(url, timeout=5)
    assert report.draining
    assert report.sessions == 2


@pytest.mark.parametrize(
    "body", [b'{"status": "healthy"}', b"fine", b"", b'{"sessions": "many"}', b"[1]"]
)
async def test_probe_takes_servers_of_others(body: bytes) -> None:
    """That they answer is enough; what they say may be anything."""
    async with answering(_OK + b"\r\n" + body) as url:
        report = await probe(url, timeout=5)
    assert report.sessions is None
    assert not report.draining


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 500 No\r\n\r\n", "expected status 200 from /health, got 500"),
        (b"HTTP/1.1 503 No\r\n\r\n", "got 503"),
        (b"\r\n\r\n", "got 0"),
        (b"HTTP/1.1 what\r\n\r\n", "no answer: invalid literal"),
        (b"", "no answer: 0 bytes read"),
        (_OK + b"Content-Length: 9\r\n\r\nshort", "no answer: 5 bytes read"),
        (_OK + b"Content-Length: -1\r\n\r\n", "at most 65536 bytes, got -1"),
        (_OK + b"Content-Length: 65537\r\n\r\n", "at most 65536 bytes, got 65537"),
        (_OK + b"\r\n" + b"x" * 70_000, "at most 65536 bytes, got more"),
        (b"x" * 200_000, "no answer: "),
    ],
)
async def test_probe_refuses_other_answers(answer: bytes, text: str) -> None:
    """The error says what came."""
    async with answering(answer) as url:
        with pytest.raises(ProbeFailed, match=text):
            await probe(url, timeout=5)


async def test_probe_does_not_wait_for_ever() -> None:
    """A server that takes the connection and says nothing costs its timeout."""
    async with answering(None) as url:
        with pytest.raises(ProbeFailed, match=r"no answer within 0\.05 s"):
            await probe(url, timeout=0.05)


@pytest.mark.parametrize(
    "url",
    ["ws+unix:///no/such/socket", "ws://127.0.0.1:1", "ws://127.0.0.1:99999", "ws://"],
)
async def test_probe_fails_where_nobody_listens(url: str) -> None:
    """No connection is no answer."""
    with pytest.raises(ProbeFailed, match="no answer: "):
        await probe(url, timeout=5)


async def test_probe_speaks_tls_where_the_address_says_so() -> None:
    """A server that does not is no answer."""
    async with serving(tcp=True) as server:
        with pytest.raises(ProbeFailed, match=r"no answer: .*SSL"):
            await probe(server.url.replace("ws:", "wss:"), timeout=5)
