"""Owned tasks, shielded teardown, coroutines started by hand, polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from openenv_async import _aio
from openenv_async._aio import Resumed, Spinner, Tasks, shielded

# Tasks


async def test_tasks_are_ended_by_their_owner() -> None:
    """`aclose` cancels what runs, waits for it, and may be called again."""
    ended: list[str] = []

    async def run(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks = Tasks()
    running = [tasks.spawn(run(name), name) for name in "ab"]
    await asyncio.sleep(0)
    await tasks.aclose()
    await tasks.aclose()
    assert sorted(ended) == ["a", "b"]
    assert all(task.cancelled() for task in running)


async def test_what_a_task_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody awaits is told with the task's name."""

    async def fail() -> None:
        raise ValueError("broken")

    tasks = Tasks()
    task = tasks.spawn(fail(), "the-name")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert "the-name" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
    await tasks.aclose()


async def test_closing_tasks_survives_cancellation() -> None:
    """A cancelled `aclose` still waits for all tasks, then raises."""
    release = asyncio.Event()
    ended = False

    async def slow() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            await release.wait()
            ended = True

    tasks = Tasks()
    tasks.spawn(slow(), "slow")
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(tasks.aclose())  # noqa: TID251 (awaited below)
    for _ in range(3):
        await asyncio.sleep(0)
        closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert ended


async def test_a_task_may_close_its_own_group() -> None:
    """The caller is not waited for, or it would wait for ever."""
    tasks = Tasks()
    task = tasks.spawn(tasks.aclose(), "own")
    async with asyncio.timeout(5):
        await task


async def test_a_task_that_cannot_be_ended_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody waits longer than `patience` for what swallows its cancellation."""
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    tasks = Tasks()
    task = tasks.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await tasks.aclose(patience=0.01)
    assert "stubborn" in caplog.text
    assert task not in asyncio.all_tasks()
    release.set()
    await asyncio.wait([task])


# Shielded teardown


async def test_a_teardown_outlasts_cancellation() -> None:
    """It runs to its end, and the cancellation is raised afterwards."""
    release = asyncio.Event()
    ended = False

    async def teardown() -> None:
        nonlocal ended
        await release.wait()
        ended = True

    task = asyncio.ensure_future(shielded(teardown(), timeout=5.0))  # noqa: TID251 (awaited below)
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_a_teardown_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """What takes longer is cancelled, and that is logged."""
    cancelled = False

    async def teardown() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled = True
            raise

    await shielded(teardown(), timeout=0.01)
    assert cancelled
    assert "more than 0.01 s" in caplog.text


async def test_what_a_teardown_raises_reaches_the_caller() -> None:
    """An error of the teardown is not lost."""

    async def teardown() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await shielded(teardown(), timeout=1.0)


# Coroutines that were started by hand


def _begin(coroutine: Coroutine[Any, Any, Any]) -> object:
    return coroutine.send(None)


async def test_the_rest_of_a_coroutine_is_awaited() -> None:
    """It goes on where it was, with what it waits for, to its result."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> int:
        first = await future
        await asyncio.sleep(0)
        return first + 1

    coroutine = work()
    yielded = _begin(coroutine)
    asyncio.get_running_loop().call_soon(future.set_result, 41)
    assert await Resumed(coroutine, yielded) == 42


