"""Local servers end with their owner, however that ends, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import (
    Failure,
    LocalProvider,
    LocalServer,
    ProviderError,
    SessionLost,
)
from tests.chaos.processes import Process, is_alive, running, short_folder

_OWNER = """
import asyncio, signal, sys, time
from echo_env import EchoAction, EchoEnv

# A shell that ignores it, as under nohup, hands that down.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

async def main(how, execution="inline"):
    provider = EchoEnv.provider(execution=execution, workers=2)
    async with EchoEnv(provider=provider) as env:
        await env.reset()
        print("server", env.server.pid, flush=True)
        if how == "raise":
            raise RuntimeError("on purpose")
        if how == "sleep":
            await asyncio.sleep(60)

def blocking():
    env = EchoEnv.local()
    with env.sync() as blocking:
        blocking.reset()
        print("server", env.server.pid, flush=True)
        time.sleep(60)

if sys.argv[1] == "sync":
    blocking()
else:
    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where providers put their folders, and nothing else."""
    with short_folder() as folder:
        temporary = folder / "t"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield folder


def _left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "t"))


async def _left_async(folder: Path) -> list[str]:
    return await anyio.to_thread.run_sync(_left, folder)


async def _is_alive(pid: int | None) -> bool:
    assert pid is not None
    return await anyio.to_thread.run_sync(is_alive, pid)


def _wait_until(condition: Callable[[], object], patience: float = 8.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def _module(folder: Path, name: str, text: str) -> dict[str, str]:
    """Write a module; returns the variables with which a server finds it."""
    (folder / f"{name}.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@contextlib.contextmanager
def _owner(folder: Path, *how: str) -> Iterator[tuple[Process, int]]:
    """A process that owns a server; ends the server too, whatever a test found."""
    arguments = ["-c", _OWNER, *how]
    with running(arguments, folder, {"TMPDIR": str(folder / "t")}) as owner:
        pid = int(owner.line("server "))
        try:
            yield owner, pid
        finally:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


# In this process


async def test_a_normal_exit_stops_the_server(folder: Path) -> None:
    """Leaving the block ends the process and removes the socket's folder."""
    provider = EchoEnv.provider()
    async with EchoEnv(provider=provider) as env:
        await env.reset()
        result = await env.step(EchoAction(message="hi"))
        assert result.observation.echoed_message == "hi"
        (server,) = provider.servers
        assert env.server is server
        assert await _is_alive(server.pid)
        assert len(await _left_async(folder)) == 1
    assert not await _is_alive(server.pid)
    assert not provider.servers
    assert await _left_async(folder) == []


async def test_no_room_for_a_folder_is_a_provider_s_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing can be written, the error says so; nothing is left to stop."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no/such/folder")
    provider = LocalProvider("echo_env")
    with pytest.raises(ProviderError, match="temporary folder"):
        await provider.start()
    await provider.stop()


async def test_an_exception_stops_the_server(folder: Path) -> None:
    """The body's own exception comes out, and nothing is left."""
    provider = EchoEnv.provider()
    with pytest.raises(ZeroDivisionError):
        async with EchoEnv(provider=provider) as env:
            await env.reset()
            (server,) = provider.servers
            raise ZeroDivisionError
    assert not await _is_alive(server.pid)
    assert await _left_async(folder) == []


async def test_a_batch_that_cannot_open_stops_its_server(folder: Path) -> None:
    """A provider is stopped when the sessions do not fit on its server."""
    provider = EchoEnv.provider(max_sessions=2)
    with pytest.raises(Exception, match="2"):
        await EchoEnv.batch(size=3, provider=provider).open()
    assert not provider.servers
    assert await _left_async(folder) == []


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.02, 0.1])
async def test_cancelling_the_start_leaves_nothing(folder: Path, delay: float) -> None:
    """Whenever the start is cancelled, process and folder go."""
    env = EchoEnv.local()
    opening = asyncio.ensure_future(env.open())  # noqa: TID251 (cancelled below)
    await asyncio.sleep(delay)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await _left_async(folder) == []


async def test_a_provider_starts_as_many_as_are_asked_for(folder: Path) -> None:
    """Each start() is a server of its own; stop() ends all, and may be repeated."""
    provider = LocalProvider("echo_env")
    first = await provider.start()
    second = await provider.start()
    assert first.url != second.url
    assert list(provider.servers) == [first, second]
    await first.stop()
    await first.stop()
    assert list(provider.servers) == [second]
    assert await second.diagnose() is None
    await provider.stop()
    await provider.stop()
    assert not provider.servers
    third = await provider.start()
    await third.stop()
    assert await _left_async(folder) == []


async def test_a_server_with_a_debug_pane_says_where(folder: Path) -> None:
    """Each has a port of its own on loopback; without asking there is none."""
    provider = LocalProvider("echo_env", web=True)
    try:
        one, other = [await provider.start() for _ in range(2)]
        assert one.pane_url is not None
        assert one.pane_url != other.pane_url
        async with httpx.AsyncClient() as client:
            page = await client.get(one.pane_url)
        assert "<html" in page.text
    finally:
        await provider.stop()
    assert (await _started_and_stopped()).pane_url is None


async def _started_and_stopped() -> LocalServer:
    provider = LocalProvider("echo_env")
    server = await provider.start()
    await provider.stop()
    return server


