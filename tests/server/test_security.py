"""Who may talk to a server: tokens, foreign pages, foreign names."""

from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from openenv_async import messages as m
from openenv_async.server.security import AccessPolicy, bearer_token
from tests.serving import Serving, dial, serving

TOKEN = "s3cret-ü"


async def handshake(server: Serving, **options: object) -> int:
    """The status with which the server answers a WebSocket handshake."""
    try:
        async with dial(server, hello=False, **options):  # type: ignore[arg-type]  # of dial
            return 101
    except InvalidStatus as error:
        return error.response.status_code


async def get(server: Serving, path: str, headers: dict[str, str]) -> httpx.Response:
    """Ask over HTTP."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
        return await c.get(path, headers=headers)


# Tokens


async def test_a_token_in_the_header_lets_in() -> None:
    """A client with the right header needs no token in its greeting."""
    async with serving(token="secret") as server:
        headers = {"Authorization": "Bearer secret"}
        async with dial(server, headers=headers) as peer:
            await peer.open()


async def test_a_token_in_the_greeting_lets_in() -> None:
    """A browser, which cannot set headers, shows its token in hello."""
    async with serving(token=TOKEN) as server, dial(server, token=TOKEN) as peer:
        await peer.open()


@pytest.mark.parametrize(
    "value", ["Bearer wrong", "bearer Secret", "Bearer \u00fc", "Bearer secret2"]
)
async def test_a_wrong_token_in_the_header_is_refused_at_once(value: str) -> None:
    """A wrong header does not get as far as a greeting."""
    async with serving(token="secret") as server:
        assert await handshake(server, headers={"Authorization": value}) == 401


@pytest.mark.parametrize("token", [None, "", "wrong"])
async def test_a_wrong_token_in_the_greeting_ends_the_connection(
    token: str | None,
) -> None:
    """Without the right token the greeting fails, and does not tell the right one."""
    async with serving(token="secret") as server, dial(server, hello=False) as peer:
        await peer.send(m.Hello(m.VERSION, token=token))
        failure = await peer.expect(m.Failure)
        assert (failure.code, failure.fault) == ("unauthorized", "caller")
        assert "secret" not in failure.message
        assert await peer.close_code() == 1008


async def test_nothing_is_served_before_the_token() -> None:
    """A message in the same frame as a refused greeting is not executed."""
    async with serving(token="secret") as server, dial(server, hello=False) as peer:
        await peer.send(m.Hello(m.VERSION), m.Open(1, "0" * 32))
        await peer.expect(m.Failure)
        await peer.close_code()
        assert server.sessions == 0


@pytest.mark.parametrize("path", ["/schema", "/metadata", "/nothing"])
async def test_http_needs_the_token_too(path: str) -> None:
    """Descriptions of environments are for those who may use them."""
    async with serving(token="secret") as server:
        refused = await get(server, path, {})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert (
            await get(server, path, {"Authorization": "Bearer secret"})
        ).status_code in (
            200,
            404,
        )


async def test_health_needs_no_token() -> None:
    """Whoever watches a server need not be its client."""
    async with serving(token="secret") as server:
        assert (await get(server, "/health", {})).status_code == 200


def test_a_bearer_token_is_found_in_the_header() -> None:
    """The scheme's case does not matter; other schemes are no token."""
    assert bearer_token([(b"Authorization", b"bearer abc ")]) == "abc"
    assert bearer_token([(b"authorization", b"Basic abc")]) is None
    assert bearer_token([(b"authorization", b"Bearer ")]) is None
    assert bearer_token([]) is None


# Names and pages


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80", "10.1.2.3:9"]
)
async def test_addresses_and_localhost_are_known(host: str) -> None:
    """A name that nobody can point elsewhere is fine."""
    async with serving() as server:
        assert await handshake(server, host=host) == 101


async def test_an_unknown_name_is_refused() -> None:
    """A page that points its own name at us (DNS rebinding) gets nothing."""
    async with serving() as server:
        assert await handshake(server, host="evil.example") == 403
        refused = await get(server, "/schema", {"Host": "evil.example:80"})
        assert refused.status_code == 403
        assert "--allow-host" in refused.text


async def test_a_name_can_be_allowed() -> None:
    """A server knows the names that it was told."""
    async with serving(allowed_hosts=["envs.example"]) as server:
        assert await handshake(server, host="Envs.example") == 101
        assert await handshake(server, host="other.example") == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:1",
        "file://",
        "chrome-extension://x",
    ],
)
async def test_a_foreign_page_is_refused(origin: str) -> None:
    """A page of another site cannot drive a local environment."""
    async with serving() as server:
        assert await handshake(server, headers={"Origin": origin}) == 403


async def test_our_own_page_is_let_in() -> None:
    """A page that came from the server itself may connect to it."""
    async with serving() as server:
        headers = {"Origin": "http://localhost"}
        assert await handshake(server, headers=headers) == 101


async def test_an_origin_can_be_allowed() -> None:
    """A site that the server was told may connect."""
    async with serving(allowed_origins=["https://ui.example/"]) as server:
        headers = {"Origin": "https://ui.example"}
        assert await handshake(server, headers=headers) == 101


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([(b"host", b"a"), (b"host", b"localhost")], True),
        ([(b"host", b"localhost"), (b"origin", b"x"), (b"origin", b"y")], True),
        ([(b"host", b"[::1")], True),
        ([(b"host", b"localhost:80"), (b"origin", b"http://localhost:80")], False),
        ([(b"host", b"localhost:80"), (b"origin", b"https://[")], True),
        ([], False),
    ],
)
def test_the_policy_decides_on_odd_headers(
    headers: list[tuple[bytes, bytes]], refused: bool
) -> None:
    """Doubled and broken headers are refused, not guessed at."""
    assert bool(AccessPolicy().refusal(headers)) is refused


def test_a_star_lets_everybody_in() -> None:
    """A server that is meant to be public says so."""
    policy = AccessPolicy(hosts=["*"], origins=["*"])
    headers = [(b"host", b"any.example"), (b"origin", b"https://other.example")]
    assert policy.refusal(headers) is None
