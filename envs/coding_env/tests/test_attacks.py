"""Attacks on the sandbox: each fails, in time, while another session is served.

An attack prints ESCAPED when it gets what it wants. With real Python only the fences
around the process can stop it, with and without namespaces; smolagents' interpreter
stops most of them before.
"""

from __future__ import annotations

import os
import socket
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import anyio
import pytest
import pytest_asyncio

from coding_env.sandbox import Execution, PoolConfig, Sandbox, SandboxPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DEADLINE = 1.0
_SLACK = 3.0
"""Seconds beyond the deadline that a busy machine may take to kill and tell."""
_TOKEN = "token-of-the-server-7f3a"


class _Target(NamedTuple):
    kind: str
    pool: SandboxPool


@pytest_asyncio.fixture(
    loop_scope="module",
    scope="module",
    params=["cpython-auto", "cpython-off", "smolagents-auto"],
)
async def target(
    request: pytest.FixtureRequest,
    open_pool: Callable[..., Awaitable[SandboxPool]],
) -> _Target:
    """An interpreter, with namespaces where the machine has them, or without."""
    kind, _, namespaces = request.param.partition("-")
    # All modules, so that smolagents' list of them is not what stops an attack.
    imports = ("*",) if kind == "smolagents" else ()
    pool = await open_pool(
        kinds=(kind,), namespaces=namespaces, authorized_imports=imports
    )
    return _Target(kind, pool)


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(target: _Target) -> AsyncIterator[Sandbox]:
    """Whose code attacks."""
    sandbox = await target.pool.start(target.kind)
    yield sandbox
    await sandbox.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def bystander(target: _Target) -> AsyncIterator[Sandbox]:
    """Whose code only works."""
    sandbox = await target.pool.start(target.kind)
    yield sandbox
    await sandbox.aclose()


async def _attack(sandbox: Sandbox, bystander: Sandbox, code: str) -> Execution:
    """Run an attack to its end while somebody else works; neither may suffer."""
    waits: list[float] = []
    attack_ended, served_after = anyio.Event(), anyio.Event()
    started = time.monotonic()
    async with anyio.create_task_group() as group:

        async def work() -> None:
            while True:
                is_after = attack_ended.is_set()
                before = time.monotonic()
                execution = await bystander.run("1 + 1", timeout=20.0)
                waits.append(time.monotonic() - before)
                assert execution.result == "2"
                if is_after:
                    served_after.set()
                await anyio.sleep(0.005)

        group.start_soon(work)
        execution = await sandbox.run(textwrap.dedent(code), timeout=_DEADLINE)
        attack_ended.set()
        # At least one of the bystander's steps lies behind the attack.
        await served_after.wait()
        group.cancel_scope.cancel()
    assert time.monotonic() - started < _DEADLINE + _SLACK
    waits.sort()
    assert waits[int(0.9 * len(waits))] < 0.5, "another session was kept waiting"
    assert "ESCAPED" not in execution.stdout
    return execution


# Using up the machine

_GREEDY = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "memory": "x = []\nwhile True: x.append(bytearray(10_000_000))",
    "memory in one piece": "x = bytearray(10**12)\nprint('ESCAPED')",
    "huge integer": "x = 10 ** (10 ** 8)\nwhile True: x = x * x",
    "huge text": "x = 'x'\nwhile True: x = x + x",
    "endless output": "while True: print('x' * 10_000)",
    "endless result": "def f(n):\n    return [f(n + 1)]\nf(0)",
    "disk": """
        for i in range(10**6):
            with open(f'file{i}', 'wb') as f:
                f.write(bytes(1 << 20))
        """,
    "descriptors": """
        files = []
        while True:
            files.append(open('/dev/null'))
        """,
    "threads": """
        import threading, time
        while True:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        """,
    "ignoring signals": """
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True: pass
        """,
    "catching everything": """
        while True:
            try:
                while True: pass
            except BaseException:
                pass
        """,
    "stopping itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("name", _GREEDY)
async def test_greed_harms_only_itself(
    sandbox: Sandbox, bystander: Sandbox, name: str
) -> None:
    """Code that takes all it can get ends with an error, or is ended."""
    execution = await _attack(sandbox, bystander, _GREEDY[name])
    assert execution.exit_code != 0
    assert execution.error is not None
    assert len(execution.stdout.encode()) <= 4096


