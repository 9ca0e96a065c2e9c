"""What the container stops by itself: attacks by code that no worker's fence is around.

Some run beside the server, as its user; some in an environment that executes code in
the server's own process. What fences a worker is left out here on purpose.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, cast

import anyio
import pytest

from coding_env import CodingAction, CodingEnv
from openenv_async import OpenEnvError, ProviderError, SessionLost, StepResult
from openenv_async.providers.docker import (
    Container,
    DockerOptions,
    DockerProvider,
    Mount,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]

_P99: Final = 5.0
"""Seconds that a session's step may take meanwhile. What runs beside the server has its
priority, unlike workers: a fork bomb leaves it a share of the processors, no more."""
_PYTHON: Final = ("/opt/openenv/bin/python", "-c")
_REAL: Final = "coding_env?interpreter=cpython"
_PLAIN: Final = '''
from coding_env import CodingAction, CodingObservation
from openenv_async import Environment, State

class Plain(Environment[CodingAction, CodingObservation, State]):
    """Executes code where the server is."""

    name = "plain"
    execution = "inline"

    async def reset(self, *, seed=None, episode_id=None, options=None):
        return CodingObservation()

    async def step(self, action):
        names = {}
        exec(action.code, names)
        return CodingObservation(stdout=str(names.get("found", "")))

    def state(self):
        return State()
'''


def _docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


async def _beside(container: Container, program: str, *, check: bool = True) -> str:
    """Run a program in a container, as the user of its server."""
    return await anyio.to_thread.run_sync(
        lambda: _docker("exec", container.name, *_PYTHON, program, check=check)
    )


@contextlib.asynccontextmanager
async def _served(
    image: str, target: str = _REAL, **options: Any
) -> AsyncIterator[Container]:
    variables = {"OPENENV_ASYNC_TARGET": target, **options.pop("environment", {})}
    provider = DockerProvider(image, environment=variables, **options)
    try:
        yield await provider.start()
    finally:
        await provider.stop()


@pytest.fixture
def plain(tmp_path: Path) -> DockerOptions:
    """Options of a container that serves an environment without any fence."""
    (tmp_path / "plain.py").write_text(_PLAIN)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return DockerOptions(
        memory="192m",
        mounts=[Mount(source=str(tmp_path), target="/plain")],
        environment={
            "PYTHONPATH": "/plain",
            "OPENENV_ASYNC_TARGET": "plain:Plain",
        },
    )


async def _step(env: CodingEnv, code: str, timeout: float = 10.0) -> Any:
    result = await env.step(CodingAction(code=code, timeout=timeout))
    return result.observation


# Reaching for the machine

_ATTEMPTS: Final = r"""
import ctypes, errno, json, os, pathlib, socket

libc = ctypes.CDLL(None, use_errno=True)
some = ctypes.create_string_buffer(4096)

def attempt(deed, *arguments):
    try:
        deed(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "done"

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def write(path):
    with open(path, "ab", buffering=0) as file:
        file.write(b"0")

def read(path):
    with open(path, "rb", buffering=0) as file:
        file.read(1)

def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)

def reach(*address):
    socket.create_connection(address, 1).close()

def command(pid):
    return pathlib.Path("/proc", pid, "cmdline").read_bytes()

def changes(root):
    made = []
    for folder, _, _ in os.walk(root):
        try:
            os.mkdir(folder + "/openenv")
        except OSError:
            continue
        made.append(folder)
    return made

processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != "1"]
(server,) = [int(pid) for pid in processes if b"\0serve\0" in command(pid)]
print(json.dumps({
    "kernel settings": attempt(write, "/proc/sys/kernel/core_pattern"),
    "host name": attempt(write, "/proc/sys/kernel/hostname"),
    "reboot by file": attempt(write, "/proc/sysrq-trigger"),
    "kernel memory": attempt(read, "/proc/kcore"),
    "kernel log": attempt(read, "/dev/kmsg"),
    "memory": attempt(read, "/dev/mem"),
    "devices": attempt(write, "/sys/power/state"),
    "control groups": changes("/sys/fs/cgroup"),
    "root of init": os.path.exists("/proc/1/root" + MARKER),
    "root of the server": attempt(os.listdir, f"/proc/{server}/root"),
    "memory of the server": attempt(read, f"/proc/{server}/mem"),
    "environment of the server": attempt(read, f"/proc/{server}/environ"),
    "descriptors of the server": attempt(os.listdir, f"/proc/{server}/fd"),
    "tracing the server": attempt(call, 101, 16, server, 0, 0),
    "reading the server": attempt(call, 310, server, 0, 0, 0, 0, 0),
    "user namespace": attempt(call, 272, 0x10000000),
    "mount namespace": attempt(call, 272, 0x20000),
    "child in a namespace": attempt(call, 56, 0x10000011, 0, 0, 0, 0),
    "namespace of init": attempt(read, "/proc/1/ns/../root/proc/sysrq-trigger"),
    "mount": attempt(call, 165, b"x", b"/tmp", b"tmpfs", 0, 0),
    "new mount": attempt(call, 430, b"tmpfs", 0),
    "tree of mounts": attempt(call, 428, -100, b"/", 1),
    "file by handle": attempt(call, 304, 0, some, 0),
    "kernel programs": attempt(call, 321, 0, some, 64),
    "keys": attempt(call, 250, 0, -3, 1),
    "counters": attempt(call, 298, some, 0, -1, -1, 0),
    "faults": attempt(call, 323, 0),
    "module": attempt(call, 175, some, 10, b""),
    "another kernel": attempt(call, 246, 0, 0, 0, 0),
    "reboot": attempt(call, 169, 0xFEE1DEAD, 672274793, 0, 0),
    "swap": attempt(call, 167, b"/tmp/x", 0),
    "device": attempt(os.mknod, "/tmp/m", 0o20600, os.makedev(1, 1)),
    "root": attempt(os.setuid, 0),
    "groups": attempt(os.setgroups, [0]),
    "root directory": attempt(os.chroot, "/tmp"),
    "setuid program": attempt(write, "/usr/bin/su"),
    "raw": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "packets": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "internet": attempt(reach, "1.1.1.1", 53),
    "cloud": attempt(reach, "169.254.169.254", 80),
    "engine": attempt(connect, "/var/run/docker.sock"),
    "socket's folder": attempt(os.listdir, "/run/openenv-async"),
    "link in it": attempt(os.symlink, "/", "/run/openenv-async/x"),
    "another socket": attempt(os.unlink, "/run/openenv-async/s"),
}))
# It looks as if it worked; the first process of a namespace does not notice.
os.kill(1, 9)
"""
_REFUSALS: Final = frozenset(
    {"EACCES", "EPERM", "EROFS", "ENOENT", "ENOSYS", "ENETUNREACH", "ENODEV"}
)


async def test_nothing_of_the_machine_is_in_reach(
    coding_image: str, tmp_path: Path
) -> None:
    """Code that runs as the server's user gets nothing outside, nor the server's."""
    marker = tmp_path / "of-the-machine"
    marker.touch()
    async with _served(coding_image) as container, CodingEnv(container.url) as env:
        await env.reset()
        program = f"MARKER = {str(marker)!r}\n{_ATTEMPTS}"
        tried: dict[str, object] = json.loads(await _beside(container, program))
        assert tried.pop("control groups") == []
        assert tried.pop("root of init") is False
        assert {
            name: word for name, word in tried.items() if word not in _REFUSALS
        } == {}
        assert (await _step(env, "6 * 7")).result == "42"
        assert await container.diagnose() is None


@pytest.mark.allow_blocking("anyio looks at the path that it listens at")
async def test_a_link_in_the_place_of_the_socket_is_refused(
    coding_image: str, tmp_path: Path
) -> None:
    """An image that sends our clients to a socket of this machine does not start."""
    asked: list[bytes] = []

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.append(await stream.receive())
            await stream.send(b"HTTP/1.0 200 OK\r\n\r\n")

    path = str(tmp_path / "s")
    link = f"import os, time; os.symlink({path!r}, '/run/openenv-async/s')"
    provider = DockerProvider(
        coding_image, entrypoint=[*_PYTHON, f"{link}; time.sleep(60)"]
    )
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        try:
            with pytest.raises(ProviderError, match="expected the server's socket at"):
                await provider.start()
        finally:
            await provider.stop()
            group.cancel_scope.cancel()
    assert asked


# Using up what the container has

_HOGS: Final = {
    "processes": """
import os, time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
""",
    "threads": """
import ctypes, threading, time
threading.stack_size(32768)
try:
    while True:
        threading.Thread(target=time.sleep, args=(1.5,)).start()
except RuntimeError:
    pass
""",
    "scratch": """
