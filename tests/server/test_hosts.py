"""Environments that raise, or return what they should not, wherever they run."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec, Execution
from tests.environments import (
    BlockingEnvironment,
    ScriptedEnvironment,
    UnbuildableEnvironment,
    executions,
    journal,
)
from tests.serving import Peer, decoded, dial, serving

MISDEEDS = [
    ("fail", "ValueError"),
    ("cancel", "CancelledError"),
    ("exit", "SystemExit"),
    ("interrupt", "KeyboardInterrupt"),
    ("unspeakable", "_Unspeakable"),
    ("surrogate", "ValueError"),
]
ODD_VALUES = ["wrong", "none", "unencodable", "odd", "huge", "surrogates"]

SERVED = {
    "async inline": (ScriptedEnvironment, "inline"),
    "blocking inline": (BlockingEnvironment, "inline"),
    "async in threads": (ScriptedEnvironment, "thread"),
    "blocking in threads": (BlockingEnvironment, "thread"),
}


def spec(environment: type[Any], execution: Execution) -> EnvironmentSpec:
    """An environment that runs in a chosen place."""
    return EnvironmentSpec.of(environment, execution=execution)


@pytest.fixture(params=list(SERVED.values()), ids=list(SERVED))
def served(request: pytest.FixtureRequest) -> EnvironmentSpec:
    """Each kind of environment in each place within the server's process."""
    return spec(*request.param)


def refused(message: m.ServerMessage, executed: str) -> m.Failure:
    """An environment's failure."""
    assert isinstance(message, m.Failure), message
    assert (message.code, message.executed) == ("environment_failed", executed)
    assert message.fault == "environment"
    return message


def detail(failure: m.Failure, key: str) -> str:
    """A text that came with a failure."""
    assert failure.detail is not None
    return str(failure.detail[key])


async def usable(peer: Peer, seq: int, handle: int = 1) -> None:
    """The session can begin a new episode and step in it."""
    await peer.reset(handle, seq)
    assert isinstance(await peer.step(handle, seq + 1), m.Reply)


@pytest.mark.parametrize(("deed", "name"), MISDEEDS)
async def test_what_step_raises_reaches_the_caller(
    served: EnvironmentSpec, deed: str, name: str
) -> None:
    """Any exception in step has its name and traceback in the answer."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        failure = refused(await peer.step(1, 2, do=deed, text="oh"), "unknown")
        assert detail(failure, "exception") == name
        assert "in _misdeed" in detail(failure, "traceback")
        assert "openenv_async/server" not in detail(failure, "traceback")
        assert isinstance(await peer.step(1, 3), m.Failure)
        await usable(peer, 4)


@pytest.mark.parametrize(("deed", "name"), MISDEEDS)
async def test_what_step_raises_after_a_pause_reaches_the_caller(
    deed: str, name: str
) -> None:
    """An exception behind an await is no different."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        failure = refused(await peer.step(1, 2, do=f"{deed}_later"), "unknown")
        assert detail(failure, "exception") == name
        await usable(peer, 3)


async def test_a_failing_step_disturbs_no_other_session(
    served: EnvironmentSpec,
) -> None:
    """Every misdeed of one session leaves its neighbour's episode as it was."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open(1)
        await peer.open(2)
        await peer.reset(2)
        seq = 1
        for number, (deed, _) in enumerate(MISDEEDS):
            await peer.reset(1, seq)
            await peer.step(1, seq + 1, do=deed)
            seq += 2
            reply = await peer.step(2, number + 2)
            assert decoded(reply)["count"] == number + 1


async def test_what_reset_raises_reaches_the_caller(served: EnvironmentSpec) -> None:
    """A failed reset leaves no episode, and the next one can succeed."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        options = {"do": "fail", "text": "no board"}
        failure = refused(await peer.call(m.Reset(1, 1, options=options)), "unknown")
        assert "raised ValueError in reset: no board" in failure.message
        answer = await peer.step(1, 2)
        assert isinstance(answer, m.Failure)
        assert answer.code == "episode_broken"
        await usable(peer, 3)