async def test_a_killed_server_loses_its_sessions_at_once(folder: Path) -> None:
    """The error says that the server died and how; nobody reconnects to nothing."""
    async with EchoEnv.batch(size=2, provider=EchoEnv.provider()) as envs:
        await envs.reset()
        (server,) = envs.servers
        assert isinstance(server, LocalServer)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            results = await envs.step([EchoAction(message="hi")] * 2)
        for result in results:
            assert isinstance(result, Failure)
            assert isinstance(result.error, SessionLost)
            assert "exit status -9" in str(result.error)
            assert result.error.detail["exit_code"] == -9


async def test_a_reset_after_a_death_starts_another_server(folder: Path) -> None:
    """A reset asks for a new episode, so it gets a new server as well."""
    async with EchoEnv.batch(size=2, provider=EchoEnv.provider()) as envs:
        await envs.reset()
        (first,) = envs.servers
        assert isinstance(first, LocalServer)
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await envs.step([EchoAction(message="hi")] * 2)
        for result in await envs.reset():
            assert not isinstance(result, Failure)
        (second,) = envs.servers
        assert second is not first
        assert len(await _left_async(folder)) == 1
    assert await _left_async(folder) == []


async def test_two_servers_live_side_by_side(folder: Path) -> None:
    """Two clients with servers of their own do not notice each other."""
    one, two = EchoEnv.provider(), EchoEnv.provider()
    async with EchoEnv(provider=one) as first:
        async with EchoEnv(provider=two) as second:
            assert first.server is not second.server
            assert len(await _left_async(folder)) == 2
            await second.reset()
        assert len(await _left_async(folder)) == 1
        await first.reset()
        result = await first.step(EchoAction(message="still here"))
        assert result.observation.echoed_message == "still here"
    assert await _left_async(folder) == []


# Servers that do not start


async def test_a_server_that_dies_early_shows_its_output(folder: Path) -> None:
    """Exit status and last words are in the error."""
    variables = await anyio.to_thread.run_sync(
        _module,
        folder,
        "dying",
        'print("no luck today", flush=True)\nraise SystemExit(3)\n',
    )
    provider = LocalProvider("dying", environment=variables)
    with pytest.raises(ProviderError, match="exit status 3") as caught:
        await provider.start()
    assert "no luck today" in str(caught.value)
    assert "no luck today" in caught.value.log
    assert await _left_async(folder) == []


async def test_a_package_that_is_missing_is_named(folder: Path) -> None:
    """The error says what could not be imported."""
    with pytest.raises(ProviderError) as caught:
        await EchoEnv.local("no_such_environment").open()
    assert "expected an importable package" in str(caught.value)
    assert "no_such_environment" in str(caught.value)
    assert await _left_async(folder) == []


async def test_a_server_that_does_not_answer_in_time_is_stopped(folder: Path) -> None:
    """After the start timeout the error says so, with the output so far."""
    text = 'import time\nprint("thinking", flush=True)\ntime.sleep(60)\n'
    variables = await anyio.to_thread.run_sync(_module, folder, "slow", text)
    provider = LocalProvider("slow", environment=variables, start_timeout=0.6)
    with pytest.raises(ProviderError, match=r"within 0\.6 s") as caught:
        await provider.start()
    assert "thinking" in str(caught.value)
    assert await _left_async(folder) == []


def test_a_provider_needs_something_to_serve() -> None:
    """Without a target, nothing is started."""
    with pytest.raises(ProviderError, match="something to serve"):
        LocalProvider()


# Owners that end


def test_an_owner_that_returns_or_raises_takes_its_server_along(folder: Path) -> None:
    """The exit status is the owner's own, and no server and no folder are left."""
    for how, status in (("return", 0), ("raise", 1)):
        with _owner(folder, how) as (owner, pid):
            assert owner.wait() == status, owner.output()
            assert not is_alive(pid)
            assert _left(folder) == []


@pytest.mark.parametrize("how", ["sleep", "sync"])
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP]
)
def test_a_signal_to_the_owner_ends_its_server(
    folder: Path, how: str, number: signal.Signals
) -> None:
    """Ctrl-C, SIGTERM, SIGHUP and SIGKILL leave neither server nor folder."""
    with _owner(folder, how) as (owner, pid):
        owner.signal(number)
        assert owner.wait() != 0
        _wait_until(lambda: not is_alive(pid))
        assert _left(folder) == []


def test_workers_end_with_the_owner_of_their_server(folder: Path) -> None:
    """After SIGKILL of the owner, the server's worker processes go as well."""
    with _owner(folder, "sleep", "process") as (owner, pid):
        workers = _children(pid)
        assert workers
        owner.kill()
        _wait_until(lambda: not any(map(is_alive, [pid, *workers])))
        assert _left(folder) == []


def test_workers_end_with_a_server_that_is_killed(folder: Path) -> None:
    """After SIGKILL of the server itself, its worker processes end by themselves."""
    with _owner(folder, "sleep", "process") as (_, pid):
        workers = _children(pid)
        assert workers
        os.kill(pid, signal.SIGKILL)
        _wait_until(lambda: not any(map(is_alive, [pid, *workers])))


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, listing.read_text().split()))
    return found


def test_an_owner_killed_during_the_start_leaves_no_server(folder: Path) -> None:
    """A server whose owner is gone before it serves ends as well."""
    arguments = ["-c", _OWNER, "sleep"]
    with running(arguments, folder, {"TMPDIR": str(folder / "t")}) as owner:
        _wait_until(lambda: _children(owner.pid))
        pids = _children(owner.pid)
        owner.kill()
        _wait_until(lambda: not any(map(is_alive, pids)))
        assert _left(folder) == []