async def test_exceptions_go_both_ways() -> None:
    """What the awaited raises is thrown in, what the coroutine raises comes out."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            await future
        except ValueError as error:
            raise TypeError("second") from error

    coroutine = work()
    yielded = _begin(coroutine)
    asyncio.get_running_loop().call_soon(future.set_exception, ValueError("first"))
    with pytest.raises(TypeError, match="second"):
        await Resumed(coroutine, yielded)


async def test_cancellation_reaches_the_coroutine() -> None:
    """It may clean up, or even finish all the same."""

    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "finished"
        return "never"

    async def start() -> str:
        coroutine = work()
        result: str = await Resumed(coroutine, _begin(coroutine))
        return result

    async with asyncio.TaskGroup() as group:
        task = group.create_task(start())
        await asyncio.sleep(0)
        task.cancel()
    assert task.result() == "finished"


async def test_every_resumption_goes_through_the_caller() -> None:
    """`call` sees each `send` and `throw`, such as to enter a context."""
    calls: list[str] = []

    def call(function: Callable[[Any], object], argument: object) -> object:
        calls.append(getattr(function, "__name__", ""))
        return function(argument)

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    coroutine = work()
    await Resumed(coroutine, _begin(coroutine), call)
    assert calls == ["send", "send"]


def test_a_coroutine_that_is_dropped_is_closed() -> None:
    """Closing the awaitable runs the coroutine's `finally`."""
    closed: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    coroutine = work()
    rest = Resumed(coroutine, _begin(coroutine)).__await__()
    next(rest)
    rest.close()
    assert closed == [True]


# Polling


class _Loop:
    """What a spinner asks of a loop, turn by turn."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class _Polled:
    """A spinner with a clock and a loop that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, window: float) -> None:
        self.now = 0
        monkeypatch.setattr(_aio, "perf_counter_ns", lambda: self.now)
        self.loop = _Loop()
        self.spinner = Spinner(window)
        self.spinner._loop = self.loop  # type: ignore[assignment]  # all that it uses

    @property
    def awake(self) -> bool:
        return bool(self.loop.callbacks)

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)
        self.loop.turn()


@pytest.fixture
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aio, "_has_cores", lambda: True)


@pytest.mark.usefixtures("_two_cores")
async def test_it_polls_for_a_moment_after_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop stays awake for the window, no longer, and only once at a time."""
    polled = _Polled(monkeypatch, window=1.0)
    assert not polled.awake
    polled.spinner.touch()
    polled.spinner.touch()
    assert len(polled.loop.callbacks) == 1
    polled.pass_time(0.9)
    assert polled.awake
    polled.spinner.touch()
    polled.pass_time(0.9)
    assert polled.awake
    polled.pass_time(0.2)
    assert not polled.awake


@pytest.mark.usefixtures("_two_cores")
async def test_it_stops_polling_where_traffic_never_comes_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After some windows in vain it polls seldom; with luck it begins again."""
    polled = _Polled(monkeypatch, window=1.0)

    def windows(count: int) -> int:
        polls = 0
        for _ in range(count):
            polled.spinner.touch()
            polls += polled.awake
            polled.pass_time(2.0)
        return polls

    assert windows(20) == 20
    windows(20)
    # It looks again now and then, because that may change.
    assert 0 < windows(650) <= 11
    while not polled.awake:
        polled.spinner.touch()
    for _ in range(40):
        polled.pass_time(0.5)
        polled.spinner.touch()
    polled.pass_time(2.0)
    assert windows(5) == 5


@pytest.mark.usefixtures("_two_cores")
async def test_traffic_in_time_keeps_it_polling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One window in vain among lucky ones changes nothing."""
    polled = _Polled(monkeypatch, window=1.0)
    for _ in range(500):
        polled.spinner.touch()
        assert polled.awake
        polled.pass_time(0.5)
        polled.spinner.touch()
        polled.pass_time(2.0)


@pytest.mark.usefixtures("_two_cores")
async def test_without_a_window_it_never_polls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window of 0 turns polling off."""
    polled = _Polled(monkeypatch, window=0.0)
    polled.spinner.touch()
    assert not polled.awake


async def test_on_one_core_it_never_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only core is left to the peer."""
    monkeypatch.setattr(_aio, "_has_cores", lambda: False)
    polled = _Polled(monkeypatch, window=1.0)
    polled.spinner.touch()
    assert not polled.awake


def test_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is pinned to one core has one."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0}, raising=False)
    assert not _aio._has_cores()
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    assert _aio._has_cores()
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert not _aio._has_cores()


def test_the_log_is_the_packages() -> None:
    """What goes wrong in the background is said where users look."""
    assert _aio._logger is logging.getLogger("openenv_async")
