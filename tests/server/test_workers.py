"""Environments in worker processes: what the death of a worker costs, and whom."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from openenv_async import LocalProtocolError
from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from openenv_async.server import create_app, workers
from tests.environments import BlockingEnvironment, Command, ScriptedEnvironment
from tests.serving import Peer, decoded, dial, eventually, serving

ASYNC = EnvironmentSpec.of(ScriptedEnvironment, execution="process")
BLOCKING = EnvironmentSpec.of(BlockingEnvironment, execution="process")


def failed(message: m.ServerMessage, code: str, executed: str = "unknown") -> m.Failure:
    """A failure with a code, about what was or was not executed."""
    assert isinstance(message, m.Failure), message
    assert (message.code, message.executed) == (code, executed)
    return message


async def begun(peer: Peer, *handles: int) -> list[int]:
    """Open sessions, begin their episodes; returns their workers' process ids."""
    pids = []
    for handle in handles:
        await peer.open(handle)
        await peer.reset(handle)
        pids.append(int(decoded(await peer.step(handle, 2, do="pid"))["text"]))
    return pids


async def gone(pid: int) -> None:
    """Wait until a process is gone."""
    await eventually(lambda: not _exists(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_sessions_spread_over_the_workers_and_stay_there() -> None:
    """Each session has its worker, the same for each step."""
    async with serving(ASYNC, workers=2) as server, dial(server) as peer:
        pids = await begun(peer, 1, 2, 3, 4)
        assert len(set(pids)) == 2
        assert os.getpid() not in pids
        again = [decoded(await peer.step(h, 3, do="pid"))["text"] for h in range(1, 5)]
        assert list(map(int, again)) == pids


async def test_payloads_pass_through_a_worker_unchanged() -> None:
    """Large arrays go to a worker and come back as they were."""
    async with serving(BLOCKING, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        data = os.urandom(100_000)
        array = {"kind": "array", "dtype": "|u1", "shape": [100_000], "data": data}
        step = m.Step(1, 3, {"do": "reflect", "data": array})
        assert decoded(await peer.call(step))["data"] == array


async def test_a_wrong_action_is_found_in_the_worker() -> None:
    """A worker names the field like the server does."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        answer = await peer.call(m.Step(1, 3, {"size": "big"}))
        assert "$.size" in failed(answer, "invalid_action", "no").message
        assert isinstance(await peer.step(1, 4), m.Reply)


async def test_progress_comes_through_a_worker() -> None:
    """What a step reports reaches the caller from another process."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 3, Command(do="progress")))
        parts = [(await peer.expect(m.Progress)).fraction for _ in range(3)]
        assert parts == [0.25, 0.5, 0.75]
        await peer.expect(m.Reply)


async def test_an_idle_worker_that_dies_costs_only_its_own_episodes() -> None:
    """Sessions of a killed worker can be reset; those of others do not notice."""
    async with serving(ASYNC, workers=2) as server, dial(server) as peer:
        first, second = await begun(peer, 1, 2)
        os.kill(first, signal.SIGKILL)
        await gone(first)
        session = server.core.table.by_id["s1"]
        await eventually(lambda: session.stage.value != "running")
        assert (
            "worker_died"
            in failed(await peer.step(1, 3), "episode_broken", "no").message
        )
        assert int(decoded(await peer.step(2, 3, do="pid"))["text"]) == second
        await peer.reset(1, 4)
        assert int(decoded(await peer.step(1, 5, do="pid"))["text"]) != first


@pytest.mark.parametrize("served", [ASYNC, BLOCKING], ids=["async", "blocking"])
async def test_a_worker_that_dies_in_a_step_answers_it(served: EnvironmentSpec) -> None:
    """The step that ran says that nobody knows; the other worker's goes on."""
    async with serving(served, workers=2) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Step(2, 3, Command(do="sleep", seconds=0.3)))
        failure = failed(await peer.step(1, 3, do="kill"), "worker_died")
        assert failure.detail == {"exit_status": -signal.SIGKILL}
        assert decoded(await peer.receive())["count"] == 2
        await peer.reset(1, 4)
        assert isinstance(await peer.step(1, 5), m.Reply)


async def test_a_worker_past_its_deadline_is_killed() -> None:
    """Code that never gives way is ended with its process; the session goes on."""
    async with serving(BLOCKING, workers=2) as server, dial(server) as peer:
        first, second = await begun(peer, 1, 2)
        await peer.send(m.Step(1, 3, Command(do="spin", seconds=60), 0.1))
        for seq in range(3, 20):
            assert int(decoded(await peer.step(2, seq, do="pid"))["text"]) == second
        failed(await peer.receive(), "deadline_exceeded")
        await gone(first)
        await peer.reset(1, 4)
        assert isinstance(await peer.step(1, 5), m.Reply)


async def test_an_async_step_in_a_worker_is_cancelled_without_killing_it() -> None:
    """A step that can be stopped costs its own episode, not its neighbours'."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        answer = await peer.step(1, 3, timeout=0.05, do="sleep", seconds=60)
        assert "within 0.05 s" in failed(answer, "deadline_exceeded").message
        assert decoded(await peer.step(2, 3))["count"] == 2


async def test_cancelling_reaches_a_worker() -> None:
    """A cancelled step in a worker ends at its await."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 3, Command(do="sleep", seconds=60)), m.Cancel(1, 3))
        assert isinstance(await peer.receive(), m.Failure)
        await peer.reset(1, 4)


async def test_cancelling_a_close_costs_no_worker() -> None:
    """A cancellation that comes after its close is ignored."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Close(1, 3), m.Cancel(1, 3))
        assert isinstance(await peer.receive(), m.Reply)
        assert decoded(await peer.step(2, 3))["count"] == 2


async def test_a_stuck_step_does_not_hold_up_the_next_session() -> None:
    """A session that comes to a worker later is served while another one blocks."""
    async with serving(BLOCKING, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 3, Command(do="sleep", seconds=0.5)))
        async with dial(server) as other:
            await begun(other, 1)
            await other.step(1, 3)
        assert server.core.table.by_id["s1"].request is not None
        await peer.expect(m.Reply)


async def test_a_worker_that_cannot_import_its_environment_says_so() -> None:
    """Every reset fails with a reason, and the server goes on."""
    broken = EnvironmentSpec.of(
        ScriptedEnvironment, execution="process", target="tests.nowhere:Nothing"
    )
    async with serving(broken, workers=1) as server, dial(server) as peer:
        await peer.open()
        for seq in (1, 2):
            failure = failed(await peer.call(m.Reset(1, seq)), "worker_died")
            assert "could not load 'tests.nowhere:Nothing'" in failure.message
        assert isinstance(await peer.call(m.Close(1, 3)), m.Reply)


async def test_a_worker_that_never_gets_ready_is_given_up_at_the_deadline() -> None:
    """A deadline holds while the worker still imports its environment."""
    slow = EnvironmentSpec.of(
        ScriptedEnvironment,
        execution="process",
        target="tests.slow_import:ScriptedEnvironment",
    )
    async with serving(slow, workers=1) as server, dial(server) as peer:
        await peer.open()
        failed(await peer.call(m.Reset(1, 1, timeout=0.1)), "deadline_exceeded")


async def test_a_server_may_end_while_its_worker_starts() -> None:
    """Nothing is left of a worker that was not even ready."""
    async with serving(ASYNC, workers=1, drain=0.0) as server, dial(server) as peer:
        await peer.open()
        await peer.send(m.Reset(1, 1), m.Ping(1))
        await peer.expect(m.Pong)


async def test_environments_in_workers_are_closed_with_their_sessions(
    tmp_path: Path,
) -> None:
    """close() runs in the worker, for a close, an expired lease and the end."""
    journal = tmp_path / "journal"
    options = {"journal": str(journal)}
    async with serving(ASYNC, workers=1, lease=0.0) as server:
        async with dial(server) as peer:
            for handle, name in ((1, "asked"), (2, "left")):
                await peer.open(handle)
                await peer.reset(handle, episode_id=name, options=options)
            await peer.call(m.Close(1, 2))
        await eventually(lambda: server.sessions == 0)
        async with dial(server) as peer:
            await peer.open(3)
            await peer.reset(3, episode_id="drained", options=options)
    lines = await asyncio.to_thread(journal.read_text)
    closed = [line.split()[1] for line in lines.splitlines() if "closed" in line]
    assert closed == ["asked", "left", "drained"]


def test_a_local_class_cannot_run_in_workers() -> None:
    """A class that no other process can import is refused at the start."""

    class Local(ScriptedEnvironment):
        name = "local"

    with pytest.raises(LocalProtocolError, match="top level of a module"):
        create_app(EnvironmentSpec.of(Local, execution="process"))


async def test_workers_end_by_themselves() -> None:
    """At the end of the server a worker is told, and need not be killed."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await begun(peer, 1)
        (worker,) = server.core._workers["scripted"]._workers
    assert worker.process is not None
    assert worker.process.returncode == 0


async def test_a_worker_that_cannot_be_started_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an interpreter there is a typed error, each time anew."""
    async with serving(ASYNC, workers=1) as server, dial(server) as peer:
        await peer.open()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            failure = failed(await peer.call(m.Reset(1, 1)), "worker_died")
        assert "could not be started" in failure.message
        await peer.reset(1, 2)


async def test_a_worker_that_does_not_get_ready_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An import without end costs one reset, and is not waited for for ever."""
    monkeypatch.setattr(workers, "_START_TIMEOUT", 0.3)
    slow = EnvironmentSpec.of(
        ScriptedEnvironment,
        execution="process",
        target="tests.slow_import:ScriptedEnvironment",
    )
    async with serving(slow, workers=1) as server, dial(server) as peer:
        await peer.open()
        failure = failed(await peer.call(m.Reset(1, 1)), "worker_died")
        assert "did not get ready within 0.3 s" in failure.message


@pytest.mark.parametrize("served", [ASYNC, BLOCKING], ids=["async", "blocking"])
async def test_json_clients_reach_workers_too(served: EnvironmentSpec) -> None:
    """Payloads in JSON pass through, with options, arrays and errors."""
    async with serving(served, workers=1) as server:
        async with dial(server, codec=m.JSON) as peer:
            await peer.open()
            await peer.reset(options={"length": 2, "name": "ü"})
            reply = await peer.step(1, 2, text="as text", do="array", size=3)
            assert decoded(reply, m.JSON)["data"]["data"] == "AAAA"
            answer = await peer.call(m.Step(1, 3, {"size": "big"}))
            assert "$.size" in failed(answer, "invalid_action", "no").message
            state = decoded(await peer.call(m.GetState(1, 4)), m.JSON)
            assert state == {"step_count": 1}
