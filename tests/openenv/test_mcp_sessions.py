"""MCP sessions at `/mcp`: how many, for how long, and what cancelling does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from openenv_async.server import visits
from openenv_async.tools import ToolEnvironment, tool
from tests.serving import Serving, eventually, serving

from .mcp_raw import RawMcp, raw_mcp
from .test_mcp_streamable import unwatched

# Importing the library on the server's side takes a second, and reads files.
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.allow_blocking("the mcp library imports modules at first use"),
]


class Gate(ToolEnvironment):
    """Tells what became of a call that waits."""

    entered: asyncio.Event
    stopped: asyncio.Event
    opened: asyncio.Event

    def __init__(self) -> None:
        self.knocks = 0

    @tool
    async def wait(self) -> str:
        """Wait until the gate is opened."""
        self.entered.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return "in"

    @tool
    async def knock(self) -> int:
        """Count."""
        self.knocks += 1
        return self.knocks


@pytest.fixture(autouse=True)
def gate() -> type[Gate]:
    """The gate, closed."""
    Gate.entered, Gate.stopped, Gate.opened = (asyncio.Event() for _ in range(3))
    return Gate


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server with few places."""
    async with serving(Gate, max_sessions=2) as server:
        yield server
    await unwatched()


@pytest.fixture
async def mcp(server: Serving) -> AsyncIterator[RawMcp]:
    """A client of it."""
    async with raw_mcp(server) as mcp:
        yield mcp


async def refused(mcp: RawMcp, session: str) -> bool:
    """Whether the server knows no such session."""
    return bool(await mcp.ask(session, "ping") == 404)


def result_of(answer: Any) -> Any:
    """What a tool returned."""
    return answer["result"]["structuredContent"]["result"]


# How many


async def test_unused_sessions_make_room_for_new_ones(mcp: RawMcp) -> None:
    """Whoever only greets keeps nobody out, and is counted."""
    used = await mcp.initialize()
    assert result_of(await mcp.call(used, "knock")) == 1
    unused = [await mcp.initialize() for _ in range(20)]
    health = await mcp.health()
    assert (health["sessions"], health["mcp_sessions"]) == (1, 17)
    # The oldest four are gone; the rest, and who uses the server, are not.
    known = [not await refused(mcp, each) for each in unused]
    assert known == [False] * 4 + [True] * 16
    assert result_of(await mcp.call(used, "knock")) == 2
    assert result_of(await mcp.call(unused[-1], "knock")) == 1


async def test_client_with_a_stream_goes_after_those_without(mcp: RawMcp) -> None:
    """Somebody is there."""
    first = await mcp.initialize()
    async with mcp.stream(first):
        second, *_ = [await mcp.initialize() for _ in range(16)]
        assert not await refused(mcp, first)
        assert await refused(mcp, second)


async def test_flood_of_clients_with_streams_makes_room_too(
    server: Serving, mcp: RawMcp
) -> None:
    """Where all are there, the oldest goes, and its stream ends."""
    async with raw_mcp(server) as other, anyio.create_task_group() as group:
        sessions = [await mcp.initialize() for _ in range(16)]
        streamed: set[str] = set()

        async def hold(session: str) -> None:
            async with other.stream(session) as answer:
                streamed.add(session)
                await answer.aread()
            streamed.discard(session)

        for each in sessions:
            group.start_soon(hold, each)
        await eventually(lambda: len(streamed) == 16)
        await mcp.initialize()
        await eventually(lambda: sessions[0] not in streamed)
        assert await refused(mcp, sessions[0])
        assert len(streamed) == 15
        for each in sessions[1:]:
            await mcp.leave(each)


async def test_refused_greeting_takes_no_place(mcp: RawMcp) -> None:
    """What is no `initialize` opens nothing."""
    assert await mcp.ask("", "tools/list") == 400
    assert (await mcp.health())["mcp_sessions"] == 0


async def test_sessions_that_leave_are_not_counted(mcp: RawMcp) -> None:
    """A client that deletes its session is gone."""
    session = await mcp.initialize()
    await mcp.call(session, "knock")
    await mcp.leave(session)
    assert await refused(mcp, session)
    health = await mcp.health()
    assert (health["sessions"], health["mcp_sessions"]) == (0, 0)


# For how long


