"""Environments that are bound to a thread: each session's own, or one for all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, State
from openenv_async import messages as m
from openenv_async.environment import Affinity, EnvironmentSpec
from tests.environments import Command, Report
from tests.serving import Peer, decoded, dial, eventually, serving

closed: list[int] = []
"""Threads that closed an environment."""
gate = threading.Event()


class Bound(Environment[Command, Report, State]):
    """Tells its thread, and refuses another one."""

    affinity: ClassVar[Affinity] = "session"

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def _observe(self) -> Report:
        assert threading.get_ident() == self._thread
        return Report(text=str(self._thread))

    def reset(self, **_arguments: Any) -> Report:
        """Tell the thread."""
        return self._observe()

    def step(self, action: Command) -> Report:
        """Tell the thread, after waiting if told so."""
        if action.do == "wait":
            gate.wait()
        return self._observe()

    def state(self) -> State:
        """Tell the thread."""
        return State(episode_id=self._observe().text)

    def close(self) -> None:
        """Note the thread."""
        self._observe()
        closed.append(self._thread)


class AllBound(Bound):
    """The same, with all sessions on one thread."""

    affinity = "all"


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    closed.clear()
    gate.clear()
    yield
    gate.set()


async def threads_of(peer: Peer, handle: int) -> set[str]:
    """The threads of a session's calls."""
    await peer.open(handle)
    texts = [decoded(await peer.reset(handle))["text"]]
    texts += [decoded(await peer.step(handle, seq))["text"] for seq in range(2, 12)]
    state = await peer.call(m.GetState(handle, 12))
    return {*texts, decoded(state)["episode_id"]}


async def end(peer: Peer, handle: int, seq: int) -> None:
    """Close a session."""
    assert isinstance(await peer.call(m.Close(handle, seq)), m.Reply)


async def test_a_session_stays_on_its_thread_from_first_to_last() -> None:
    """Constructor, calls and close share a thread, which no other session has."""
    async with serving(Bound) as server, dial(server) as peer:
        first, second = await threads_of(peer, 1), await threads_of(peer, 2)
        assert len(first) == len(second) == 1
        assert first != second
        await end(peer, 1, 13)
        assert {str(each) for each in closed} == first


async def test_a_closed_sessions_thread_ends() -> None:
    """Sessions that came and went leave no thread behind."""
    before = threading.active_count()
    async with serving(Bound) as server, dial(server) as peer:
        for handle in range(1, 9):
            await peer.open(handle)
            await peer.reset(handle)
        assert threading.active_count() >= before + 8
        for handle in range(1, 9):
            await end(peer, handle, 2)
        await eventually(lambda: threading.active_count() < before + 8)


async def test_all_sessions_share_a_thread_where_they_have_to() -> None:
    """One thread serves every session, and goes on after one of them ended."""
    async with serving(AllBound) as server, dial(server) as peer:
        first, second = await threads_of(peer, 1), await threads_of(peer, 2)
        assert first == second
        await end(peer, 1, 13)
        assert await threads_of(peer, 3) == first


async def test_a_stuck_session_is_closed_on_its_own_thread_at_last() -> None:
    """Others go on meanwhile; the close comes after the call that hung."""
    async with serving(Bound) as server, dial(server) as peer:
        (stuck,) = await threads_of(peer, 1)
        await peer.send(m.Step(1, 13, Command(do="wait"), 0.05))
        failure = await peer.expect(m.Failure)
        assert (failure.code, failure.executed) == ("deadline_exceeded", "unknown")
        assert len(await threads_of(peer, 2)) == 1
        await end(peer, 1, 14)
        assert not closed
        gate.set()
        await eventually(lambda: closed)
        assert str(closed[0]) == stuck


async def test_worker_processes_keep_to_threads_too() -> None:
    """In a worker, a session also has a thread of its own."""
    spec = EnvironmentSpec.of(Bound, execution="process")
    async with serving(spec, workers=1) as server, dial(server) as peer:
        first, second = await threads_of(peer, 1), await threads_of(peer, 2)
        assert len(first) == len(second) == 1
        assert first != second
        await end(peer, 1, 13)
