"""A worker from its inside: what it does with what comes through its pipe."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from openenv_async.server.pipe import (
    Begin,
    Done,
    Failed,
    FromWorker,
    Pipe,
    Ready,
    Report,
    ToWorker,
    unwrap,
    wrap,
)
from openenv_async.server.worker import _Worker
from tests.clients import asleep, holding
from tests.environments import (
    BlockingEnvironment,
    Command,
    ScriptedEnvironment,
    barriers,
    executions,
    journal,
    sleeping,
)
from tests.serving import PATIENCE, eventually, payload_of


class _Parent:
    """The server's end of a worker's pipe."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[FromWorker] = asyncio.Queue()
        self.pipe = Pipe(
            decode=msgspec.msgpack.Decoder(list[FromWorker]).decode,
            received=self._received,
            lost=lambda: None,
        )

    def _received(self, messages: list[FromWorker]) -> None:
        for message in messages:
            self.messages.put_nowait(message)

    def send(self, *messages: ToWorker) -> None:
        for message in messages:
            self.pipe.send(message)

    async def receive(self) -> FromWorker:
        async with asyncio.timeout(PATIENCE):
            return await self.messages.get()

    async def done(self) -> Any:
        """The payload of a request that ended well."""
        message = await self.receive()
        assert isinstance(message, Done), message
        return payload_of(message.payload)

    async def begin(self, *handles: int) -> None:
        """Begin sessions and their episodes."""
        for handle in handles:
            self.send(Begin(handle, "msgpack", f"session {handle}"), m.Reset(handle, 1))
            await self.done()


@contextlib.asynccontextmanager
async def working(environment: type[Any]) -> AsyncIterator[_Parent]:
    """A worker in a task of this process; it ends when the block does."""
    journal.clear()
    executions.clear()
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(0.0)
    loop = asyncio.get_running_loop()
    parent = _Parent()
    worker = _Worker(EnvironmentSpec.of(environment), tracebacks=True)
    await loop.create_connection(lambda: parent.pipe, sock=ours)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(theirs))
        assert isinstance(await parent.receive(), Ready)
        yield parent
        parent.pipe.close()
    worker._pipe.close()
    worker._threads.close()
    await worker._tasks.aclose()


@pytest.mark.parametrize("environment", [ScriptedEnvironment, BlockingEnvironment])
async def test_requests_are_executed_and_answered(environment: type[Any]) -> None:
    """A session's requests come back with their payloads and numbers."""
    async with working(environment) as parent:
        await parent.begin(1)
        parent.send(m.Step(1, 2, Command(text="hi")))
        assert (await parent.done())["text"] == "hi"
        parent.send(m.GetState(1, 3))
        assert (await parent.done())["step_count"] == 1
        parent.send(m.Close(1, 4))
        assert await parent.done() is None
        assert journal == ["built", "reset None", "closed None"]


@pytest.mark.parametrize("environment", [ScriptedEnvironment, BlockingEnvironment])
async def test_what_an_environment_raises_is_answered(environment: type[Any]) -> None:
    """An error travels with its outcome, and the next session is served."""
    async with working(environment) as parent:
        await parent.begin(1, 2)
        parent.send(m.Step(1, 2, Command(do="fail", text="oh")))
        failed = await parent.receive()
        assert isinstance(failed, Failed)
        assert (failed.code, failed.outcome) == ("environment_failed", "broken")
        parent.send(m.Step(2, 2, Command()))
        assert (await parent.done())["count"] == 1


@pytest.mark.parametrize("environment", [ScriptedEnvironment, BlockingEnvironment])
async def test_progress_comes_before_the_answer(environment: type[Any]) -> None:
    """Reports keep their order, from the loop and from threads."""
    async with working(environment) as parent:
        await parent.begin(1)
        parent.send(m.Step(1, 2, Command(do="progress")))
        reports = [await parent.receive() for _ in range(3)]
        assert all(isinstance(report, Report) for report in reports)
        await parent.done()


