"""The patrol: what no limit of the kernel bounds is bounded by looking."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
import pytest_asyncio

from coding_env.sandbox import Limits, SandboxPool
from coding_env.sandbox.fences import beneath
from coding_env.sandbox.patrol import Patrol, started_threads

_with_pool = pytest.mark.asyncio(loop_scope="module")

_SPAWN = """
import threading, time
threading.stack_size(32768)
for _ in range({}):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_user(
    open_pool: Callable[..., Awaitable[SandboxPool]],
) -> AsyncIterator[SandboxPool]:
    """A pool whose workers have no users of their own, as in a container."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coding_env.sandbox.pool.reserve_users", lambda *, isolate: None)
        yield await open_pool(limits=Limits(threads=20, scratch_mib=8, file_mib=4))


@_with_pool
async def test_threads_are_counted_where_users_are_not(
    shared_user: SandboxPool,
) -> None:
    """Without a user of its own a worker is killed for threads, and only that one."""
    assert "user" in {one.name for one in shared_user.fences if not one.in_force}
    other = await shared_user.start("cpython")
    # Its own thread counts.
    assert (await other.run(_SPAWN.format(19), timeout=5.0)).exit_code == 0
    crowd = await shared_user.start("cpython")
    execution = await crowd.run(f"{_SPAWN.format(400)}\ntime.sleep(9)", timeout=10.0)
    assert (execution.killed, execution.exit_code) == ("threads", 137)
    assert execution.error is not None
    assert execution.error.message == "expected at most 20 threads"
    assert (await other.run("1 + 1", timeout=5.0)).result == "2"
    await crowd.aclose()
    await other.aclose()


@_with_pool
@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("for i in range(40): open(f'part{i}', 'wb').write(bytes(1 << 20))", "disk"),
        (
            "while True: threading.Thread(target=time.sleep, args=(9,)).start()",
            "threads",
        ),
    ],
)
async def test_what_goes_on_between_steps_is_looked_at(
    shared_user: SandboxPool, deed: str, reason: str
) -> None:
    """A thread that outlives its step gains nothing by that."""
    code = f"""
import threading, time
def later():
    time.sleep(0.3)
    threading.stack_size(32768)
    {deed}
threading.Thread(target=later, daemon=True).start()
"""
    sandbox = await shared_user.start("cpython")
    assert (await sandbox.run(code, timeout=5.0)).exit_code == 0
    with anyio.fail_after(10):
        while sandbox.is_alive:  # noqa: ASYNC110 (sets no event)
            await anyio.sleep(0.02)
    assert (await sandbox.run("1", timeout=5.0)).killed == reason
    await sandbox.aclose()


class _Suspect:
    def __init__(self, number: int, uid: int | None) -> None:
        self.number = number
        self.uid = uid
        self.is_alive = self.is_running = True
        self.caught = 0

    def out_of_disk(self) -> None:
        self.caught += 1


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Threads to look with."""
    executor = started_threads()
    yield executor
    executor.shutdown()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Directories of two workers, of which the first one is too full."""
    for name in ("1/a", "1/b", "2"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


async def test_only_who_needs_it_is_looked_at(
    folders: Path, executor: ThreadPoolExecutor
) -> None:
    """Threads are counted without a user, disk always, and nothing once it is over."""
    inspected: list[list[int]] = []
    patrol = Patrol(
        Limits(scratch_files=1),
        str(folders),
        executor=executor,
        inspect=inspected.append,
    )
    full, empty = _Suspect(1, uid=7), _Suspect(2, uid=None)
    patrol.watch(full)
    patrol.watch(empty)
    with anyio.fail_after(5):
        while full.caught < 2:  # noqa: ASYNC110 (sets no event)
            await anyio.sleep(0.01)
    assert empty.caught == 0
    assert [2] in inspected
    assert not any(1 in numbers for numbers in inspected)
    patrol.forget(full)
    patrol.forget(empty)
    await anyio.sleep(0.12)
    count = len(inspected)
    await anyio.sleep(0.12)
    assert len(inspected) == count
    patrol.close()


def test_threads_are_there_from_the_start(executor: ThreadPoolExecutor) -> None:
    """Looking needs no new thread, which hostile code could keep us from."""
    before = set(threading.enumerate())
    assert len([one for one in before if one.name.startswith("coding-env")]) >= 2
    for work in [executor.submit(time.sleep, 0.01) for _ in range(8)]:
        work.result()
    assert set(threading.enumerate()) == before


def test_links_do_not_lead_to_what_is_hidden(tmp_path: Path) -> None:
    """Where something is secret, a link to its folder makes it no more readable."""
    root = tmp_path.resolve()
    for folder in ("lib/secret", "lib/open", "share"):
        (root / folder).mkdir(parents=True)
    (root / "lib64").symlink_to("lib")
    (root / "lib" / "up").symlink_to("..")
    found = set(beneath(root, [root / "lib" / "secret"]))
    assert found == {str(root / "lib" / "open"), str(root / "share")}
    assert list(beneath(root / "share", [root / "lib" / "secret"])) == [
        str(root / "share")
    ]