async def test_unused_session_ends_soon(
    mcp: RawMcp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is used does not, and a stream keeps one that is not."""
    used, streaming = await mcp.initialize(), await mcp.initialize()
    expiries = _expiries(monkeypatch)
    async with mcp.stream(streaming):
        monkeypatch.setattr(visits, "_UNUSED_LEASE", 0.05)
        await mcp.call(used, "knock")
        unused = await mcp.initialize()
        await eventually(lambda: len(expiries) == 1)
        assert expiries[0].id == unused
        assert await refused(mcp, unused)
        assert not await refused(mcp, streaming)
        assert result_of(await mcp.call(used, "knock")) == 2
    assert len(expiries) == 1


async def test_used_session_ends_after_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But not while what its client asked for still runs, though that one left."""
    async with serving(Gate, openenv_lease=0.25) as server, raw_mcp(server) as mcp:
        session, expiries = await mcp.initialize(), _expiries(monkeypatch)
        async with raw_mcp(server) as leaving, anyio.create_task_group() as group:
            group.start_soon(leaving.call, session, "wait")
            await Gate.entered.wait()
            group.cancel_scope.cancel()
        await eventually(lambda: len(expiries) == 1)
        assert (server.sessions, Gate.stopped.is_set()) == (1, False)
        Gate.opened.set()
        await eventually(lambda: server.sessions == 0)
        assert await refused(mcp, session)
    await unwatched()


def _expiries(monkeypatch: pytest.MonkeyPatch) -> list[visits.Visit]:
    """How often a lease ended."""
    found: list[visits.Visit] = []
    expire = visits.Visits._expire

    def watched(self: visits.Visits, visit: visits.Visit) -> None:
        found.append(visit)
        expire(self, visit)

    monkeypatch.setattr(visits.Visits, "_expire", watched)
    return found


async def test_session_that_was_lost_is_not_replaced(
    server: Serving, mcp: RawMcp
) -> None:
    """Its client is told, and it makes room like one that was never used."""
    session = await mcp.initialize()
    await mcp.call(session, "knock")
    (lost,) = server.core.table.by_id.values()
    server.core._retire(lost, "session_lost")
    await eventually(lambda: server.sessions == 0)
    told = (await mcp.call(session, "knock"))["error"]["data"]
    assert (told["code"], told["executed"]) == ("session_closed", "no")
    for _ in range(16):
        await mcp.initialize()
    assert await refused(mcp, session)


async def test_call_keeps_the_server(server: Serving, mcp: RawMcp) -> None:
    """A server that ends when nobody uses it counts calls as use."""
    session = await mcp.initialize()
    await mcp.call(session, "knock")
    server.core._last_used -= 1000.0
    await mcp.call(session, "knock")
    assert server.core.idle_seconds < 500


# Cancelling


async def test_cancelled_call_is_stopped(mcp: RawMcp) -> None:
    """The environment lets go of it, and what follows is told so at once."""
    session = await mcp.initialize()
    async with asyncio.timeout(5), anyio.create_task_group() as group:
        answers: list[Any] = []

        async def wait() -> None:
            answers.append(await mcp.call(session, "wait", 7))

        group.start_soon(wait)
        await Gate.entered.wait()
        await mcp.cancel(session, 7)
        await Gate.stopped.wait()
        refusal = (await mcp.call(session, "knock", 8))["error"]["data"]
    assert answers[0]["error"]["message"] == "Request cancelled"
    assert (refusal["code"], refusal["executed"]) == ("episode_broken", "no")


async def test_call_cancelled_before_its_turn_never_runs(mcp: RawMcp) -> None:
    """The one before it goes on, and the one after it is next."""
    session = await mcp.initialize()
    async with asyncio.timeout(5), anyio.create_task_group() as group:
        group.start_soon(mcp.call, session, "wait", 1)
        await Gate.entered.wait()
        answers: list[Any] = []

        async def knock() -> None:
            answers.append(await mcp.call(session, "knock", 2))

        group.start_soon(knock)
        # Cancelling is no request of the session's queue: repeated until it is known.
        while not answers:
            await mcp.cancel(session, 2)
        Gate.opened.set()
        assert result_of(await mcp.call(session, "knock", 3)) == 1
    assert answers[0]["error"]["message"] == "Request cancelled"
    assert not Gate.stopped.is_set()


# What the library logs


async def test_ordinary_end_is_no_error_in_the_log(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that leaves while its stream is open is nothing to report."""
    async with raw_mcp(server) as mcp, raw_mcp(server) as other:
        session = await mcp.initialize()
        async with other.stream(session) as answer:
            await mcp.leave(session)
            await answer.aread()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("text", "error", "is_shown"),
    [
        ("Error in standalone SSE writer", ValueError("bad"), True),
        ("Error in message router", anyio.ClosedResourceError(), True),
        ("Error in standalone SSE writer", anyio.ClosedResourceError(), False),
    ],
)
async def test_only_the_end_of_a_client_is_left_out_of_the_log(
    mcp: RawMcp,
    caplog: pytest.LogCaptureFixture,
    text: str,
    error: Exception,
    is_shown: bool,
) -> None:
    """Every other message of the library's stays."""
    await mcp.initialize()
    logging.getLogger("mcp.server.streamable_http").error(text, exc_info=error)
    assert (text in caplog.text) is is_shown
