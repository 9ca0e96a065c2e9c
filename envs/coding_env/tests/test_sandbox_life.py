"""What comes and goes with workers, zygote and server, and that nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from coding_env.sandbox import PoolConfig, SandboxPool
from openenv_async import LocalProtocolError, ProviderError, ServerDied

# It looks at files and processes of the machine; test_sandbox.py watches the loop.
pytestmark = pytest.mark.allow_blocking("looks at the machine")

_CONFIG = PoolConfig(kinds=("cpython",))


@pytest.fixture(autouse=True)
def _place(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Temporary files of this test alone, where any user may pass."""
    # pytest's own stay where they are.
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield


def _bases() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("openenv-coding-*")}


def _family(pid: int) -> list[int]:
    """A process's descendants."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listing.read_text().split()):
            found += [child, *_family(child)]
    return found


def _sessions(pool: SandboxPool) -> Path:
    zygote = pool._zygote
    assert zygote is not None
    return Path(zygote.launched.sessions)


async def test_two_hundred_sessions_leave_nothing() -> None:
    """Sessions that come and go leave no process, descriptor, file or user behind."""
    async with _pool() as pool:
        await (await pool.start("cpython")).aclose()
        # The last user is given back in the turn after the last removal.
        await asyncio.sleep(0)
        before = (_descriptors(), len(_family(os.getpid())), _free_users(pool))
        for number in range(200):
            sandbox = await pool.start("cpython")
            if number % 3 == 0:
                await sandbox.run("open('file', 'w').write('x')", timeout=5.0)
            elif number % 3 == 1:
                await sandbox.run("import os\nos._exit(1)", timeout=5.0)
            await sandbox.aclose()
        await asyncio.sleep(0)
        after = (_descriptors(), len(_family(os.getpid())), _free_users(pool))
        assert after == before
        assert list(_sessions(pool).iterdir()) == []
        assert not pool._sandboxes


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _free_users(pool: SandboxPool) -> int:
    return 0 if pool._users is None else len(pool._users._free)


def _pool(config: PoolConfig = _CONFIG) -> _Opened:
    return _Opened(config)


class _Opened:
    def __init__(self, config: PoolConfig) -> None:
        self._pool = SandboxPool(config)

    async def __aenter__(self) -> SandboxPool:
        return self._pool

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()


async def test_64_sessions_run_at_a_time() -> None:
    """Sixty-four sessions start together and each gets its own results."""
    async with _pool() as pool, anyio.create_task_group() as group:

        async def play(number: int) -> None:
            sandbox = await pool.start("cpython")
            try:
                await sandbox.run(f"x = {number}", timeout=10.0)
                for step in range(10):
                    execution = await sandbox.run("x += 1\nx", timeout=10.0)
                    assert execution.result == str(number + step + 1)
            finally:
                await sandbox.aclose()

        for number in range(64):
            group.start_soon(play, number)


_SERVER = """
import asyncio, sys
from coding_env.sandbox import PoolConfig, SandboxPool

async def main():
    pool = SandboxPool(PoolConfig(kinds=("cpython",), namespaces=sys.argv[1]))
    sandbox = await pool.start("cpython")
    await sandbox.run("open('left', 'w').write('x')", timeout=5)
    print(pool._zygote.launched.base, flush=True)
    await sandbox.run("while True: pass", timeout=60)