import os, time
try:
    with open("/tmp/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
except OSError:
    time.sleep(1.5)
os.remove("/tmp/full")
""",
    "shared memory": """
import os, time
try:
    with open("/dev/shm/full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
except OSError:
    time.sleep(0.5)
os.remove("/dev/shm/full")
""",
    "memory": """
# As workers have it: it is what is killed, not the server.
open("/proc/self/oom_score_adj", "w").write("1000")
x = []
while True:
    x.append(b"x" * (16 << 20))
""",
    "log": "for _ in range(300): print('x' * 65_536, flush=True)",
}


@pytest.mark.parametrize("name", _HOGS)
async def test_a_hog_takes_only_what_the_container_has(
    coding_image: str, name: str
) -> None:
    """Steps go on while something beside the server takes all; so do resets after."""
    limits: dict[str, Any] = {"pids": 96, "memory": "384m", "tmpfs": {"/tmp": "48m"}}
    waits: list[float] = []
    async with (
        _served(coding_image, **limits) as container,
        CodingEnv(container.url) as env,
        CodingEnv(container.url) as other,
    ):
        await env.reset()
        await other.reset()
        async with anyio.create_task_group() as group:

            async def work() -> None:
                while True:
                    before = time.monotonic()
                    assert (await _step(env, "1 + 1")).result == "2"
                    waits.append(time.monotonic() - before)
                    await anyio.sleep(0.005)

            group.start_soon(work)
            await _beside(container, _HOGS[name], check=False)
            group.cancel_scope.cancel()
        assert sorted(waits)[int(0.99 * len(waits))] < _P99
        with anyio.fail_after(10):
            while (await container.stats()).pids > 24:  # noqa: ASYNC110 (no event)
                await anyio.sleep(0.05)
        await other.reset()
        assert (await _step(other, "open('x', 'w').write('hi')")).result == "2"
        assert await container.diagnose() is None


async def test_a_reset_without_room_is_an_error_and_works_later(
    coding_image: str,
) -> None:
    """Where no process can be started, reset() says so; nothing else is lost."""
    hog = _HOGS["processes"].replace("1.5", "5")
    async with _served(coding_image, pids=64) as container:
        async with CodingEnv(container.url) as env, CodingEnv(container.url) as other:
            await env.reset()
            await other.reset()
            async with anyio.create_task_group() as group:
                group.start_soon(_beside, container, hog)
                with anyio.fail_after(10):
                    while (await container.stats()).pids < 60:  # noqa: ASYNC110 (no event)
                        await anyio.sleep(0.02)
                with pytest.raises(OpenEnvError, match="a worker to start"):
                    await env.reset()
                assert (await _step(other, "1 + 1")).result == "2"
            await env.reset()
            assert (await _step(env, "1 + 1")).result == "2"


async def test_workers_die_for_memory_before_the_server(coding_image: str) -> None:
    """Sessions that fill the container's memory together end; others are served."""
    hoard = "x = bytearray(200 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n1"
    async with _served(coding_image, memory="512m") as container:
        async with CodingEnv(container.url) as bystander:
            await bystander.reset()
            async with CodingEnv.batch(container.url, size=4) as hogs:
                await hogs.reset()
                results = await hogs.step([CodingAction(code=hoard)] * 4)
                seen = [one for one in results if isinstance(one, StepResult)]
                assert len(seen) == 4
                killed = [one for one in seen if one.observation.exit_code == 137]
                assert killed
                assert all(one.truncated for one in killed)
                assert (await _step(bystander, "6 * 7")).result == "42"
                await hogs.reset()
                again = await hogs.step([CodingAction(code="1 + 1")] * 4)
                seen = [one for one in again if isinstance(one, StepResult)]
                assert [one.observation.result for one in seen] == ["2"] * 4
        assert await container.diagnose() is None


# The end of a server

_ENDS: Final = {
    "memory": ("found = [b'x' * (16 << 20) for _ in range(100)]", -9, True),
    "kill": ("import os\nos.kill(os.getpid(), 9)", -9, False),
    "crash": ("import ctypes\nctypes.string_at(0)", -11, False),
    "exit": ("import os\nos._exit(3)", 3, False),
}


@pytest.mark.parametrize("name", _ENDS)
async def test_a_server_that_ends_costs_only_its_own_sessions(
    coding_image: str, plain: DockerOptions, name: str
) -> None:
    """Its sessions are lost with exit code and cause; another container serves on."""
    code, exit_code, oom_killed = _ENDS[name]
    async with (
        _served(coding_image) as container,
        CodingEnv(container.url) as other,
        CodingEnv.from_docker_image(coding_image, container=plain) as env,
    ):
        await other.reset()
        await env.reset()
        with anyio.fail_after(20):
            with pytest.raises(SessionLost) as caught:
                await _step(env, code)
        assert caught.value.detail["exit_code"] == exit_code
        assert caught.value.detail["oom_killed"] is oom_killed
        assert caught.value.fault == "infrastructure"
        assert (await _step(other, "6 * 7")).result == "42"
        died = cast(Container, env.server)
        assert (await died.diagnose()) is not None
        assert await container.diagnose() is None
