"""Containers start, serve, are fenced in, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import ProviderError, ServerDied
from openenv_async.providers.docker import Container, ContainerStatistics, Mount
from tests.providers.containers import (
    containers_of,
    death_of,
    docker,
    inside,
    started,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]

_ON_CUE = """
import os, pathlib, sys, threading, time

def wait():
    while not pathlib.Path("/tmp/now").exists():
        time.sleep(0.01)
    {deed}

threading.Thread(target=wait, daemon=True).start()
from openenv_async.cli import main
sys.argv = ["openenv-async", "serve", "echo_env", *sys.argv[1:]]
main()
"""
"""A server that does something once `/tmp/now` is there."""


@contextlib.asynccontextmanager
async def _serving(image: str, **options: Any) -> AsyncIterator[Container]:
    """A container that serves; nothing is left of it at the end."""
    async with started(image, **options) as provider:
        yield await provider.start()


@contextlib.asynccontextmanager
async def _doing(image: str, deed: str, **options: Any) -> AsyncIterator[Container]:
    """A server in which something has just been done."""
    program = _ON_CUE.format(deed=deed)
    entrypoint = ["/opt/openenv/bin/python", "-c", program]
    async with _serving(image, entrypoint=entrypoint, **options) as container:
        # It may end before the command that tells it does.
        await anyio.to_thread.run_sync(
            lambda: docker("exec", container.name, "touch", "/tmp/now", check=False)
        )
        yield container


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that a container of any user may write into."""
    with tempfile.TemporaryDirectory(prefix="openenv-test-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


async def _inspect(container: Container) -> Any:
    text = await anyio.to_thread.run_sync(lambda: docker("inspect", container.name))
    return json.loads(text)[0]


async def _echo(url: str) -> str:
    async with EchoEnv(url) as env:
        await env.reset()
        result = await env.step(EchoAction(message="hi"))
    return result.observation.echoed_message


# Starting and stopping


@pytest.mark.parametrize("connection", ["unix", "tcp"])
async def test_start_serves(echo_image: str, connection: str) -> None:
    """A container serves when start() returns, and is gone when stop() does."""
    async with started(echo_image, connection=connection) as provider:
        container = await provider.start()
        assert await _echo(container.url) == "hi"
        assert container.url.startswith("ws+unix" if connection == "unix" else "ws://")
        assert await container.diagnose() is None
        assert provider.containers == (container,)
        await container.stop()
        assert not await anyio.to_thread.run_sync(containers_of, provider.run)
        await container.stop()
        assert await container.diagnose() is None


async def test_start_serves_many_at_once(echo_image: str) -> None:
    """Eight containers that start at the same time all serve, each by its own way."""
    async with started(echo_image) as provider:
        containers: list[Container] = []

        async def start() -> None:
            containers.append(await provider.start())

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(start)
        assert len({container.url for container in containers}) == 8
        for container in containers:
            assert await _echo(container.url) == "hi"


async def test_stop_ends_the_server_gently(echo_image: str, shared: Path) -> None:
    """A server ends as it does by SIGTERM; it is not killed."""
    deed = "import atexit; atexit.register(lambda: open('/kept/end', 'w'))"
    mounts = [Mount(source=str(shared), target="/kept", writable=True)]
    async with _doing(echo_image, deed, mounts=mounts) as container:
        await anyio.sleep(0.1)
        await container.stop()
        assert await anyio.to_thread.run_sync((shared / "end").exists)


async def test_stop_waits_for_a_start(echo_image: str) -> None:
    """A container that is stopped while it starts is gone, and its start says so."""
    async with started(echo_image) as provider:

        async def start() -> None:
            with pytest.raises(ProviderError, match="stopped while it started"):
                await provider.start()

        async with anyio.create_task_group() as group:
            group.start_soon(start)
            while not provider.containers:  # noqa: ASYNC110 (sets no event)
                await anyio.sleep(0.001)
            await provider.stop()


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.02, 0.04, 0.08, 0.15, 0.25, 0.35])
async def test_start_leaves_nothing_when_cancelled(
    echo_image: str, delay: float
) -> None:
    """A start that is cancelled, at whatever moment, leaves nothing behind."""
    async with started(echo_image) as provider:
        with anyio.move_on_after(delay):
            await provider.start()
        assert not provider.containers or delay > 0.3


