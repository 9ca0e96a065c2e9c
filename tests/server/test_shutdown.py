"""The end of a server: what runs is answered, clients are told, all is closed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from openenv_async import messages as m
from openenv_async.server import hosts
from tests.environments import (
    BlockingEnvironment,
    Command,
    ScriptedEnvironment,
    barriers,
    executions,
    gates,
    journal,
    sleeping,
)
from tests.serving import Peer, dial, eventually, serving


async def begun(peer: Peer, *handles: int, **options: object) -> None:
    """Open sessions and begin their episodes."""
    for handle in handles:
        await peer.open(handle)
        await peer.reset(handle, episode_id=str(handle), options=options)


async def test_clients_are_told_and_environments_are_closed() -> None:
    """Draining says goodbye, closes every environment and ends every session."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await server.core.drain(timeout=1.0)
        goodbye = await peer.expect(m.Goodbye)
        assert goodbye.retry_after is not None
        ended = [await peer.expect(m.Ended) for _ in range(2)]
        assert {message.code for message in ended} == {"shutting_down"}
        assert server.sessions == 0
        assert {"closed 1", "closed 2"} <= set(journal)


async def test_what_is_in_flight_is_answered() -> None:
    """A step that ends in time is answered before its environment is closed."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 2, Command(do="sleep", seconds=0.05, text="last")))
        await eventually(lambda: server.core.capacity()["in_flight"])
        await server.core.drain(timeout=5.0)
        await peer.expect(m.Goodbye)
        assert (await peer.expect(m.Reply)).seq == 2
        await peer.expect(m.Ended)
        assert executions["last"] == 1
        assert journal[-1] == "closed 1"


async def test_what_takes_too_long_is_stopped() -> None:
    """A step past the drain is cancelled, its client told, its environment closed."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        gates["endless"] = asyncio.Event()
        await peer.send(m.Step(1, 2, Command(do="wait", text="endless")))
        await eventually(lambda: "endless" in sleeping)
        await server.core.drain(timeout=0.05)
        await peer.expect(m.Goodbye)
        assert (await peer.expect(m.Ended)).code == "shutting_down"
        assert executions["endless"] == 0
        assert journal[-1] == "closed 1"


async def test_a_draining_server_opens_no_session() -> None:
    """Who comes late is told why, and existing sessions may still be used."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        gates["open"] = asyncio.Event()
        await peer.send(m.Step(1, 2, Command(do="wait", text="open")))
        await eventually(lambda: "open" in sleeping)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.core.drain(timeout=5.0))
            await peer.expect(m.Goodbye)
            await peer.send(m.Open(2, "2" * 32))
            failure = await peer.expect(m.Failure)
            assert failure.code == "shutting_down"
            gates["open"].set()
        assert (await peer.expect(m.Reply)).seq == 2


async def test_a_close_that_hangs_does_not_hold_up_the_others() -> None:
    """Environments are closed side by side."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1, close="hang")
        await begun(peer, 2, 3)
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(server.core.drain(timeout=0.1))
            await eventually(lambda: {"closed 2", "closed 3"} <= set(journal))
            draining.cancel()


async def test_a_step_that_swallows_its_cancellation_does_not_stop_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be ended is left, so that the server can end."""
    async with serving(drain=0.05) as server, dial(server) as peer:
        await begun(peer, 1)
        gates["deaf"] = asyncio.Event()
        await peer.send(m.Step(1, 2, Command(do="swallow", text="deaf")))
        await eventually(lambda: "deaf" in sleeping)
        await server.core.drain(timeout=0.05)
        assert server.sessions == 0
        gates["deaf"].set()


async def test_a_thread_that_hangs_is_waited_for_and_then_closed() -> None:
    """An environment is not closed under a thread that still runs in it."""
    barriers["drain"] = threading.Event()
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 2, Command(do="wait", text="drain")))
        await eventually(lambda: "drain" in sleeping)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.core.drain(timeout=0.05))
            await asyncio.sleep(0.1)
            assert "closed 1" not in journal
            barriers["drain"].set()
        assert journal[-1] == "closed 1"
        assert server.sessions == 0


async def test_a_session_whose_lease_just_ended_is_closed_once() -> None:
    """A drain does not close again what an expired lease is closing."""
    async with serving(lease=0.0) as server:
        async with dial(server) as peer:
            await begun(peer, 1)
        await server.core.drain(timeout=1.0)
        await eventually(lambda: server.sessions == 0)
        assert journal.count("closed 1") == 1


async def test_draining_and_closing_twice_is_the_same_as_once() -> None:
    """Both are idempotent."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        for _ in range(2):
            await server.core.drain(timeout=1.0)
        for _ in range(2):
            await server.core.aclose()
        assert journal.count("closed 1") == 1


# What environments share


class _SharingEnvironment(ScriptedEnvironment):
    """Its sessions share something, which is given back once."""

    @classmethod
    async def shutdown(cls) -> None:
        """Note it in the journal."""
        journal.append("shut down")


class _FailingEnvironment(ScriptedEnvironment):
    """Cannot give back what it shares."""

    @classmethod
    async def shutdown(cls) -> None:
        """Fail."""
        raise RuntimeError("shared trouble")


class _HangingEnvironment(ScriptedEnvironment):
    """Never comes to an end."""

    @classmethod
    async def shutdown(cls) -> None:
        """Hang."""
        await asyncio.Event().wait()


async def test_what_sessions_share_is_given_back_after_the_last_one() -> None:
    """shutdown() runs once, when every environment of the server is closed."""
    async with serving(_SharingEnvironment) as server, dial(server) as peer:
        await begun(peer, 1, 2)
    assert journal[-1] == "shut down"
    assert journal.count("shut down") == 1
    assert {"closed 1", "closed 2"} <= set(journal)


async def test_a_failing_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The server ends all the same, and the log names the environment."""
    async with serving(_FailingEnvironment):
        pass
    assert "shutting down 'scripted' failed" in caplog.text
    assert "shared trouble" in caplog.text


async def test_a_hanging_shutdown_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server waits for a while and ends."""
    monkeypatch.setattr(hosts, "_SHUTDOWN_PATIENCE", 0.05)
    async with serving(_HangingEnvironment):
        pass
    assert "took more than 0.05 s" in caplog.text
