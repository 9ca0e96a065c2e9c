"""Processes of a session's own: forked, separate, and gone with their session."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from typing import Any

import pytest

from openenv_async import Environment, ProviderError, State
from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from openenv_async.server.forks import ForkServer
from tests.environments import BlockingEnvironment, Command, Report, ScriptedEnvironment
from tests.serving import Peer, decoded, dial, eventually, serving

ASYNC = EnvironmentSpec.of(ScriptedEnvironment, execution="isolated")
BLOCKING = EnvironmentSpec.of(BlockingEnvironment, execution="isolated")

pytestmark = pytest.mark.timeout(60)


class Shared(Environment[Command, Report, State]):
    """An environment that forgot that it is not alone: its count is the class's."""

    count = 0

    def reset(self, **_arguments: Any) -> Report:
        """Start to count, and tell a random number."""
        Shared.count = 0
        return Report(text=str(random.random()))

    def step(self, action: Command) -> Report:
        """Count."""
        Shared.count += 1
        return Report(count=Shared.count)

    def state(self) -> State:
        """Tell the count."""
        return State(step_count=Shared.count)


async def pid_of(peer: Peer, handle: int, seq: int = 2) -> int:
    """The process id of a session's environment."""
    return int(decoded(await peer.step(handle, seq, do="pid"))["text"])


async def begun(peer: Peer, *handles: int) -> list[int]:
    """Open sessions, begin their episodes; returns their process ids."""
    for handle in handles:
        await peer.open(handle)
        await peer.reset(handle)
    return [await pid_of(peer, handle) for handle in handles]


async def gone(pid: int) -> None:
    """Wait until a process is gone."""

    def ended() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await eventually(ended)


async def test_each_session_has_a_process_that_goes_with_it() -> None:
    """Processes differ, and each ends when its session does."""
    async with serving(ASYNC) as server, dial(server) as peer:
        pids = await begun(peer, 1, 2, 3)
        assert len({*pids, os.getpid()}) == 4
        assert isinstance(await peer.call(m.Close(2, 3)), m.Reply)
        await gone(pids[1])
        assert await pid_of(peer, 1, 3) == pids[0]
    for pid in pids:
        await gone(pid)


async def test_sessions_cannot_meet_in_what_their_class_holds() -> None:
    """State that the author shares by mistake is a session's own, as is randomness."""
    spec = EnvironmentSpec.of(Shared, execution="isolated")
    async with serving(spec) as server, dial(server) as peer:
        texts = set()
        for handle in (1, 2):
            await peer.open(handle)
            texts.add(decoded(await peer.reset(handle))["text"])
        assert len(texts) == 2
        for seq in (2, 3, 4):
            assert decoded(await peer.step(1, seq))["count"] == seq - 1
        assert decoded(await peer.step(2, 2))["count"] == 1


async def test_a_process_that_dies_costs_its_session_only() -> None:
    """Its step fails as unknown; a reset gets a new process; others notice nothing."""
    async with serving(ASYNC) as server, dial(server) as peer:
        pids = await begun(peer, 1, 2)
        failure = await peer.step(1, 3, do="kill")
        assert isinstance(failure, m.Failure)
        assert (failure.code, failure.executed) == ("worker_died", "unknown")
        assert failure.detail == {"exit_status": -signal.SIGKILL}
        assert await pid_of(peer, 2, 3) == pids[1]
        await peer.reset(1, 4)
        assert await pid_of(peer, 1, 5) not in pids


async def test_deadline_kills_what_blocks() -> None:
    """A step that hangs ends at its deadline, and its process with it."""
    async with serving(BLOCKING) as server, dial(server) as peer:
        pids = await begun(peer, 1, 2)
        before = time.perf_counter()
        await peer.send(m.Step(1, 3, Command(do="sleep", seconds=600), 0.1))
        failure = await peer.expect(m.Failure)
        assert (failure.code, failure.executed) == ("deadline_exceeded", "unknown")
        assert time.perf_counter() - before < 5
        await gone(pids[0])
        assert await pid_of(peer, 2, 3) == pids[1]


@pytest.mark.allow_blocking("reads /proc")
async def test_the_warm_process_may_die() -> None:
    """What it forked is lost and says so; sessions get processes of a new one."""
    async with serving(ASYNC) as server, dial(server) as peer:
        (pid,) = await begun(peer, 1)
        os.kill(_parent(pid), signal.SIGKILL)
        await gone(pid)
        answer = await peer.step(1, 3)
        assert isinstance(answer, m.Failure)
        assert answer.code in ("worker_died", "episode_broken")
        await peer.reset(1, 4)
        assert await pid_of(peer, 1, 5) != pid


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


async def test_environment_that_cannot_be_imported_fails_its_sessions() -> None:
    """The first reset tells; nothing hangs."""
    spec = EnvironmentSpec.of(
        ScriptedEnvironment, execution="isolated", target="tests.nowhere:Nothing"
    )
    async with serving(spec) as server, dial(server) as peer:
        await peer.open(1)
        failure = await peer.call(m.Reset(1, 1))
        assert isinstance(failure, m.Failure)
        assert failure.code == "worker_died"
        assert "tests.nowhere:Nothing" in failure.message


async def test_cancelled_fork_leaves_no_process() -> None:
    """Whoever gave up waiting gets nothing that runs on."""
    forks = ForkServer("tests.environments:ScriptedEnvironment", tracebacks=True)
    ours, theirs = socket.socketpair()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await forks.fork(theirs)
        fork = await forks.fork(theirs)
        assert fork.pid
        ours.close()
        theirs.close()
        assert await fork.wait() == 0
    finally:
        ours.close()
        theirs.close()
        await forks.aclose()


async def test_what_cannot_be_imported_is_said() -> None:
    """A fork of it raises, each time."""
    forks = ForkServer("tests.nowhere:Nothing", tracebacks=True)
    ours, theirs = socket.socketpair()
    try:
        for _ in range(2):
            with pytest.raises(ProviderError, match=r"tests\.nowhere:Nothing"):
                await forks.fork(theirs)
    finally:
        ours.close()
        theirs.close()
        await forks.aclose()