asyncio.run(main())
"""


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_everything_ends_with_a_killed_server(namespaces: str) -> None:
    """After SIGKILL of the server no zygote, worker or file of a session is left."""
    command = [sys.executable, "-c", _SERVER, namespaces]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        base = Path(server.stdout.readline().strip())
        family = _family(server.pid)
        assert len(family) >= 2
        assert list((base / "sessions").iterdir())
        server.kill()
        server.wait()
        _wait_until(lambda: not any(map(_lives, family)))
    # Under bubblewrap the empty directory is a mount that the zygote cannot remove.
    assert not (base / "sessions").exists()
    if base.exists():
        assert list(base.iterdir()) == []
        base.rmdir()


def test_nothing_is_left_by_a_server_that_ends_without_closing() -> None:
    """A server that simply ends, its pool still open, leaves no directory either."""
    code = _SERVER.replace('"while True: pass", timeout=60', '"1", timeout=5')
    command = [sys.executable, "-c", code, "auto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()
    assert not _bases()


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie waits for init, which the test does not control.
    return status.rpartition(")")[2].split()[0] != "Z"


def _wait_until(holds: object, seconds: float = 10.0) -> None:
    assert callable(holds)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "expected it to become true in time"
        time.sleep(0.01)


async def test_directories_of_dead_servers_are_swept() -> None:
    """A pool removes the empty directories that killed servers left, and no others."""
    parent = Path(tempfile.gettempdir())
    stale, used = (parent / f"openenv-coding-test-{kind}" for kind in "su")
    stale.mkdir(exist_ok=True)
    (used / "sessions").mkdir(parents=True, exist_ok=True)
    try:
        async with _pool() as pool:
            await pool.warm_up()
        assert not stale.exists()
        assert used.exists()
    finally:
        (used / "sessions").rmdir()
        used.rmdir()


async def test_the_directory_goes_with_the_pool() -> None:
    """A closed pool leaves no directory, whatever its workers wrote."""
    before = _bases()
    async with _pool() as pool:
        sandbox = await pool.start("cpython")
        await sandbox.run("open('file', 'w').write('x')", timeout=5.0)
        assert len(_bases() - before) == 1
    assert _bases() <= before


async def test_death_of_the_zygote_is_an_error_and_the_next_start_works() -> None:
    """When the zygote dies, runs raise ServerDied; a new one serves the next worker."""
    # Fixtures of the whole session may have processes of their own.
    others = _family(os.getpid())
    async with _pool() as pool:
        sandbox = await pool.start("cpython")
        async with asyncio.TaskGroup() as group:
            run = group.create_task(
                _died(sandbox.run("while True: pass", timeout=20.0))
            )
            await asyncio.sleep(0.05)
            assert pool._zygote is not None
            for pid in set(_family(os.getpid())).difference(others):
                # Some end with the one before.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert run.result()
        await sandbox.aclose()
        second = await pool.start("cpython")
        assert (await second.run("1 + 1", timeout=5.0)).result == "2"
        await second.aclose()


async def _died(running: object) -> bool:
    try:
        await running  # type: ignore[misc]  # a coroutine
    except ServerDied:
        return True
    return False


async def test_closing_the_pool_ends_what_runs() -> None:
    """A run in flight raises when its pool is closed, and is not an observation."""
    async with _pool() as pool:
        sandbox = await pool.start("cpython")
        async with asyncio.TaskGroup() as group:
            run = group.create_task(
                _died(sandbox.run("while True: pass", timeout=20.0))
            )
            await asyncio.sleep(0.05)
            await pool.aclose()
        assert run.result()
        await sandbox.aclose()
        with pytest.raises(LocalProtocolError, match="open pool"):
            await pool.start("cpython")


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.1, 0.4])
async def test_a_cancelled_start_leaves_nothing(delay: float) -> None:
    """Cancelling the first start, at any moment, leaks neither process nor file."""
    before = _bases(), set(_family(os.getpid()))
    async with _pool() as pool:
        with anyio.move_on_after(delay):
            sandbox = await pool.start("cpython")
            await sandbox.aclose()
    assert _bases() <= before[0]
    # Fixtures of the whole session may have processes of their own.
    assert set(_family(os.getpid())) <= before[1]


async def test_an_interpreter_that_cannot_be_imported_is_named() -> None:
    """An authorized module that is not installed is an error that names it."""
    config = PoolConfig(kinds=("smolagents",), authorized_imports=("no_such_module",))
    async with _pool(config) as pool:
        with pytest.raises(ProviderError, match="no_such_module"):
            await pool.start("smolagents")


async def test_removal_follows_no_links(tmp_path: Path) -> None:
    """What a worker links to stays when its directory is removed."""
    (tmp_path / "precious").write_text("x")
    async with _pool() as pool:
        sandbox = await pool.start("cpython")
        code = f"""
import os
os.symlink({str(tmp_path)!r}, 'link')
os.mkdir('d')
os.symlink({str(tmp_path)!r}, 'd/link')
os.chmod('d', 0)
top = os.getcwd()
for i in range(40):
    os.mkdir('deep'); os.chdir('deep')
"""
        execution = await sandbox.run(code, timeout=5.0)
        assert execution.error is None
        await sandbox.aclose()
        assert list(_sessions(pool).iterdir()) == []
    assert (tmp_path / "precious").read_text() == "x"