async def test_stop_goes_on_when_cancelled_twice(echo_image: str) -> None:
    """A stop that is cancelled, and cancelled again, still removes the container."""
    async with started(echo_image) as provider:
        container = await provider.start()
        with anyio.CancelScope() as outer:
            with anyio.CancelScope() as inner:
                inner.cancel()
                outer.cancel()
                await container.stop()
        assert not await anyio.to_thread.run_sync(containers_of, provider.run)


# The fences, tried from inside

_ATTEMPTS = """
import ctypes, errno, json, os, resource, socket, subprocess

def attempt(deed):
    try:
        deed()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"

def write(path):
    return lambda: open(path, "w").write("x")

def execute():
    with open("/tmp/x", "w") as file:
        file.write("#!/bin/sh\\n")
    os.chmod("/tmp/x", 0o755)
    subprocess.run(["/tmp/x"], check=True)

def mount():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "")

def connect():
    with socket.socket() as outside:
        outside.settimeout(2)
        outside.connect(("192.0.2.1", 80))

def fork():
    children = []
    try:
        for _ in range(200):
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            children.append(child)
    finally:
        os.close(writer)
        for child in children:
            os.waitpid(child, 0)

reader, writer = os.pipe()
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":", 1) for line in lines)
print(json.dumps({
    "root": attempt(write("/x")),
    "code": attempt(write("/opt/openenv/x")),
    "scratch": attempt(write("/tmp/y")),
    "beside": attempt(write("/run/openenv-async/x")),
    "replace": attempt(lambda: os.unlink("/run/openenv-async/s")),
    "execute": attempt(execute),
    "mount": attempt(mount),
    "chroot": attempt(lambda: os.chroot("/tmp")),
    "setuid": attempt(lambda: os.setuid(0)),
    "chown": attempt(lambda: os.chown("/tmp/y", 1, 1)),
    "raw": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "device": attempt(lambda: os.mknod("/tmp/d", 0o60600, 0x800)),
    "clock": attempt(lambda: __import__("time").clock_settime(0, 0)),
    "connect": attempt(connect),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "fork": attempt(fork),
    "user": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
}))
"""


async def test_container_is_fenced_in(echo_image: str) -> None:
    """What a program in a container may not do, it cannot do."""
    async with _serving(echo_image, pids=64) as container:
        tried = await inside(container, _ATTEMPTS)
    user = tried.pop("user")
    assert user != 0
    if os.geteuid() != 0:  # the folder stays the container's, who has our number
        tried |= {"beside": "EACCES", "replace": "EACCES"}
    assert tried == {
        "root": "EROFS",
        "code": "EROFS",
        "scratch": "done",
        "beside": "EACCES",
        "replace": "EACCES",
        "execute": "EACCES",
        "mount": "EPERM",
        "chroot": "EPERM",
        "setuid": "EPERM",
        "chown": "EPERM",
        "raw": "EPERM",
        "device": "EPERM",
        "clock": "EPERM",
        "connect": "ENETUNREACH",
        "interfaces": ["lo"],
        "fork": "EAGAIN",
        "capabilities": 0,
        "new_privileges": 1,
        "seccomp": 2,
    }


async def test_container_runs_what_is_opened(echo_image: str) -> None:
    """What an option opens, a program in the container can do."""
    async with _serving(
        echo_image,
        tmpfs={"/tmp": "8m,exec"},
        read_only=False,
        user="0",
        capabilities=["CHOWN", "SETUID"],
        network="bridge",
    ) as container:
        tried = await inside(container, _ATTEMPTS)
        assert await _echo(container.url) == "hi"
    for name in ("root", "execute", "setuid", "chown"):
        assert tried[name] == "done"
    assert tried["user"] == 0
    assert "eth0" in tried["interfaces"]
    assert tried["mount"] == "EPERM"