async def test_a_session_may_change_its_encoding() -> None:
    """Begin again with another encoding, and payloads come in that."""
    async with working(ScriptedEnvironment) as parent:
        await parent.begin(1)
        action = wrap(m.raw(m.JSON.encode({"text": "as text"})), "json")
        parent.send(Begin(1, "json", "session 1"), m.Step(1, 2, action))
        message = await parent.receive()
        assert isinstance(message, Done)
        payload = unwrap(message.payload, "json")
        assert payload_of(payload, m.JSON)["text"] == "as text"


async def test_cancelling_stops_a_step_or_comes_too_late() -> None:
    """A running step is stopped; a session that is gone is not asked."""
    async with working(ScriptedEnvironment) as parent:
        await parent.begin(1)
        await holding("stop")
        parent.send(m.Step(1, 2, Command(do="wait", text="stop")))
        await asleep("stop")
        parent.send(m.Cancel(1, 2))
        failed = await parent.receive()
        assert isinstance(failed, Failed)
        assert failed.code == "cancelled"
        parent.send(m.Close(1, 3), m.Cancel(1, 3), m.Cancel(9, 1))
        assert await parent.done() is None


async def test_a_stuck_session_is_closed_when_its_step_ends() -> None:
    """Closing answers at once; the environment is closed once nothing runs in it."""
    async with working(ScriptedEnvironment) as parent:
        await parent.begin(1)
        gate = await holding("stuck")
        parent.send(m.Step(1, 2, Command(do="swallow", text="stuck")))
        await asleep("stuck")
        parent.send(m.Cancel(1, 2))
        failed = await parent.receive()
        assert isinstance(failed, Failed)
        assert failed.outcome == "poisoned"
        parent.send(m.Close(1, 3))
        assert await parent.done() is None
        assert "closed None" not in journal
        gate.set()
        await eventually(lambda: "closed None" in journal)


async def test_a_worker_without_its_parent_closes_what_it_has() -> None:
    """Running steps are stopped first, then every environment is closed."""
    async with working(ScriptedEnvironment) as parent:
        await parent.begin(1, 2)
        await holding("orphan")
        parent.send(m.Step(1, 2, Command(do="wait", text="orphan")))
        await asleep("orphan")
    assert journal.count("closed None") == 2
    assert executions["orphan"] == 0


async def test_a_close_that_raises_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An orphaned worker closes all its environments, whatever one of them does."""
    async with working(ScriptedEnvironment) as parent:
        options = {"close": "fail"}
        parent.send(Begin(1, "msgpack", "bad"), m.Reset(1, 1, options=options))
        await parent.done()
        await parent.begin(2)
    assert journal[-1] == "closed None"
    assert "closing bad failed" in caplog.text


async def test_a_thread_that_runs_is_not_closed_under() -> None:
    """An environment in use by a thread is left alone."""
    barriers["orphan"] = threading.Event()
    try:
        async with working(BlockingEnvironment) as parent:
            await parent.begin(1)
            parent.send(m.Step(1, 2, Command(do="wait", text="orphan")))
            await eventually(lambda: "orphan" in sleeping)
        assert "closed None" not in journal
    finally:
        barriers["orphan"].set()


async def test_frames_may_arrive_in_pieces() -> None:
    """The pipe puts together what the kernel cut, and takes apart what it joined."""
    got: list[object] = []
    pipe = Pipe(
        decode=msgspec.msgpack.Decoder(list[ToWorker]).decode,
        received=got.extend,
        lost=lambda: None,
    )
    sent = [m.MSGPACK.frame([m.MSGPACK.encode(m.Close(h, 1))]) for h in range(3)]
    stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in sent)
    for start in range(0, len(stream), 5):
        pipe.data_received(stream[start : start + 5])
    assert got == [m.Close(h, 1) for h in range(3)]
    pipe.data_received(stream)
    assert len(got) == 6
