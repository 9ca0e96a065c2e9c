"""The engine is found where it is, and its troubles are told with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiodocker.exceptions import DockerError

from echo_env import EchoAction, EchoEnv
from openenv_async import ProviderError
from openenv_async.providers.docker import DockerProvider, Engine
from openenv_async.providers.docker.engine import explaining, find_engine
from openenv_async.providers.docker.statistics import statistics_of
from tests.chaos.processes import short_folder
from tests.providers.containers import started

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    with short_folder() as folder:
        yield folder


@contextlib.asynccontextmanager
async def _listening(
    handler: _Handler, path: Path | None = None, port: int = 0
) -> AsyncIterator[str]:
    """A server for connections; yields its address as an engine's."""

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if path is None:
        server = await asyncio.start_server(handle, "127.0.0.1", port)
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(handle, path)
        address = f"unix://{path}"
    try:
        yield address
    finally:
        server.close()
        await server.wait_closed()


def _forwarding(path: str) -> _Handler:
    """Forward connections to a Unix socket, as a tunnel to a remote engine does."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()

    async def forward(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(path)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(copy, reader, upstream_writer)
                await copy(upstream_reader, writer)
                group.cancel_scope.cancel()
        finally:
            upstream_writer.close()

    return forward


def _answering(body: dict[str, Any], status: str = "200 OK") -> _Handler:
    """Answer every request in the same way."""
    text = json.dumps(body).encode()

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(text)}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n" + text)
        await writer.drain()

    return answer


# An engine that is not beside us


@pytest.mark.docker
@pytest.mark.timeout(60)
async def test_engine_behind_a_tunnel_gets_a_port(
    echo_image: str, engine_url: str
) -> None:
    """An engine that is not on a socket of ours is used by a published port."""
    handler = _forwarding(engine_url.removeprefix("unix://"))
    async with _listening(handler) as address:
        async with started(echo_image, engine=address) as provider:
            container = await provider.start()
            assert container.url.startswith("ws://127.0.0.1:")
            async with EchoEnv(container.url) as env:
                await env.reset()
                await env.step(EchoAction(message="hi"))
            assert [line async for line in container.logs(tail=1)]
            await container.stop()


@pytest.mark.docker
@pytest.mark.timeout(60)
async def test_engine_that_is_lost_is_no_death(
    echo_image: str, engine_url: str
) -> None:
    """While the engine does not answer, nobody claims that a container has died."""
    handler = _forwarding(engine_url.removeprefix("unix://"))
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(_listening(handler))
        provider = DockerProvider(echo_image, engine=address, run="lost")
        container = await provider.start()
        await stack.aclose()
        assert await container.diagnose() is None
        with pytest.raises(ProviderError, match="expected a container engine at"):
            await container.stop()
        with pytest.raises(ProviderError, match="expected a container engine at"):
            await provider.stop()
        port = int(address.rpartition(":")[2])
        async with _listening(handler, port=port):
            await provider.stop()
        assert not provider.containers


# Troubles


@pytest.mark.docker
async def test_missing_image_is_named() -> None:
    """An image that the engine does not have is named, with ways to get it."""
    provider = DockerProvider("no-such-image:ever")
    with pytest.raises(ProviderError, match="no-such-image:ever") as caught:
        await provider.start()
    assert "docker pull" in str(caught.value)
    assert "openenv-async build" in str(caught.value)
    assert caught.value.fault == "caller"
    assert not provider.containers


@pytest.mark.docker
async def test_missing_network_is_named(echo_image: str) -> None:
    """A network that the engine does not have is named."""
    async with started(echo_image, network="nowhere") as provider:
        with pytest.raises(ProviderError, match=r"nowhere not found.*network ls"):
            await provider.start()


@pytest.mark.docker
async def test_container_that_cannot_run_is_told(echo_image: str) -> None:
    """What the engine says of a container that it cannot run is passed on."""
    async with started(echo_image, entrypoint=["/no/such/program"]) as provider:
        with pytest.raises(ProviderError, match="/no/such/program"):
            await provider.start()


@pytest.mark.docker
async def test_too_many_processors_are_refused(echo_image: str) -> None:
    """More processors than the engine has are refused before anything starts."""
    async with started(echo_image, cpus=4000) as provider:
        with pytest.raises(ProviderError, match=r"at most \d+, .* got 4000"):
            await provider.start()


async def test_missing_engine_is_told(folder: Path) -> None:
    """Where no engine is, the error says how to start one, and how to name it."""
    engine = Engine(f"unix://{folder}/none")
    with pytest.raises(ProviderError, match="No such file") as caught:
        await engine.facts()
    assert "systemctl start docker" in str(caught.value)
    assert "DOCKER_HOST" in str(caught.value)
    assert caught.value.retryable


async def test_engine_that_refuses_us_is_told(folder: Path) -> None:
    """Where we lack permission, the error says how to get it."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        engine = Engine(f"unix://{path}")
        await anyio.to_thread.run_sync(__import__, "aiodocker")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)
        try:
            with pytest.raises(ProviderError, match="permission") as caught:
                await engine.facts()
        finally:
            os.seteuid(user)
    assert "usermod -aG docker" in str(caught.value)