async def test_scratch_is_bounded(echo_image: str) -> None:
    """Scratch space ends at its size, and the folder of the socket is in memory."""
    program = """
import errno, json, os
def fill(path, most):
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < most:
                written += file.write(bytes(1 << 20))
    except OSError as error:
        return [errno.errorcode[error.errno], written >> 20]
    return ["done", written >> 20]
where = [line.split() for line in open("/proc/self/mounts")]
print(json.dumps([
    fill("/tmp/fill", 64 << 20),
    next(kind for _, path, kind, *_ in where if path == "/run/openenv-async"),
]))
"""
    async with _serving(echo_image, tmpfs={"/tmp": "4m"}) as container:
        filled, kind = await inside(container, program)
    assert filled == ["ENOSPC", 4]
    assert kind == "tmpfs"


async def test_port_has_no_way_out(echo_image: str) -> None:
    """With a published port, the network is one whose packets get no answers."""
    async with _serving(echo_image, connection="tcp") as container:
        found = await _inspect(container)
        text = await anyio.to_thread.run_sync(
            lambda: docker("network", "inspect", "openenv-async")
        )
        names = await inside(
            container,
            "import json, socket\n"
            "try: socket.getaddrinfo('example.org', 80)\n"
            "except OSError as error: print(json.dumps(type(error).__name__))",
        )
    assert list(found["NetworkSettings"]["Networks"]) == ["openenv-async"]
    options = json.loads(text)[0]["Options"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    assert options["com.docker.network.bridge.enable_icc"] == "false"
    assert names == "gaierror"


# Dying


async def test_diagnose_knows_a_kill(echo_image: str) -> None:
    """A container that somebody killed is known by the signal."""
    async with _serving(echo_image) as container:
        await anyio.to_thread.run_sync(lambda: docker("kill", container.name))
        died = await death_of(container)
        assert (died.exit_code, died.oom_killed) == (-9, False)
        assert "SIGKILL" in str(died)
        assert "serving echo_env" in died.log


async def test_diagnose_knows_an_exit(echo_image: str) -> None:
    """A server that ended by itself is known by its exit status and its last lines."""
    deed = "print('the end is near', flush=True); os._exit(3)"
    async with _doing(echo_image, deed) as container:
        died = await death_of(container)
        assert (died.exit_code, died.oom_killed) == (3, False)
        assert "exit status 3" in died.message
        assert "the end is near" in died.log
        assert [line async for line in container.logs()][-1] == "the end is near"


async def test_diagnose_knows_that_memory_was_used_up(echo_image: str) -> None:
    """A server that the kernel ended for its memory is known by that."""
    deed = "kept = [b'x' * (16 << 20) for _ in range(100)]"
    async with _doing(echo_image, deed, memory="128m") as container:
        died = await death_of(container)
        assert died.oom_killed
        assert died.exit_code == -9
        assert "out of memory (its limit is '128m')" in died.message


async def test_diagnose_knows_the_memory_of_a_child(echo_image: str) -> None:
    """A server below the first process is known too; a child that is not, is not."""
    hog = "import json; print('null', flush=True); kept = [b'x' * (1 << 28)]"
    chosen = """
import pathlib
for path in pathlib.Path("/proc").glob("[0-9]*"):
    if path.name != "1" and b"serve" in (path / "cmdline").read_bytes():
        (path / "oom_score_adj").write_text("1000")
print("null")
"""
    async with _serving(echo_image, memory="128m") as container:

        def eat() -> None:
            python = ("/opt/openenv/bin/python", "-c", hog)
            docker("exec", container.name, *python, check=False)

        await anyio.to_thread.run_sync(eat)
        assert await container.diagnose() is None
        await inside(container, chosen)
        await anyio.to_thread.run_sync(eat)
        died = await death_of(container)
        assert (died.exit_code, died.oom_killed) == (-9, True)


async def test_diagnose_knows_a_removal(echo_image: str) -> None:
    """A container that somebody removed is known to be gone; stop() is content."""
    async with _serving(echo_image) as container:
        await anyio.to_thread.run_sync(lambda: docker("rm", "-f", container.name))
        died = await death_of(container)
        assert died.exit_code is None
        assert "removed" in str(died)


async def test_start_says_how_a_server_died(echo_image: str) -> None:
    """A server that dies before it serves is an error with its last lines."""
    entrypoint = ["/bin/sh", "-c", "echo no luck today >&2; exit 7"]
    async with started(echo_image, entrypoint=entrypoint) as provider:
        with pytest.raises(ServerDied, match="no luck today") as caught:
            await provider.start()
    assert caught.value.exit_code == 7


async def test_start_gives_up(echo_image: str) -> None:
    """A server that does not answer in time is an error with its last lines."""
    async with started(
        echo_image,
        entrypoint=["/bin/sh", "-c", "echo thinking; sleep 60"],
        start_timeout=0.5,
    ) as provider:
        with pytest.raises(ProviderError, match=r"within 0\.5 s") as caught:
            await provider.start()
    assert caught.value.log == "thinking"


async def test_server_ends_when_nobody_is_connected(echo_image: str) -> None:
    """A server whose clients have all gone ends by itself after its idle limit."""
    async with _serving(echo_image, idle_timeout=0.5) as container:
        died = await death_of(container)
        assert died.exit_code == 0


# Logs and statistics


async def test_logs_are_streamed(echo_image: str) -> None:
    """Lines come when they are printed, and end with the server."""
    deed = "print('one\\ntwo', flush=True); time.sleep(0.3); print('three', flush=True)"
    deed += "; os._exit(0)"
    async with _doing(echo_image, deed) as container:
        async with contextlib.aclosing(container.logs(follow=True)) as lines:
            followed = [line async for line in lines]
        assert followed[-3:] == ["one", "two", "three"]
        assert [line async for line in container.logs(tail=2)] == ["two", "three"]


async def test_logs_can_be_left(echo_image: str) -> None:
    """A stream of logs that is left early, or cancelled, leaves nothing open."""
    async with _serving(echo_image) as container:
        async with contextlib.aclosing(container.logs(follow=True)) as lines:
            assert "serving" in await anext(lines)
        with anyio.move_on_after(0.2) as scope:
            async with contextlib.aclosing(container.logs(follow=True)) as lines:
                async for _ in lines:
                    pass
        assert scope.cancelled_caught


async def test_stats_count(echo_image: str) -> None:
    """Statistics say what a container uses, and what it may use."""
    async with _serving(echo_image, memory="256m", pids=99) as container:
        before = await container.stats()
        await inside(container, "sum(range(10**6)); print(0)")
        after = await container.stats()
    assert isinstance(before, ContainerStatistics)
    assert after.cpu_seconds > before.cpu_seconds > 0.05
    assert 5 << 20 < before.memory_bytes < before.memory_limit_bytes == 256 << 20
    assert 1 <= before.pids <= 99
    assert before.pids_limit == 99
    assert before.received_bytes == before.sent_bytes == 0


async def test_logs_and_stats_of_what_is_gone(echo_image: str) -> None:
    """What is asked of a container that is gone is an error that names it."""
    async with _serving(echo_image) as container:
        await container.stop()
        with pytest.raises(ProviderError, match=container.name):
            await anext(container.logs())
        with pytest.raises(ProviderError, match=container.name):
            await container.stats()


# Ports


async def test_start_tries_again_when_a_port_is_taken(echo_image: str) -> None:
    """A port that somebody holds is tried again, and taken once it is free."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with started(echo_image, ports=(port, port)) as provider:

            async def free() -> None:
                await anyio.sleep(0.6)
                holder.close()

            async with anyio.create_task_group() as group:
                group.start_soon(free)
                container = await provider.start()
            assert container.url == f"ws://127.0.0.1:{port}"
            assert await _echo(container.url) == "hi"


async def test_start_says_when_no_port_is_free(echo_image: str) -> None:
    """Ports that are all taken are an error that names them, and leave nothing."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        async with started(echo_image, ports=(port, port)) as provider:
            with pytest.raises(ProviderError, match=f"free port .*{port}") as caught:
                await provider.start()
    assert caught.value.retryable


async def test_start_says_when_no_port_of_a_range_is_free(echo_image: str) -> None:
    """The engine has other words for a range of which it has given out all."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    async with started(echo_image, ports=(port, port + 1)) as provider:
        with pytest.raises(ProviderError, match=f"free port .*{port}") as caught:
            # One more than there can be.
            for _ in range(3):
                await provider.start()
    assert caught.value.retryable