# Getting out

_PROCESSES = {
    "fork": "import os\nos.fork()",
    "fork bomb": "import os\nwhile True: os.fork()",
    "vfork": "import ctypes\nassert ctypes.CDLL(None).vfork() >= 0",
    "clone": "import ctypes\nassert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0",
    "clone3": """
        import ctypes
        arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
        assert ctypes.CDLL(None).syscall(435, arguments, 88) >= 0
        """,
    "exec": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])",
    "subprocess": """
        import subprocess
        subprocess.run(['/bin/sh', '-c', 'echo ESCAPED'], check=True)
        """,
    "system": "import os\nassert os.system('echo ESCAPED') == 0",
    "spawn": "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'echo ESCAPED'], {{}})",
    "multiprocessing": """
        import multiprocessing
        multiprocessing.Process(target=print).start()
        """,
    "daemon": """
        import os
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True: pass
        """,
}

_SIGNALS = {
    "parent": "import os\nos.kill(os.getppid(), 9)",
    "server": "import os\nos.kill({server}, 9)",
    "server, politely": "import os\nos.kill({server}, 0)",
    "init": "import os\nos.kill(1, 9)",
    "everybody": "import os\nos.kill(-1, 9)",
    "group of the parent": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "by descriptor": """
        import os, signal
        signal.pidfd_send_signal(os.pidfd_open({server}), 9)
        """,
    "a thread of the parent": """
        import ctypes, os
        assert ctypes.CDLL(None).syscall(200, os.getppid(), 9) == 0
        """,
    "stay behind": "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
}

_SECRETS = {
    "environment of init": "open('/proc/1/environ', 'rb').read()",
    "environment of the server": "open('/proc/{server}/environ', 'rb').read()",
    "environment of the parent": """
        import os
        open(f'/proc/{{os.getppid()}}/environ', 'rb').read()
        """,
    "memory of the server": "open('/proc/{server}/mem', 'rb')",
    "memory map of the parent": """
        import os
        open(f'/proc/{{os.getppid()}}/maps').read()
        """,
    "list of processes": "import os\nos.listdir('/proc')",
    "memory of the parent": """
        import ctypes, os
        assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0
        """,
    "memory of the parent in one call": """
        import ctypes, os
        assert ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) >= 0
        """,
    "passwords": "open('/etc/shadow').read()",
    "users": "open('/etc/passwd').read()",
    "the root directory": "import os\nos.listdir('/')",
    "temporary files": "import os\nos.listdir('/tmp')",
    "a file of the server": "open({secret!r}).read()",
    "by a symbolic link": """
        import os
        os.symlink({secret!r}, 'link')
        open('link').read()
        """,
    "by a hard link": "import os\nos.link({secret!r}, 'link')\nopen('link').read()",
    "by a renamed directory": """
        import os
        os.rename(os.path.dirname({secret!r}), 'moved')
        open('moved/secret').read()
        """,
    "another session": "import os\nos.listdir('../{bystander}')",
    "a file of another session": "open('../{bystander}/mine').read()",
    "the sessions": "import os\nos.listdir('..')",
}

_WRITING = {
    "temporary file": "open('/tmp/escaped', 'w')",
    "shared memory": "open('/dev/shm/escaped', 'w')",
    "above": "open('../escaped', 'w')",
    "another session": "open('../{bystander}/mine', 'w')",
    "a directory above": "import os\nos.mkdir('../escaped')",
    "the package": "import coding_env\nopen(coding_env.__file__, 'a')",
    "the standard library": "import os\nopen(os.__file__, 'a')",
    "the server's file": "open({secret!r}, 'w')",
    "the server's file, removed": "import os\nos.remove({secret!r})",
    "mode of the server's file": """
        import os
        os.chmod({secret!r}, 0o777)
        open({secret!r})
        """,
    "memory that is no file": "import os\nos.memfd_create('escaped')",
    "shared memory of System V": """
        import ctypes
        assert ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0
        """,
}