async def test_old_engine_is_refused(folder: Path) -> None:
    """An engine that does not know our options is refused by its version."""
    handler = _answering({"ApiVersion": "1.38"})
    async with _listening(handler, folder / "s") as address:
        with pytest.raises(ProviderError, match=r"1\.40 .* got v1\.38"):
            await Engine(address).facts()


async def test_nonsense_is_refused(folder: Path) -> None:
    """Something that listens but is no engine is an error of ours."""

    async def handler(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.org\r\n")

    async with _listening(handler, folder / "s") as address:
        with pytest.raises(ProviderError, match="lost the engine at unix"):
            await Engine(address).facts()


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:x", "tcp://h:99999", "http://[::1"])
async def test_address_that_is_none_is_refused(url: str) -> None:
    """An address that cannot be right is named; it is an error of ours too."""
    with pytest.raises(ProviderError, match="expected an engine at") as caught:
        await DockerProvider("x", engine=url).start()
    assert repr(url) in str(caught.value)
    assert caught.value.fault == "caller"


async def test_engine_without_aiodocker_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the extra, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    with pytest.raises(ProviderError, match=r"pip install 'openenv-async\[docker\]'"):
        await DockerProvider("x").start()


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (500, "mkdir /var/x: no space left on device", "docker system prune"),
        (404, "No such image: a:b", "docker pull a:b"),
        (404, "network nowhere not found", "docker network ls"),
        (400, "invalid thing", "refused: invalid thing .status 400."),
        (409, "is in use", "refused: is in use .status 409."),
    ],
)
def test_refusals_say_what_to_do(status: int, text: str, expected: str) -> None:
    """What the engine refuses becomes an error with a way out."""
    with (
        pytest.raises(ProviderError, match=expected) as caught,
        explaining("unix:///x"),
    ):
        raise DockerError(status, text)
    assert text in str(caught.value) or text.partition(": ")[2] in str(caught.value)


# Where it is


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of nobody."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    return folder


def _add_context(home: Path, name: str, host: str) -> None:
    docker = home / ".docker"
    meta = docker / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    endpoints = {"docker": {"Host": host}}
    (meta / "meta.json").write_text(json.dumps({"Endpoints": endpoints}))
    (docker / "config.json").write_text(json.dumps({"currentContext": name}))


def test_engine_is_found_by_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DOCKER_HOST` comes first, as it does for the `docker` command."""
    _add_context(home, "there", "unix:///there")
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.1.2.3:2375")
    assert find_engine() == "tcp://10.1.2.3:2375"


def test_engine_is_found_by_the_context(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context that was chosen, or that is named, says where the engine is."""
    _add_context(home, "there", "unix:///there")
    assert find_engine() == "unix:///there"
    monkeypatch.setenv("DOCKER_CONTEXT", "missing")
    assert find_engine() != "unix:///there"


def test_engine_is_found_by_its_socket(home: Path) -> None:
    """Without a word, the engine is at the usual place."""
    assert find_engine().startswith("unix:///")
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text("no json")
    assert find_engine().startswith("unix:///")


# Samples of other engines


def test_statistics_are_read_with_either_version_of_cgroups() -> None:
    """Cached files do not count as memory, whatever the kernel calls them."""
    for name in ("total_inactive_file", "inactive_file"):
        sample = {"memory_stats": {"usage": 100, "stats": {name: 30}, "limit": 200}}
        assert statistics_of(sample).memory_bytes == 70


@pytest.mark.parametrize(
    "sample", [{}, {"memory_stats": None}, None, {"pids_stats": 1}]
)
def test_statistics_of_what_has_ended_are_zero(sample: object) -> None:
    """An engine has no numbers for what has ended."""
    statistics = statistics_of(sample)
    assert statistics.cpu_seconds == statistics.memory_bytes == statistics.pids == 0
    assert statistics.pids_limit is None
