"""Async environments on the event loop: what they may rely on, how they are stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from tests.environments import (
    BlockingEnvironment,
    Command,
    Report,
    ScriptedEnvironment,
    executions,
    gates,
    journal,
    sleeping,
)
from tests.serving import Peer, decoded, dial, eventually, serving


def text_of(message: m.ServerMessage) -> str:
    """The text of an observation."""
    return str(decoded(message).get("text", ""))


def failed(message: m.ServerMessage, code: str, executed: str) -> m.Failure:
    """A failure with a code, about what was or was not executed."""
    assert isinstance(message, m.Failure), message
    assert (message.code, message.executed) == (code, executed)
    return message


async def begun(peer: Peer, *handles: int) -> None:
    """Open sessions and begin their episodes."""
    for handle in handles:
        await peer.open(handle)
        await peer.reset(handle)


async def waiting(peer: Peer, handle: int, seq: int, text: str, do: str) -> None:
    """Begin a step that waits for its gate."""
    gates[text] = asyncio.Event()
    await peer.send(m.Step(handle, seq, Command(do=do, text=text)))
    await eventually(lambda: text in sleeping)


# What a step may use


@pytest.mark.parametrize(
    ("deed", "text"),
    [
        ("timeout", "timed out"),
        ("group", "3"),
        ("failing_group", "a child failed"),
        ("scope", "True"),
        ("task", "True"),
    ],
)
async def test_structured_concurrency_works_in_a_step(deed: str, text: str) -> None:
    """Timeouts, task groups and anyio's scopes behave in a step, again and again."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        for seq in range(2, 5):
            assert text_of(await peer.step(1, seq, do=deed, seconds=0.002)) == text


async def test_structured_concurrency_works_in_many_steps_at_once() -> None:
    """Timeouts of one session's step never hit another session's."""
    async with serving() as server, dial(server) as peer:
        handles = range(1, 31)
        await begun(peer, *handles)
        deeds = ["timeout", "scope", "group", "sleep", "task"]
        await peer.send(
            *(
                m.Step(handle, 2, Command(do=deeds[handle % 5], seconds=0.01))
                for handle in handles
            )
        )
        replies = [await peer.expect(m.Reply) for _ in handles]
        expected = {0: "timed out", 1: "True", 2: "3", 3: "", 4: "True"}
        for reply in replies:
            assert text_of(reply) == expected[reply.handle % 5]


@pytest.mark.parametrize("execution", ["inline", "thread"])
@pytest.mark.parametrize("environment", [ScriptedEnvironment, BlockingEnvironment])
async def test_context_variables_belong_to_one_session(
    environment: type[Any], execution: Any
) -> None:
    """What a step sets is there at the session's next step, and at no other's."""
    served = EnvironmentSpec.of(environment, execution=execution)
    async with serving(served) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        assert text_of(await peer.step(1, 2, do="context", text="mine")) == "unset"
        assert text_of(await peer.step(2, 2, do="context", text="other")) == "unset"
        assert text_of(await peer.step(1, 3, do="context", text="")) == "mine"


class _Awaiting(ScriptedEnvironment):
    """Returns awaitables from methods that are not coroutine functions."""

    name = "awaiting"

    def step(self, action: Command) -> Any:
        return super().step(action)


@pytest.mark.parametrize("execution", ["inline", "thread"])
async def test_a_step_may_return_an_awaitable(execution: Any) -> None:
    """A plain method that returns a coroutine is as good as an async one."""
    served = EnvironmentSpec.of(_Awaiting, execution=execution)
    async with serving(served) as server, dial(server) as peer:
        await begun(peer, 1)
        assert text_of(await peer.step(1, 2, do="sleep", text="ok")) == "ok"
        answer = await peer.step(1, 3, do="fail_later")
        assert isinstance(answer, m.Failure)
        assert answer.code == "environment_failed"


# Deadlines


async def test_a_step_past_its_deadline_is_cancelled() -> None:
    """A step that takes too long is stopped at an await; a reset goes on."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        answer = await peer.step(1, 2, timeout=0.05, do="sleep", seconds=60, text="no")
        failure = failed(answer, "deadline_exceeded", "unknown")
        assert "within 0.05 s" in failure.message
        assert executions["no"] == 0
        failed(await peer.step(1, 3), "episode_broken", "no")
        await peer.reset(1, 4)
        assert isinstance(await peer.step(1, 5), m.Reply)


async def test_a_deadline_leaves_the_other_sessions_alone() -> None:
    """While a step hangs, the others step, and after it too."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1, 2)
        await peer.send(m.Step(1, 2, Command(do="sleep", seconds=60), 0.1))
        kinds: list[m.ServerMessage] = []
        seq = 2
        while not any(isinstance(kind, m.Failure) for kind in kinds):
            kinds.append(await peer.step(2, seq, do="sleep", seconds=0.005))
            seq += 1
        assert len(kinds) > 5