_NETWORK = {
    "internet": "import socket\nsocket.create_connection(('1.1.1.1', 53), 0.5)",
    "datagram": """
        import socket
        socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))
        """,
    "loopback": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 0.5)",
    "the server's socket": """
        import socket
        socket.socket(socket.AF_UNIX).connect({socket!r})
        """,
    "an abstract socket": """
        import socket
        socket.socket(socket.AF_UNIX).connect('\\0{abstract}')
        """,
    "listening": "import socket\nsocket.create_server(('127.0.0.1', 0))",
    "raw": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a pair of datagrams": "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)",
    "name": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "io_uring": """
        import ctypes
        assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) >= 0
        """,
}

_PRIVILEGES = {
    "root": "import os\nassert os.getuid()\nos.setuid(0)",
    "groups": "import os\nos.setgroups([0])",
    "user namespace": """
        import ctypes
        assert ctypes.CDLL(None).unshare(0x10000000) == 0
        """,
    "namespace of init": "import ctypes, os\nassert ctypes.CDLL(None).setns(3, 0) == 0",
    "root directory": "import os\nos.chroot('.')",
    "mount": """
        import ctypes
        assert ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, 0) == 0
        """,
    "higher limit": """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        """,
    "somebody else's limit": """
        import os, resource
        resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))
        """,
    "somebody else's priority": """
        import os
        os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)
        """,
    "higher priority": "import os\nos.setpriority(os.PRIO_PROCESS, 0, -5)",
    "readable memory": """
        import ctypes
        assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0
        """,
    "kernel programs": """
        import ctypes
        assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0
        """,
    "keys": "import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
}

_ESCAPES = {
    f"{topic}: {name}": code
    for topic, attacks in [
        ("process", _PROCESSES),
        ("signal", _SIGNALS),
        ("secret", _SECRETS),
        ("write", _WRITING),
        ("network", _NETWORK),
        ("privilege", _PRIVILEGES),
    ]
    for name, code in attacks.items()
}


@pytest.fixture(scope="module")
def prey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What an attack is after: a file, a port and sockets of this process."""
    folder = tmp_path_factory.mktemp("prey")
    secret = folder / "secret"
    secret.write_text(_TOKEN)
    # Readable for everybody, so that no file mode is what stops an attack.
    for directory in (folder, *folder.parents):
        if os.stat(directory).st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    secret.chmod(0o666)
    abstract = f"prey-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as unnamed,
    ):
        path = str(folder / "socket")
        named.bind(path)
        named.listen()
        Path(path).chmod(0o777)
        unnamed.bind(f"\0{abstract}")
        unnamed.listen()
        yield {
            "server": os.getpid(),
            "secret": str(secret),
            "port": listening.getsockname()[1],
            "socket": path,
            "abstract": abstract,
        }
    assert secret.read_text() == _TOKEN
    assert not Path("/tmp/escaped").exists()
    assert not Path("/dev/shm/escaped").exists()


@pytest.mark.parametrize("name", _ESCAPES)
async def test_escape_is_refused(
    sandbox: Sandbox, bystander: Sandbox, prey: dict[str, object], name: str
) -> None:
    """Code that reaches for what is not its own gets an error, and nothing else."""
    await bystander.run("with open('mine', 'w') as f:\n    n = f.write('x')", timeout=5)
    code = textwrap.dedent(_ESCAPES[name]).format(bystander=bystander.number, **prey)
    execution = await _attack(sandbox, bystander, f"{code}\nprint('ESCAPED')")
    assert execution.exit_code != 0
    assert execution.error is not None
    assert _TOKEN not in execution.stdout + execution.stderr


@pytest.mark.parametrize("namespaces", ["auto", "off"])
@pytest.mark.parametrize("is_hidden", [True, False])
@pytest.mark.usefixtures("open_pool")
async def test_hidden_files_cannot_be_read(
    namespaces: Literal["auto", "off"], is_hidden: bool
) -> None:
    """Files that the pool was told to hide cannot be read; others of Python can."""
    file = os.path.join(os.path.dirname(os.__file__), "colorsys.py")
    pool = SandboxPool(
        PoolConfig(
            kinds=("cpython",),
            namespaces=namespaces,
            hidden=(file,) if is_hidden else (),
        )
    )
    try:
        sandbox = await pool.start("cpython")
        execution = await sandbox.run(f"len(open({file!r}).read()) > 0", timeout=5.0)
        await sandbox.aclose()
    finally:
        await pool.aclose()
    assert (execution.result == "True") is not is_hidden
