"""Each guard can fail: pytest runs tests that break it, with our own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

_PRELUDE = """
import asyncio, socket, subprocess, sys, threading, time, warnings
import pytest

kept = []  # what a test leaves behind would end with it otherwise

def start(coroutine):
    task = asyncio.get_running_loop().create_task(coroutine)
    kept.append(task)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> _Run:
    """Run tests given as source, with the guards and settings of this project."""
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    monkeypatch.delenv("OPENENV_ASYNC_NO_SKIP", raising=False)
    return _Run(pytester)


class _Run:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(self, source: str, /, **outcomes: int) -> pytest.RunResult:
        path = self._pytester.makepyfile(_PRELUDE + source)
        result = self._pytester.runpytest_subprocess(
            *("-c", _ROOT / "pyproject.toml", "--rootdir=."),
            *("-p", "tests.guards", "--grace=0.2", path),
        )
        result.assert_outcomes(**outcomes)
        return result


def test_guards_pass_clean_tests(run: _Run) -> None:
    """Tests that tidy up pass, with threads, children, sockets and tasks in them."""
    run(
        """
async def test_task_ends_as_the_loop_closes():
    start(asyncio.sleep(0))

async def test_thread():
    await asyncio.to_thread(time.sleep, 0.01)

async def test_child():
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    assert await process.wait() == 0

async def test_socket():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

@pytest.fixture(scope="module", autouse=True)
def shared():
    with socket.socket():
        yield
""",
        passed=4,
    )


def test_guards_fail_leftover_tasks(run: _Run) -> None:
    """A task that outlives its test, fixture or thread's loop is an error."""
    result = run(
        """
async def test_task():
    start(asyncio.sleep(60))

@pytest.fixture
async def started():
    start(asyncio.sleep(60))

def test_fixture(started):
    pass

def test_loop_of_thread():
    async def main():
        start(asyncio.sleep(60))
    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    thread.join()
""",
        passed=3,
        errors=3,
    )
    result.stdout.fnmatch_lines(["task left behind: <Task *coro=<sleep() *"] * 3)


def test_guards_fail_lost_exceptions(run: _Run) -> None:
    """An exception that nobody sees is an error, unless the test expects it."""
    result = run(
        """
async def fail():
    raise ValueError("lost")

async def test_task():
    start(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    kept.clear()

async def test_future():
    asyncio.get_running_loop().create_future().set_exception(ValueError("lost"))

async def test_callback():
    asyncio.get_running_loop().call_soon(int, "lost")

async def test_callback_under_another_handler():
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    asyncio.get_running_loop().call_soon(int, "lost")

async def test_expected(lost_exceptions):
    asyncio.get_running_loop().call_soon(int, "lost")
    await asyncio.sleep(0)
    assert isinstance(lost_exceptions.pop()["exception"], ValueError)
""",
        passed=5,
        errors=4,
    )
    result.stdout.fnmatch_lines(["exception lost: *: ValueError(*lost*"] * 4)


def test_guards_fail_lost_exceptions_of_uvloop(run: _Run) -> None:
    """The handler of uvloop is watched like asyncio's."""
    pytest.importorskip("uvloop", reason="uvloop does not exist on Windows")
    run(
        """
import uvloop

def test_callback():
    async def main():
        asyncio.get_running_loop().call_soon(int, "lost")
        await asyncio.sleep(0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
""",
        passed=1,
        errors=1,
    )


def test_guards_fail_leftover_resources(run: _Run) -> None:
    """A thread, child process or socket that outlives its test is an error."""
    result = run(
        """
def test_thread():
    threading.Thread(target=time.sleep, args=[1]).start()

def test_child():
    kept.append(subprocess.Popen(["sleep", "1"]))

def test_child_is_not_waited_for():
    process = subprocess.Popen(["true"])
    process.returncode = 0  # so that Popen itself does not complain
    kept.append(process)

def test_socket():
    kept.append(socket.socket())
""",
        passed=4,
        errors=4,
    )
    result.stdout.fnmatch_lines(
        [
            "thread left behind: <Thread*",
            "child process left behind: * sleep 1",
            "child process left behind: * (ended, but nobody waited for it)",
            "socket left behind: socket:*",
        ]
    )


def test_guards_fail_blocking_calls(run: _Run) -> None:
    """A call that blocks the loop raises in async tests, unless it is allowed."""
    result = run(
        """
async def test_sleep():
    time.sleep(0.01)

@pytest.mark.allow_blocking("the test is about it")
async def test_sleep_allowed():
    time.sleep(0.01)

def test_sleep_outside_the_loop():
    time.sleep(0.01)
""",
        passed=2,
        failed=1,
    )
    result.stdout.fnmatch_lines(["*BlockingError: Blocking call to time.sleep"])


def test_guards_fail_warnings_and_unraisable_exceptions(run: _Run) -> None:
    """What Python would only print fails the test."""
    run(
        """
def test_warning():
    warnings.warn("look")

def test_finalizer():
    class Resource:
        def __del__(self):
            raise ValueError
    Resource()

def test_thread():
    thread = threading.Thread(target=int, args=["lost"])
    thread.start()
    thread.join()

async def test_coroutine_never_awaited():
    asyncio.sleep(0)

def test_file_never_closed():
    open(__file__)
""",
        failed=5,
    )


_SKIPPING = """
def test_skips():
    pytest.skip("no such thing")

@pytest.mark.xfail
def test_fails_as_expected():
    raise ValueError
"""


def test_guards_let_tests_skip(run: _Run) -> None:
    """On a developer's machine a skip is a skip."""
    run(_SKIPPING, skipped=1, xfailed=1)


def test_guards_fail_skips_where_none_is_allowed(
    run: _Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CI a skip is a failure that names the reason; an expected failure is not."""
    monkeypatch.setenv("OPENENV_ASYNC_NO_SKIP", "1")
    result = run(_SKIPPING, failed=1, xfailed=1)
    result.stdout.fnmatch_lines(["*NO_SKIP=1 allows no skip: no such thing*"])
    run("pytest.skip('all of it', allow_module_level=True)", errors=1)
    run("pytest.importorskip('no_such_module')", errors=1)
