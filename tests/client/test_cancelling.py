"""Every await is cancelled once: what the next call does, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import anyio
import pytest

from openenv_async import (
    EnvironmentFailed,
    Failure,
    ResetRequired,
    SessionBusy,
    StepInterrupted,
    StepResult,
)
from openenv_async import messages as m
from openenv_async.client.connection import Waiter
from tests.clients import ScriptedEnv, asleep, cancelled, connections, holding
from tests.environments import Command, Report, executions, journal
from tests.serving import Serving, eventually, serving


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server that has no session left at the end of the test."""
    async with serving() as running:
        yield running
        await eventually(lambda: running.sessions == 0)
        assert connections() == 0


async def _soon(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# Opening


@pytest.mark.parametrize("turns", range(0, 24, 2))
async def test_open_can_be_cancelled_at_any_turn(server: Serving, turns: int) -> None:
    """Wherever open() is cancelled, no socket and no session is left."""
    env = ScriptedEnv(server.url)
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(env.open())
        await _soon(turns)
        if not opening.done():
            await cancelled(opening)
    await env.aclose()
    await eventually(lambda: not server.core.links)


@pytest.mark.parametrize("turns", range(0, 12, 2))
async def test_open_can_be_cancelled_beside_another_session(
    server: Serving, turns: int
) -> None:
    """On a shared socket a cancelled open leaves no session either."""
    async with ScriptedEnv(server.url) as other:
        await other.reset()
        env = ScriptedEnv(server.url)
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(env.open())
            await _soon(turns)
            if not opening.done():
                await cancelled(opening)
        await env.aclose()
        await eventually(lambda: server.sessions == 1)
        await other.step(Command())


async def test_open_that_waits_for_room_can_be_cancelled() -> None:
    """Who gives up waiting does not get the place later."""
    async with serving(max_sessions=1) as server:
        async with ScriptedEnv(server.url) as env:
            waiting = ScriptedEnv(server.url, capacity_timeout=60.0)
            async with asyncio.TaskGroup() as group:
                opening = group.create_task(waiting.open())
                await eventually(lambda: server.core.table.waiting)
                await cancelled(opening)
            await env.reset()
        await eventually(lambda: server.sessions == 0)
        assert server.core.table.waiting == 0


async def test_open_can_be_cancelled_by_a_scope(server: Serving) -> None:
    """anyio's cancellation, which comes again at each await, leaves nothing either."""
    env = ScriptedEnv(server.url)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await env.open()
    await env.aclose()


async def test_one_of_two_that_connect_can_be_cancelled(server: Serving) -> None:
    """A connection that two wait for is there for the other one."""
    first, second = ScriptedEnv(server.url), ScriptedEnv(server.url)
    async with asyncio.TaskGroup() as group:
        one = group.create_task(first.open())
        group.create_task(second.open())
        await _soon(2)
        await cancelled(one)
    await second.reset()
    await second.aclose()


# Steps


async def test_a_step_cancelled_before_it_began_was_not_sent(server: Serving) -> None:
    """A task that never ran sends nothing; the next step is the first."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="unborn")))
            await cancelled(step)
        assert (await env.step(Command())).observation.count == 1
        assert executions["unborn"] == 0


@pytest.mark.parametrize("turns", range(1, 7))
@pytest.mark.parametrize("alone", [False, True])
async def test_a_step_cancelled_early_is_executed_or_not_but_never_unnoticed(
    server: Serving, turns: int, alone: bool
) -> None:
    """What was executed is told; what was not can be repeated."""
    async with contextlib.AsyncExitStack() as stack:
        env = await stack.enter_async_context(ScriptedEnv(server.url))
        if not alone:
            await stack.enter_async_context(ScriptedEnv(server.url))
        await env.reset()
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="young")))
            await _soon(turns)
            step.cancel()
            await asyncio.wait([step])
        told = not step.cancelled()
        if step.cancelled():
            try:
                await env.step(Command(text="next"))
            except StepInterrupted as error:
                told = error.executed == "yes"
        assert executions["young"] == int(told)
        count = executions["young"] + executions["next"]
        assert (await env.step(Command())).observation.count == count + 1


async def test_a_running_step_is_stopped_and_the_next_step_says_so(
    server: Serving,
) -> None:
    """Half a step leaves an unknown state: StepInterrupted once, then a reset."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "running", "wait")
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert caught.value.executed == "unknown"
        with pytest.raises(ResetRequired):
            await env.step(Command())
        await env.reset()
        assert (await env.step(Command())).observation.count == 1
        assert executions["running"] == 0


async def test_a_step_that_finished_all_the_same_is_not_lost(server: Serving) -> None:
    """StepInterrupted carries the result; the episode goes on from there."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "done", "finish_cancelled")
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert caught.value.executed == "yes"
        result = caught.value.result
        assert isinstance(result, StepResult)
        assert result.observation == Report(count=1, text="done", reward=1.0)
        assert (await env.step(Command())).observation.count == 2


async def test_a_reset_after_a_cancelled_step_needs_no_error(server: Serving) -> None:
    """Who resets has given the episode up anyway."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "given up", "finish_cancelled")
        await env.reset()
        assert (await env.step(Command())).observation.count == 1


async def test_a_state_after_a_cancelled_step_keeps_the_error_for_the_step(
    server: Serving,
) -> None:
    """Reading the state does not swallow what the next step has to say."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "kept", "finish_cancelled")
        assert (await env.state()).step_count == 1
        assert (await env.state()).step_count == 1
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert isinstance(caught.value.result, StepResult)
        assert caught.value.result.observation.text == "kept"
        assert (await env.step(Command())).observation.count == 2


async def test_a_cancelled_step_that_fails_says_what_failed(server: Serving) -> None:
    """The error of a step that nobody awaited is in the next one's."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "mine", "fail_cancelled")
        with pytest.raises(StepInterrupted, match="ValueError in step: mine") as caught:
            await env.step(Command())
        assert caught.value.executed == "unknown"


async def test_a_reply_in_the_same_turn_as_the_cancellation_is_kept(
    server: Serving,
) -> None:
    """A step whose reply is there when its task is cancelled has been executed."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(text="photo finish")))
            assert env._session is not None
            env._session.waiter = _Photo(env, step)
            await asyncio.wait([step])
            env._session.waiter = env
        assert step.cancelled()
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert caught.value.executed == "yes"
        assert executions["photo finish"] == 1


async def test_timeouts_around_a_step_are_cancellations(server: Serving) -> None:
    """asyncio.timeout and anyio's scopes stop the step on the server."""
    async with ScriptedEnv(server.url) as env:
        for _ in range(2):
            await env.reset()
            await holding("timed")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await env.step(Command(do="wait", text="timed"))
            await env.reset()
            with anyio.move_on_after(0.02) as scope:
                await env.step(Command(do="wait", text="timed"))
            assert scope.cancelled_caught


async def test_waiting_for_a_cancelled_step_can_be_cancelled_too(
    server: Serving,
) -> None:
    """The call after the cancelled one may be cancelled while it waits, too."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        gate = await holding("deaf")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(env.step(Command(do="swallow", text="deaf")))
            await asleep("deaf")
            await cancelled(step)
            again = group.create_task(env.step(Command()))
            await _soon(3)
            await cancelled(again)
            gate.set()
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert caught.value.executed == "yes"
        assert (await env.step(Command())).observation.count == 2


class _Photo:
    """Cancels the task that awaits a message in the moment in which that is there."""

    def __init__(self, waiter: Waiter, task: asyncio.Task[object]) -> None:
        self._waiter = waiter
        self._task = task

    def deliver(self, message: m.ServerMessage) -> None:
        self._waiter.deliver(message)
        self._task.cancel()


async def _cancel_running(env: ScriptedEnv, text: str, do: str) -> None:
    await holding(text)
    async with asyncio.TaskGroup() as group:
        step = group.create_task(env.step(Command(do=do, text=text)))
        await asleep(text)
        await cancelled(step)


# Reset, state, close


async def test_a_cancelled_reset_wants_another_reset(server: Serving) -> None:
    """After a cancelled reset nobody has seen the start of an episode."""
    async with ScriptedEnv(server.url) as env:
        async with asyncio.TaskGroup() as group:
            reset = group.create_task(env.reset())
            await _soon(1)
            await cancelled(reset)
        with pytest.raises((StepInterrupted, ResetRequired)):
            await env.step(Command())
        await env.reset()
        assert (await env.step(Command())).observation.count == 1


async def test_a_cancelled_state_changes_nothing(server: Serving) -> None:
    """Reading can be given up at any time: the next step is a step."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        for turns in range(1, 6):
            async with asyncio.TaskGroup() as group:
                state = group.create_task(env.state())
                await _soon(turns)
                if not state.done():
                    await cancelled(state)
            assert (await env.step(Command())).observation.count == turns


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_cancelled_close_ends_the_session(server: Serving, turns: int) -> None:
    """Leaving can be cancelled, and the environment is closed all the same."""
    env = ScriptedEnv(server.url)
    await env.open()
    await env.reset(episode_id="left")
    async with asyncio.TaskGroup() as group:
        closing = group.create_task(env.aclose())
        await _soon(turns)
        closing.cancel()
    await env.aclose()
    await eventually(lambda: server.sessions == 0)
    assert journal.count("closed left") == 1


async def test_a_close_cancelled_twice_ends_the_session(server: Serving) -> None:
    """A second cancellation does not stop the clean-up."""
    env = ScriptedEnv(server.url)
    await env.open()
    await env.reset()
    async with asyncio.TaskGroup() as group:
        closing = group.create_task(env.aclose())
        for _ in range(4):
            await _soon(1)
            closing.cancel()
    await eventually(lambda: not server.core.links)


async def test_an_exception_in_the_block_closes_the_session(server: Serving) -> None:
    """Whatever leaves the block closes the environment."""
    with pytest.raises(ValueError, match="mine"):
        async with ScriptedEnv(server.url) as env:
            await env.reset(episode_id="raised")
            raise ValueError("mine")
    assert journal[-1] == "closed raised"


async def test_a_failing_sibling_closes_the_session(server: Serving) -> None:
    """A task group that fails cancels the step and closes the environment."""

    async def fail() -> None:
        await asleep("sibling")
        raise ValueError("mine")

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group, ScriptedEnv(server.url) as env:
            await env.reset(episode_id="sibling")
            await holding("sibling")
            group.create_task(fail())
            await env.step(Command(do="wait", text="sibling"))
    assert journal[-1] == "closed sibling"


# Batches


@pytest.mark.parametrize("turns", range(0, 18, 3))
async def test_opening_a_batch_can_be_cancelled(server: Serving, turns: int) -> None:
    """All or nothing: a batch that is not open holds no session."""
    batch = ScriptedEnv.batch(server.url, size=20, sockets=2)
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(batch.open())
        await _soon(turns)
        if not opening.done():
            await cancelled(opening)
    await batch.aclose()


async def test_a_cancelled_batch_step_tells_each_session(server: Serving) -> None:
    """Executed, stopped, or not begun: each session says it once, in its place."""
    async with ScriptedEnv.batch(server.url, size=4) as batch:
        await batch.reset()
        await holding("stop")
        await holding("finish")
        actions = [
            Command(text="quick"),
            Command(do="wait", text="stop"),
            Command(do="finish_cancelled", text="finish"),
            Command(do="fail", text="bad"),
        ]
        async with asyncio.TaskGroup() as group:
            step = group.create_task(batch.step(actions))
            await asleep("stop")
            await asleep("finish")
            await _soon(20)
            await cancelled(step)
        results = await batch.step([Command()] * 4)
        told = [
            (type(result.error), result.error.executed)
            for result in results
            if isinstance(result, Failure)
        ]
        assert told == [
            (StepInterrupted, "yes"),
            (StepInterrupted, "unknown"),
            (StepInterrupted, "yes"),
            (StepInterrupted, "unknown"),
        ]
        again = await batch.step([Command()] * 4)
        assert [getattr(r, "reward", None) for r in again] == [2.0, None, 2.0, None]


async def test_a_batch_step_whose_replies_are_all_there_is_not_lost(
    server: Serving,
) -> None:
    """A cancellation in the same turn as the last reply loses no result."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        await batch.reset()
        async with asyncio.TaskGroup() as group:
            step = group.create_task(batch.step([Command()] * 3))
            last = batch._slots[2]
            last.session.waiter = _Photo(last, step)
            await asyncio.wait([step])
            last.session.waiter = last
        assert step.cancelled()
        results = await batch.step([Command()] * 3)
        for result in results:
            assert isinstance(result, Failure)
            assert result.executed == "yes"


async def test_a_cancelled_batch_reset_wants_another_reset(server: Serving) -> None:
    """Sessions whose first observation nobody saw do not step as if nothing were."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        async with asyncio.TaskGroup() as group:
            reset = group.create_task(batch.reset())
            await _soon(2)
            await cancelled(reset)
        for result in await batch.step([Command()] * 3):
            assert isinstance(result, Failure)
        await batch.reset()
        for result in await batch.step([Command()] * 3):
            assert isinstance(result, StepResult)


async def test_two_calls_may_wait_for_what_was_cancelled(server: Serving) -> None:
    """Calls on different parts of a batch go on after a cancelled one, each of them."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        gate = await holding("both")
        async with asyncio.TaskGroup() as group:
            actions = [Command(do="swallow", text="both")] * 2
            step = group.create_task(batch.step(actions))
            await asleep("both")
            await cancelled(step)
            calls = [
                group.create_task(batch.reset(indices=[index])) for index in range(2)
            ]
            await _soon(3)
            with pytest.raises(SessionBusy):
                batch.send([0], [Command()])
            gate.set()
        for call in calls:
            assert isinstance(call.result()[0], StepResult)


async def test_ready_can_be_cancelled(server: Serving) -> None:
    """Giving up waiting loses no result: the next `ready` yields them."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        gate = await holding("later")
        batch.send([0, 1], [Command(do="wait", text="later")] * 2)
        with anyio.move_on_after(0.03) as scope:
            async for _ in batch.ready():
                pass
        assert scope.cancelled_caught
        gate.set()
        seen = [index async for ready in batch.ready() for index in ready.indices]
        assert sorted(seen) == [0, 1]


async def test_closing_a_batch_tells_whoever_waits(server: Serving) -> None:
    """A step and a `ready` in other tasks end when the batch is closed."""
    batch = ScriptedEnv.batch(server.url, size=2)
    await batch.open()
    await batch.reset()
    await holding("closing")
    batch.send([0], [Command(do="wait", text="closing")])

    async def collect() -> list[int]:
        return [index async for ready in batch.ready() for index in ready.indices]

    async with asyncio.TaskGroup() as group:
        step = group.create_task(
            batch.step([Command(do="wait", text="closing")], indices=[1])
        )
        seen = group.create_task(collect())
        await asleep("closing")
        await _soon(5)
        await batch.aclose()
    (result,) = step.result()
    assert isinstance(result, Failure)
    assert seen.result() == []


async def test_environments_fail_after_a_cancellation_like_before(
    server: Serving,
) -> None:
    """A cancelled call does not confuse the errors of those that follow."""
    async with ScriptedEnv(server.url) as env:
        await env.reset()
        await _cancel_running(env, "first", "wait")
        await env.reset()
        with pytest.raises(EnvironmentFailed, match="second"):
            await env.step(Command(do="fail", text="second"))
