"""The blocking facade, from any thread, while a server runs in another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from openenv_async import (
    ConnectFailed,
    EnvironmentFailed,
    Failure,
    LocalProtocolError,
    ResetRequired,
    State,
    StepResult,
    SyncBatch,
    SyncEnv,
)
from tests.clients import ScriptedEnv
from tests.environments import Command
from tests.serving import Serving, serving


@pytest.fixture
def server() -> Iterator[Serving]:
    """A server in a thread of its own, which no session outlives."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving()) as running,
    ):
        yield running
        assert running.sessions == 0


def _episode(url: str) -> None:
    with ScriptedEnv(url).sync() as env:
        assert isinstance(env, SyncEnv)
        first = env.reset(seed=1, episode_id="e", options={"length": 2})
        assert (first.observation.text, first.is_reset) == ("seed 1", True)
        assert env.step(Command(text="hi")).observation.text == "hi"
        assert env.step(Command(), timeout=5.0).terminated
        assert env.state() == State(episode_id="e", step_count=2)


def _in_main_thread(function: Callable[..., Any], *arguments: Any) -> None:
    function(*arguments)


def _in_another_thread(function: Callable[..., Any], *arguments: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(function, *arguments).result()


@pytest.mark.parametrize("run", [_in_main_thread, _in_another_thread])
def test_an_episode_without_await(server: Serving, run: Callable[..., Any]) -> None:
    """All calls work from any thread, and no thread is left afterwards."""
    _episode(server.url)  # The server starts a thread of its own at the first one.
    before = threading.active_count()
    run(_episode, server.url)
    assert threading.active_count() == before


def test_calls_may_come_from_another_thread_than_the_block(server: Serving) -> None:
    """The thread that opened a session need not be the one that uses it."""
    with ScriptedEnv(server.url).sync() as env:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(env.reset).result()
            assert pool.submit(env.step, Command()).result().observation.count == 1
        assert env.step(Command()).observation.count == 2


def test_errors_are_raised_where_the_call_was(server: Serving) -> None:
    """Typed errors pass through, and the session goes on."""
    with ScriptedEnv(server.url).sync() as env:
        with pytest.raises(ResetRequired):
            env.step(Command())
        env.reset()
        with pytest.raises(EnvironmentFailed, match="broken"):
            env.step(Command(do="fail", text="broken"))
        env.reset()
        assert env.step(Command()).observation.count == 1


def test_an_exception_in_the_block_is_not_changed(server: Serving) -> None:
    """The block's own exception comes out as it is, and the session is closed."""
    with (
        pytest.raises(ValueError, match="mine"),
        ScriptedEnv(server.url).sync() as env,
    ):
        env.reset()
        raise ValueError("mine")
    assert server.sessions == 0


def test_a_block_can_follow_another(server: Serving) -> None:
    """The same object opens a new session each time."""
    env = ScriptedEnv(server.url).sync()
    for _ in range(2):
        with env:
            env.reset()
            assert env.step(Command()).observation.count == 1


def test_a_block_in_a_block_is_misuse(server: Serving) -> None:
    """Entering twice is refused, and the first block still works."""
    with ScriptedEnv(server.url).sync() as env:
        env.reset()
        with pytest.raises(LocalProtocolError, match="not open yet"), env:
            pass
        assert env.step(Command()).observation.count == 1
    with ScriptedEnv.batch(server.url, size=1).sync() as batch:
        with pytest.raises(LocalProtocolError, match="not open yet"), batch:
            pass
        batch.reset()


def test_calls_outside_of_the_block_are_misuse(server: Serving) -> None:
    """Before, after, and when opening failed, calls are typed errors."""
    env = ScriptedEnv(server.url).sync()
    with pytest.raises(LocalProtocolError, match="`with`"):
        env.reset()
    with env:
        pass
    with pytest.raises(LocalProtocolError, match="`with`"):
        env.state()
    nobody = ScriptedEnv("ws+unix:///nonexistent/socket").sync()
    for _ in range(2):
        with pytest.raises(ConnectFailed), nobody:
            pass
        with pytest.raises(LocalProtocolError, match="`with`"):
            nobody.step(Command())


def test_a_batch_without_await(server: Serving) -> None:
    """A blocking batch has the same calls, results and failures."""
    with ScriptedEnv.batch(server.url, size=3).sync() as batch:
        assert isinstance(batch, SyncBatch)
        assert len(batch) == 3
        results = batch.reset(seeds=4)
        texts = [r.observation.text for r in results if isinstance(r, StepResult)]
        assert texts == ["seed 4", "seed 5", "seed 6"]
        good, bad = batch.step([Command(), Command(do="fail")], indices=[2, 0])
        assert isinstance(good, StepResult)
        assert isinstance(bad, Failure)
        assert [state.step_count for state in batch.state()] == [0, 0, 1]
        with pytest.raises(LocalProtocolError, match="3 actions"):
            batch.step([])
    with pytest.raises(LocalProtocolError, match="`with`"):
        batch.reset()


def test_blocking_sessions_work_beside_each_other(server: Serving) -> None:
    """Threads with a session each do not disturb one another."""
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(_episode, server.url) for _ in range(8)]:
            future.result()


def test_a_blocking_session_is_no_loop(server: Serving) -> None:
    """In the block the thread has no running loop of its own."""
    with ScriptedEnv(server.url).sync() as env:
        env.reset()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
