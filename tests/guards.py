"""Guards around every test: what it leaves behind, loses or blocks is its failure.

- A task that is left when an event loop closes (`_closed_with`).
- An exception that nobody retrieved, or any other call of a loop's exception handler
  (`lost_exceptions`; a test that provokes one clears the list).
- A thread, child process or socket that outlives the test (`_nothing_left`).
- A call that blocks the event loop of an async test (`_no_blocking_call`; the marker
  `allow_blocking` lifts it).

Warnings, unraisable exceptions and exceptions in threads are errors through pytest's
own `filterwarnings`. Resources of module and session fixtures are not a test's: they
exist before it starts. They are their fixture's to close.

Tests that need what a machine may lack carry a marker of `_REQUIREMENTS` and are
skipped by name. With `OPENENV_ASYNC_NO_SKIP=1`, as in CI, a skip is a failure.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.util
import os
import shutil
import subprocess
import threading
import time
from asyncio import runners
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from blockbuster import BlockBuster
from xdist.scheduler import (  # type: ignore[import-untyped]  # ships no types
    LoadScopeScheduling,
)

__all__ = ["lost_exceptions"]

_Context: TypeAlias = dict[str, Any]

_leftover_tasks: list[str] = []
_lost: list[_Context] = []

# Tasks and lost exceptions

_LAST_TURNS = 10
"""Turns of a closing loop in which callbacks of what has been closed may still run."""


def _closed_with(
    cancel: Callable[[asyncio.AbstractEventLoop], None],
) -> Callable[..., None]:
    """Note the tasks that a loop still has when its runner closes it."""

    def cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_LAST_TURNS):
            if not asyncio.all_tasks(loop):
                break
            loop.call_soon(loop.stop)
            loop.run_forever()
        _leftover_tasks.extend(map(repr, asyncio.all_tasks(loop)))
        cancel(loop)

    return cancel_all_tasks


def _noting(handle: Callable[[Any, _Context], None]) -> Callable[[Any, _Context], None]:
    """Note what reaches a loop's exception handler, whichever handler is installed."""

    def call_exception_handler(
        loop: asyncio.AbstractEventLoop, context: _Context
    ) -> None:
        if not _is_anyio_s(context):
            _lost.append(context)
        handle(loop, context)

    return call_exception_handler


