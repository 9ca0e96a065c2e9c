"""Attacks on the sandbox: each fails, in time, while another session is served.

An attack prints ESCAPED when it gets what it wants. With real Python only the fences
around the process can stop it, with and without namespaces; smolagents' interpreter
stops most of them before.
"""

from __future__ import annotations

import os
import socket
import time
import tomllib
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
_ATTACKS = tomllib.loads(Path(__file__).with_name("attacks.toml").read_text("utf-8"))
_GREEDY: dict[str, str] = _ATTACKS.pop("greed")
_ESCAPES: dict[str, str] = {
    f"{topic}: {name}": code
    for topic, attacks in _ATTACKS.items()
    for name, code in attacks.items()
}
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
        execution = await sandbox.run(code, timeout=_DEADLINE)
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
    code = _ESCAPES[name].format(bystander=bystander.number, **prey)
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