async def test_a_step_that_swallows_its_cancellation_poisons_its_session() -> None:
    """What cannot be stopped is given up; its session says so, others go on."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1, 2)
        gates["deaf"] = asyncio.Event()
        step = m.Step(1, 2, Command(do="swallow", text="deaf"), 0.05)
        failure = failed(await peer.call(step), "deadline_exceeded", "unknown")
        assert "cannot be stopped" in failure.message
        failed(await peer.step(1, 3), "session_poisoned", "no")
        assert isinstance(await peer.step(2, 2), m.Reply)
        gates["deaf"].set()
        await eventually(lambda: executions["deaf"])


async def test_a_poisoned_session_closes_when_its_step_ends() -> None:
    """Closing answers at once; the environment is closed once nothing runs in it."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        gates["deaf"] = asyncio.Event()
        await peer.call(m.Step(1, 2, Command(do="swallow", text="deaf"), 0.05))
        assert isinstance(await peer.call(m.Close(1, 3)), m.Reply)
        assert server.sessions == 0
        assert "closed None" not in journal
        gates["deaf"].set()
        await eventually(lambda: "closed None" in journal)


async def test_a_request_that_waited_past_its_deadline_is_not_executed() -> None:
    """A deadline that ends before the environment's turn says that nothing ran."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        answer = await peer.step(1, 2, timeout=0.0, text="late")
        failed(answer, "deadline_exceeded", "no")
        assert executions["late"] == 0
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_a_state_past_its_deadline_leaves_the_episode() -> None:
    """Only what may have changed the episode breaks it."""

    class Slow(ScriptedEnvironment):
        name = "slow"

        async def state(self) -> Any:  # type: ignore[override]  # async here
            await asyncio.sleep(60)

    async with serving(Slow) as server, dial(server) as peer:
        await begun(peer, 1)
        answer = await peer.call(m.GetState(1, 2, 0.02))
        failed(answer, "deadline_exceeded", "unknown")
        assert isinstance(await peer.step(1, 3), m.Reply)


# Cancelling


async def test_cancelling_stops_a_running_step() -> None:
    """A cancelled step ends at its await, with the episode in an unknown state."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await waiting(peer, 1, 2, "cancelled", "wait")
        failed(await _cancel(peer, 1, 2), "cancelled", "unknown")
        assert executions["cancelled"] == 0
        failed(await peer.step(1, 3), "episode_broken", "no")


async def test_a_step_may_finish_although_it_was_cancelled() -> None:
    """A step that catches its cancellation and returns has been executed."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await waiting(peer, 1, 2, "stubborn", "finish_cancelled")
        assert text_of(await _cancel(peer, 1, 2)) == "stubborn"
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_cancelling_before_the_start_executes_nothing() -> None:
    """A cancellation in the same frame as its step stops it before it begins."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 2, Command(text="never")), m.Cancel(1, 2))
        failed(await peer.receive(), "cancelled", "no")
        assert executions["never"] == 0
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_a_cancellation_may_overtake_its_request() -> None:
    """A cancellation that comes first refuses the request that follows."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Cancel(1, 2))
        failed(await peer.step(1, 2), "cancelled", "no")
        assert isinstance(await peer.step(1, 3), m.Reply)


async def test_a_session_given_up_with_its_step_executes_nothing() -> None:
    """A client that leaves in the frame of its step costs no step, and one close."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.send(m.Step(1, 2, Command(text="left")), m.Cancel(1, 0), m.Ping(1))
        await peer.expect(m.Pong)
        await eventually(lambda: server.sessions == 0)
        assert executions["left"] == 0
        assert journal.count("closed None") == 1


@pytest.mark.parametrize("seq", [1, 2, 9])
async def test_cancelling_what_does_not_run_changes_nothing(seq: int) -> None:
    """A late or odd cancellation is ignored."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await peer.step(1, 2)
        await peer.send(m.Cancel(1, seq), m.Cancel(77, 1))
        assert isinstance(await peer.step(1, 3), m.Reply)


async def _cancel(peer: Peer, handle: int, seq: int) -> m.ServerMessage:
    await peer.send(m.Cancel(handle, seq))
    return await peer.receive()


# The runners survive what environments do to them


class _SelfCancelling(ScriptedEnvironment):
    """Cancels the task that it runs in, and returns before that has an effect."""

    name = "self_cancelling"

    async def step(self, action: Command) -> Report:
        if action.do == "cancel task later":
            await asyncio.sleep(0)
        if action.do.startswith("cancel task"):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return self._counted(action)


@pytest.mark.parametrize("deed", ["cancel task", "cancel task later"])
async def test_an_environment_may_cancel_its_own_task(deed: str) -> None:
    """An environment that cancels its task hits no other session, and none hangs."""
    async with serving(_SelfCancelling) as server, dial(server) as peer:
        await begun(peer, 1, 2)
        for seq in range(2, 7):
            await peer.send(m.Step(1, seq, Command(do=deed)), m.Step(2, seq, Command()))
            for _ in range(2):
                assert isinstance(await peer.receive(), m.Reply)


async def test_many_suspended_steps_need_no_thread_and_end_in_any_order() -> None:
    """Hundreds of waiting steps are answered as their gates open, not as they came."""
    async with serving() as server, dial(server) as peer:
        handles = range(1, 301)
        await begun(peer, *handles)
        for handle in handles:
            gates[f"many {handle}"] = asyncio.Event()
        await peer.send(
            *(m.Step(h, 2, Command(do="wait", text=f"many {h}")) for h in handles)
        )
        await eventually(lambda: sum("many" in text for text in sleeping) == 300)
        for handle in reversed(handles):
            gates[f"many {handle}"].set()
        replies = [await peer.expect(m.Reply) for _ in handles]
        assert [reply.handle for reply in replies] == list(reversed(handles))