def _is_anyio_s(context: _Context) -> bool:
    """Whether anyio's reader of a Unix socket woke a read that was cancelled before.

    It sets the read's future again; httpx uses it. Nothing is lost.
    """
    return context.get("message") == "Exception in callback Future.set_result(None)"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the guards' own tests wait for less."""
    parser.addoption(
        "--grace",
        type=float,
        default=2.0,
        help="seconds in which threads and children that were told to end may do so",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch every event loop of this process, those of threads too."""
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    # Private, but the one place that every runner passes: pytest-asyncio's, anyio's
    # and `asyncio.run`'s. A loop that is asked earlier may not be finished yet.
    cancel = vars(runners)["_cancel_all_tasks"]
    patch.setattr(runners, "_cancel_all_tasks", _closed_with(cancel))
    loops: list[type[asyncio.AbstractEventLoop]] = [asyncio.BaseEventLoop]
    try:
        import uvloop  # noqa: PLC0415 (does not exist on Windows)
    except ImportError:
        pass
    else:
        loops.append(uvloop.Loop)
    for loop in loops:
        patch.setattr(
            loop, "call_exception_handler", _noting(loop.call_exception_handler)
        )


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of the collections after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def lost_exceptions() -> list[_Context]:
    """What reached a loop's exception handler; what remains fails the test."""
    return _lost


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test whose loop lost a task or an exception, after all fixtures."""
    try:
        result = yield
        faults = [f"task left behind: {task}" for task in _leftover_tasks]
        faults += [f"exception lost: {_describe(context)}" for context in _lost]
    finally:
        _leftover_tasks.clear()
        _lost.clear()
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
    return result


def _describe(context: _Context) -> str:
    text = str(context.get("message", "no message"))
    exception = context.get("exception")
    return text if exception is None else f"{text}: {exception!r}"


# Threads, child processes and sockets

_SHARED_CHILDREN = (
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
    "providers/docker/watcher.py",
)
"""Helpers that are started once for a process, and end by themselves."""


def _threads() -> dict[object, str]:
    return {thread: repr(thread) for thread in threading.enumerate()}


def _children() -> dict[object, str]:
    found: dict[object, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            children = listing.read_text().split()
        except OSError:  # the thread is gone
            continue
        for pid in children:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:  # the child is gone
                continue
            text = command.replace(b"\0", b" ").decode(errors="replace").strip()
            if not any(shared in text for shared in _SHARED_CHILDREN):
                found[pid] = f"{pid} {text or '(ended, but nobody waited for it)'}"
    return found


def _sockets() -> dict[object, str]:
    found: dict[object, str] = {}
    for link in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:  # the directory's own descriptor
            continue
        if target.startswith("socket:"):
            found[target] = f"{target} at descriptor {link.name}"
    return found


_RESOURCES: dict[str, Callable[[], dict[object, str]]] = {
    "thread": _threads,
    # The next two see nothing where there is no /proc.
    "child process": _children,
    "socket": _sockets,
}


def _new(before: dict[str, set[object]]) -> list[str]:
    return [
        f"{kind} left behind: {description}"
        for kind, survey in _RESOURCES.items()
        for key, description in survey().items()
        if key not in before[kind]
    ]


_LONG_COLLECTION = 0.01
"""Seconds after which what has survived is kept out of the collections that follow."""


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    # The first function-scoped fixture to start is the last to finish: by then the
    # runner has closed the loop. Fixtures of wider scopes have started already.
    before = {kind: set(survey()) for kind, survey in _RESOURCES.items()}
    yield
    # Whatever lies in a reference cycle reports itself now, not in a later test.
    started = time.perf_counter()
    gc.collect()
    if time.perf_counter() - started > _LONG_COLLECTION:
        # What tests have imported since: thousands of collections would go through it.
        gc.freeze()
    deadline = time.monotonic() + request.config.getoption("grace")
    while (faults := _new(before)) and time.monotonic() < deadline:
        time.sleep(0.005)
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


# Blocking calls

_MAY_BLOCK: list[tuple[str, str, set[str]]] = [
    # Looks once, before it serves, whether the Unix socket is there already.
    ("os.stat", "uvicorn/server.py", {"startup"}),
]
"""Function, end of the file name and functions in it that may call the first."""


def _make_blockbuster() -> BlockBuster:
    detector = BlockBuster()
    for name, file, functions in _MAY_BLOCK:
        detector.functions[name].can_block_in(file, functions)
    return detector


@pytest.fixture(autouse=True)
def _no_blocking_call(request: pytest.FixtureRequest) -> Iterator[None]:
    node = request.node
    if not node.get_closest_marker("asyncio") or node.get_closest_marker(
        "allow_blocking"
    ):
        yield
        return
    detector = _make_blockbuster()
    detector.activate()
    try:
        yield
    finally:
        detector.deactivate()


# Skips

_NO_SKIP = "OPENENV_ASYNC_NO_SKIP"

_PLATFORM_SKIPS: frozenset[str] = frozenset()
"""Reasons, word for word, of skips that no installation on that platform can avoid."""


def _docker_answers() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    command = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=5).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _has_chromium() -> bool:
    return any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


_REQUIREMENTS: dict[str, tuple[Callable[[], bool], str]] = {
    "docker": (_docker_answers, "no Docker engine answers"),
    "browser": (_has_chromium, "no Chromium on the PATH"),
    "torch": (_has_torch, "PyTorch is not installed"),
}
_answers: dict[str, bool] = {}


# Several processes


class _Sharing(LoadScopeScheduling):  # type: ignore[misc]  # of unknown type
    """A file's tests in one process, and those of all that use an engine in another.

    For the fixtures of modules, and because tests of an engine see the whole of it:
    some remove containers that have lost their owner.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _share(nodeid.partition("::")[0])


@functools.cache
def _share(path: str) -> str:
    text = (Path(__file__).parent.parent / path).read_text()
    return "docker" if "mark.docker" in text else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Sharing:
    """Say which tests go to which process."""
    return _Sharing(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, by name."""
    for marker, (is_there, reason) in _REQUIREMENTS.items():
        if item.get_closest_marker(marker):
            if marker not in _answers:
                _answers[marker] = is_there()
            if not _answers[marker]:
                pytest.skip(reason)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
    reason = reason.removeprefix("Skipped: ")
    if os.environ.get(_NO_SKIP) == "1" and reason not in _PLATFORM_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"{_NO_SKIP}=1 allows no skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Turn the skip of a test into its failure where nothing may be skipped."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    """Turn the skip of a module into an error where nothing may be skipped."""
    report = yield
    _refuse_skip(report)
    return report