async def test_what_state_raises_leaves_the_episode(served: EnvironmentSpec) -> None:
    """A failing state changes nothing: the episode goes on."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        await peer.reset(options={"state": "fail"})
        refused(await peer.call(m.GetState(1, 2)), "unknown")
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_what_close_raises_reaches_the_caller(served: EnvironmentSpec) -> None:
    """A failing close is reported, and the session is gone all the same."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        await peer.reset(options={"close": "fail"})
        refused(await peer.call(m.Close(1, 2)), "unknown")
        assert server.sessions == 0


async def test_what_the_constructor_raises_reaches_the_caller() -> None:
    """An environment that cannot be built fails its reset, each time anew."""
    async with serving(UnbuildableEnvironment) as server, dial(server) as peer:
        await peer.open()
        for seq in (1, 2):
            answer = await peer.call(m.Reset(1, seq))
            assert (
                "raised RuntimeError in reset: no parts"
                in refused(answer, "unknown").message
            )
        assert isinstance(await peer.call(m.Close(1, 3)), m.Reply)


async def test_a_refused_action_changes_nothing(served: EnvironmentSpec) -> None:
    """InvalidAction from step is the caller's error; the episode goes on."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        answer = await peer.step(1, 2, do="refuse", text="the square is taken")
        assert isinstance(answer, m.Failure)
        assert (answer.code, answer.executed) == ("invalid_action", "no")
        assert answer.message == "the square is taken"
        assert isinstance(await peer.step(1, 3), m.Reply)


@pytest.mark.parametrize("deed", ODD_VALUES)
async def test_a_value_that_cannot_travel_breaks_the_episode(
    served: EnvironmentSpec, deed: str
) -> None:
    """What is no observation, or cannot be encoded, is an error that was executed."""
    async with serving(served) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        await peer.step(1, 2)
        failure = refused(await peer.step(1, 3, do=deed, text=deed), "yes")
        assert "expected an observation" in failure.message
        assert executions[deed] == 1
        answer = await peer.step(1, 4)
        assert isinstance(answer, m.Failure)
        assert answer.code == "episode_broken"
        await usable(peer, 5)


async def test_tracebacks_can_be_kept_from_clients() -> None:
    """Without tracebacks a client sees the exception's name and text only."""
    async with serving(tracebacks=False) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        failure = refused(await peer.step(1, 2, do="fail", text="oh"), "unknown")
        assert failure.detail == {"exception": "ValueError"}


async def test_a_long_traceback_is_shortened() -> None:
    """An error text without end does not fill the client's memory."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        failure = refused(
            await peer.step(1, 2, do="fail", text="x" * 50_000), "unknown"
        )
        assert "characters left out" in detail(failure, "traceback")
        assert len(detail(failure, "traceback")) < 20_000


async def test_worker_processes_answer_misdeeds_too() -> None:
    """In a worker process every misdeed costs one episode and no process."""
    served = spec(ScriptedEnvironment, "process")
    async with serving(served, workers=1) as server, dial(server) as peer:
        await peer.open(1)
        await peer.open(2)
        await peer.reset(1)
        first = await peer.step(1, 2, do="pid")
        assert isinstance(first, m.Reply)
        seq = 1
        for deed, name in [*MISDEEDS, *((f"{deed}_later", n) for deed, n in MISDEEDS)]:
            await peer.reset(2, seq)
            failure = refused(await peer.step(2, seq + 1, do=deed), "unknown")
            assert detail(failure, "exception") == name
            seq += 2
        for deed in ODD_VALUES:
            await peer.reset(2, seq)
            refused(await peer.step(2, seq + 1, do=deed), "yes")
            seq += 2
        again = await peer.step(1, 3, do="pid")
        assert isinstance(again, m.Reply)
        pids = [decoded(reply)["text"] for reply in (first, again)]
        assert pids[0] == pids[1]
        assert journal == []
