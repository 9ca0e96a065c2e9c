"""Blocking environments in threads: side by side, past their deadline, given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from openenv_async import messages as m
from tests.environments import (
    BlockingEnvironment,
    Command,
    barriers,
    executions,
    journal,
    sleeping,
)
from tests.serving import Peer, decoded, dial, eventually, serving


@pytest.fixture
def barrier() -> Iterator[threading.Event]:
    """What blocking steps called `stuck` wait for; opened at the end in any case."""
    barriers["stuck"] = threading.Event()
    yield barriers["stuck"]
    barriers["stuck"].set()


STUCK = Command(do="wait", text="stuck")


async def begun(peer: Peer, *handles: int) -> None:
    """Open sessions and begin their episodes."""
    for handle in handles:
        await peer.open(handle)
        await peer.reset(handle)


def failed(message: m.ServerMessage, code: str, executed: str) -> m.Failure:
    """A failure with a code, about what was or was not executed."""
    assert isinstance(message, m.Failure), message
    assert (message.code, message.executed) == (code, executed)
    return message


async def test_blocking_steps_run_side_by_side() -> None:
    """Forty steps that block for 50 ms each take nowhere near two seconds."""
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        handles = range(1, 41)
        await begun(peer, *handles)
        before = time.perf_counter()
        steps = [m.Step(h, 2, Command(do="sleep", seconds=0.05)) for h in handles]
        await peer.send(*steps)
        for _ in handles:
            await peer.expect(m.Reply)
        assert time.perf_counter() - before < 0.7


async def test_a_stuck_step_holds_up_nobody(barrier: threading.Event) -> None:
    """While a thread is stuck, other sessions step, and a thousand times."""
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Step(1, 2, STUCK))
        for seq in range(2, 202):
            assert isinstance(await peer.step(2, seq), m.Reply)
        barrier.set()
        assert (await peer.expect(m.Reply)).handle == 1


async def test_a_thread_past_its_deadline_poisons_its_session(
    barrier: threading.Event,
) -> None:
    """A thread cannot be stopped: the session says so, and closes when it returns."""
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        failure = failed(
            await peer.call(m.Step(1, 2, STUCK, 0.05)), "deadline_exceeded", "unknown"
        )
        assert "cannot be stopped" in failure.message
        failed(await peer.step(1, 3), "session_poisoned", "no")
        assert isinstance(await peer.step(2, 2), m.Reply)
        assert isinstance(await peer.call(m.Close(1, 4)), m.Reply)
        assert "closed None" not in journal
        barrier.set()
        await eventually(lambda: "closed None" in journal)


async def test_hung_threads_do_not_use_up_the_pool(barrier: threading.Event) -> None:
    """More sessions than threads may hang, and the next one is still served."""
    async with serving(BlockingEnvironment, threads=2) as server, dial(server) as peer:
        await begun(peer, 1, 2, 3, 4)
        for handle in (1, 2, 3):
            answer = await peer.call(m.Step(handle, 2, STUCK, 0.05))
            failed(answer, "deadline_exceeded", "unknown")
        assert isinstance(await peer.step(4, 2), m.Reply)


async def test_a_step_that_found_no_thread_in_time_was_not_executed(
    barrier: threading.Event,
) -> None:
    """A deadline that ends in the queue says that nothing ran."""
    async with serving(BlockingEnvironment, threads=1) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Step(1, 2, STUCK))
        await eventually(lambda: "stuck" in sleeping)
        answer = await peer.step(2, 2, timeout=0.05, text="queued")
        failed(answer, "deadline_exceeded", "no")
        barrier.set()
        await peer.expect(m.Reply)
        assert isinstance(await peer.step(2, 3), m.Reply)
        assert executions["queued"] == 0


async def test_cancelling_a_step_in_the_queue_executes_nothing(
    barrier: threading.Event,
) -> None:
    """A step that waits for a thread can still be stopped."""
    async with serving(BlockingEnvironment, threads=1) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Step(1, 2, STUCK))
        await eventually(lambda: "stuck" in sleeping)
        await peer.send(m.Step(2, 2, Command(text="queued")), m.Cancel(2, 2), m.Ping(1))
        await peer.expect(m.Pong)
        barrier.set()
        answers = [await peer.receive(), await peer.receive()]
        failed(answers[1], "cancelled", "no")
        assert executions["queued"] == 0
        assert isinstance(await peer.step(2, 3), m.Reply)


async def test_cancelling_a_running_thread_waits_for_its_result(
    barrier: threading.Event,
) -> None:
    """What runs in a thread is executed, whoever cancels it."""
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 2, STUCK))
        await eventually(lambda: "stuck" in sleeping)
        await peer.send(m.Cancel(1, 2), m.Ping(1))
        await peer.expect(m.Pong)
        barrier.set()
        reply = await peer.expect(m.Reply)
        assert decoded(reply)["count"] == 1
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_a_lease_waits_for_the_thread_before_it_closes(
    barrier: threading.Event,
) -> None:
    """An abandoned session is closed when its thread returns, not under it."""
    async with serving(BlockingEnvironment, lease=0.02) as server:
        async with dial(server) as peer:
            await begun(peer, 1)
            await peer.send(m.Step(1, 2, STUCK))
            await eventually(lambda: "stuck" in sleeping)
        await eventually(lambda: not server.core.links)
        async with dial(server) as peer:
            await begun(peer, 5)
        assert "closed None" not in journal[:2]
        barrier.set()
        await eventually(lambda: server.sessions == 0)
        assert executions["stuck"] == 1


async def test_what_waits_in_the_queue_when_a_lease_ends_is_dropped(
    barrier: threading.Event,
) -> None:
    """A session that expires in the queue is closed without its step."""
    async with serving(BlockingEnvironment, lease=0.02, threads=1) as server:
        async with dial(server) as peer, dial(server) as other:
            await begun(peer, 1)
            await begun(other, 1)
            await peer.send(m.Step(1, 2, STUCK))
            await eventually(lambda: "stuck" in sleeping)
            await other.send(m.Step(1, 2, Command(text="dropped")), m.Ping(1))
            await other.expect(m.Pong)
            await other.socket.close()
            await eventually(lambda: len(server.core.table.by_key) == 1)
            barrier.set()
            await peer.expect(m.Reply)
            await eventually(lambda: server.sessions == 1)
        assert executions["dropped"] == 0
