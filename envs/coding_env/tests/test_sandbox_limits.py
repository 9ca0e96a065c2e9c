"""Each limit of a worker, run into."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from coding_env.sandbox import Limits, Sandbox, SandboxPool
from openenv_async import LocalProtocolError

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(pool: SandboxPool) -> AsyncIterator[Sandbox]:
    """A worker with real Python."""
    sandbox = await pool.start("cpython")
    yield sandbox
    await sandbox.aclose()


async def test_memory(sandbox: Sandbox) -> None:
    """More memory than allowed is a MemoryError, and the worker goes on."""
    execution = await sandbox.run("x = bytearray(300 << 20)", timeout=5.0)
    assert execution.error is not None
    assert execution.error.type == "MemoryError"
    assert (await sandbox.run("len(bytearray(100 << 20))", timeout=5.0)).exit_code == 0


async def test_file_size(sandbox: Sandbox) -> None:
    """A file that grows too large is an OSError, and the worker goes on."""
    code = """
f = open('big', 'wb')
for _ in range(5):
    n = f.write(bytes(1 << 20))
"""
    execution = await sandbox.run(code, timeout=5.0)
    assert execution.error is not None
    assert execution.error.message.endswith("File too large")
    assert sandbox.is_alive


async def test_disk(sandbox: Sandbox) -> None:
    """Files that are too large together end the worker, while the code still runs."""
    code = """
import time
for i in range(100):
    with open(f'part{i}', 'wb') as f:
        n = f.write(bytes(1 << 20))
    time.sleep(0.02)
"""
    execution = await sandbox.run(code, timeout=10.0)
    assert (execution.killed, execution.exit_code) == ("disk", 137)
    assert execution.error is not None
    assert "8 MiB" in execution.error.message


async def test_number_of_files(sandbox: Sandbox) -> None:
    """Too many files end the worker, however small they are."""
    code = """
import os, time
for i in range(100_000):
    os.mkdir(str(i))
    if i % 50 == 0: time.sleep(0.01)
"""
    execution = await sandbox.run(code, timeout=10.0)
    assert execution.killed == "disk"


async def test_disk_between_steps(sandbox: Sandbox) -> None:
    """A thread that goes on writing after its step is caught all the same."""
    code = """
import threading, time
def write():
    for i in range(1000):
        with open(f'part{i}', 'wb') as f: f.write(bytes(1 << 20))
        time.sleep(0.005)
threading.Thread(target=write, daemon=True).start()
"""
    await sandbox.run(code, timeout=5.0)
    execution = await sandbox.run("import time\ntime.sleep(5)", timeout=8.0)
    assert execution.killed == "disk"


async def test_descriptors(sandbox: Sandbox) -> None:
    """Too many open files are an OSError."""
    code = "files = [open('/dev/null') for _ in range(100)]"
    execution = await sandbox.run(code, timeout=5.0)
    assert execution.error is not None
    assert "Too many open files" in execution.error.message


async def test_threads_run_and_are_limited(sandbox: Sandbox) -> None:
    """Threads are allowed; without end they are not."""
    code = """
import threading
event = threading.Event()
count = 0
try:
    for _ in range(5000):
        threading.Thread(target=event.wait, daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    pass
event.set()
0 < count < 1000
"""
    assert (await sandbox.run(code, timeout=10.0)).result == "True"


async def test_recursion_ends(sandbox: Sandbox) -> None:
    """Recursion without end is an error or a dead worker, and nothing else."""
    code = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return [f()]\nf()"
    execution = await sandbox.run(code, timeout=10.0)
    assert execution.exit_code != 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_mib", 1),
        ("memory_mib", 2**50),
        ("cpu_seconds", 0),
        ("files", 3),
        ("output_bytes", True),
        ("scratch_mib", 0.5),
    ],
)
async def test_limits_that_cannot_be_meant_are_refused(
    field: str, value: object
) -> None:
    """A limit out of its range names itself, its value and what was expected."""
    with pytest.raises(LocalProtocolError, match=rf"'{field}' .* got {value!r}"):
        Limits(**{field: value}).check()  # type: ignore[arg-type]  # on purpose
