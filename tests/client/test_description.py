"""What a server tells before any session, over every kind of address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from openenv_async import (
    ConnectFailed,
    OpenEnvError,
    RemoteProtocolError,
    Unauthorized,
    UnknownEnvironment,
)
from openenv_async.client.description import describe, server_health
from openenv_async.memory import MemoryServer
from tests.environments import BlockingEnvironment, ScriptedEnvironment
from tests.fakes import answering
from tests.serving import serving

_BOTH = (ScriptedEnvironment, BlockingEnvironment)


@pytest.fixture(params=["tcp", "unix", "mounted", "memory"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The address of a server with two environments."""
    match request.param:
        case "memory":
            async with MemoryServer(_BOTH) as memory:
                yield memory.url
        case "mounted":
            async with serving(*_BOTH, tcp=True, mount="/below") as server:
                yield server.url
        case kind:
            async with serving(*_BOTH, tcp=kind == "tcp") as server:
                yield server.url


async def test_describe_tells_the_default_environment(url: str) -> None:
    """Name, metadata and three schemas of the first environment come back."""
    about = await describe(url)
    assert (about.name, about.metadata.execution) == ("scripted", "inline")
    assert "Command" in about.action["$defs"]
    assert "Report" in about.observation["$defs"]
    assert "State" in about.state["$defs"]


async def test_describe_tells_another_environment(url: str) -> None:
    """The one that is asked for is described; an unknown one is an error."""
    about = await describe(url, environment="blocking")
    assert (about.name, about.metadata.execution) == ("blocking", "thread")
    with pytest.raises(UnknownEnvironment, match="'a b&c'"):
        await describe(url, environment="a b&c")


async def test_server_health_tells_numbers(url: str) -> None:
    """Capacity comes back in numbers."""
    health = await server_health(url)
    assert (health["status"], health["sessions"]) == ("healthy", 0)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_describe_needs_the_token(in_memory: bool) -> None:
    """Without the token it is refused; with it, it is answered; health needs none."""
    server = (
        MemoryServer(_BOTH, token="sesame")
        if in_memory
        else serving(*_BOTH, token="sesame")
    )
    async with server as found:
        for wrong in (None, "open"):
            with pytest.raises(Unauthorized):
                await describe(found.url, token=wrong)
        assert (await describe(found.url, token="sesame")).name == "scripted"
        assert (await server_health(found.url))["sessions"] == 0


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", ConnectFailed),
        (b"nonsense", ConnectFailed),
        (b"HTTP/1.0 x\r\n\r\n", ConnectFailed),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", RemoteProtocolError),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", RemoteProtocolError),
        (b"HTTP/1.0 500 Oh\r\n\r\n{}", RemoteProtocolError),
        (b'HTTP/1.0 200 OK\r\n\r\n{"default": "a"}', RemoteProtocolError),
        (b"HTTP/1.0 401 No\r\n\r\n{}", Unauthorized),
        (b"HTTP/1.0 401 No\r\n\r\nno", Unauthorized),
    ],
)
async def test_describe_refuses_other_servers(
    answer: bytes, kind: type[OpenEnvError]
) -> None:
    """What is no server of ours is a typed error that names the address."""
    async with answering(answer) as url:
        with pytest.raises(kind, match=f"{url}|token"):
            await describe(url)


async def test_describe_gives_up_in_time() -> None:
    """A server that never answers costs no more than the timeout."""
    async with answering(None) as url:
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed, match=r"within 0\.1 s"):
            await describe(url, timeout=0.1)
        assert asyncio.get_running_loop().time() - began < 2


async def test_describe_names_an_address_where_nobody_is() -> None:
    """Nobody there is a typed error that names the address."""
    for url in ("ws://127.0.0.1:1", "ws+unix:///nowhere/s", "memory://nobody"):
        with pytest.raises(ConnectFailed, match=url.replace("+", r"\+")):
            await describe(url)
