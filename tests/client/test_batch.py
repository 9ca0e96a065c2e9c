"""`EnvBatch` all together: order, failures in place, seeds, sockets, sizes, leaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import anyio
import pytest

from openenv_async import (
    AtCapacity,
    BatchResult,
    ConnectFailed,
    EnvClient,
    EnvironmentFailed,
    EpisodeDone,
    Failure,
    InvalidAction,
    LocalProtocolError,
    RemoteProtocolError,
    ResetRequired,
    SessionBusy,
    SessionClosed,
    SessionLost,
    State,
    StepInterrupted,
    StepResult,
)
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import Command, Report, journal
from tests.serving import Serving, eventually, serving

ObsT = TypeVar("ObsT")


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        assert connections() == 0
        assert running.sessions == 0


def _good(results: Sequence[BatchResult[ObsT]]) -> list[ObsT]:
    """The observations of results of which none failed."""
    for result in results:
        assert isinstance(result, StepResult), result
    return [result.observation for result in results if isinstance(result, StepResult)]


def _error(result: object) -> Any:
    assert isinstance(result, Failure), result
    return result.error


# Order and failures


async def test_results_are_in_the_order_of_the_sessions(server: Serving) -> None:
    """Each action's answer stands in its place, however late it comes."""
    async with ScriptedEnv.batch(server.url, size=8) as batch:
        assert len(batch) == 8
        await batch.reset()
        actions = [
            Command(do="sleep", seconds=0.01 * (8 - place), text=str(place))
            for place in range(8)
        ]
        reports = _good(await batch.step(actions))
    assert [report.text for report in reports] == [str(place) for place in range(8)]


async def test_failed_sessions_disturb_no_other(server: Serving) -> None:
    """A refused action and an environment that raises fail in their own places."""
    async with ScriptedEnv.batch(server.url, size=4) as batch:
        await batch.reset()
        bad = Command(size="big")  # type: ignore[arg-type]  # on purpose
        unsayable = Command(text="\udc80")
        failing = Command(do="fail", text="broken")
        results = await batch.step([bad, failing, unsayable, Command(text="fine")])
        assert isinstance(_error(results[0]), InvalidAction)
        assert isinstance(_error(results[1]), EnvironmentFailed)
        assert "broken" in _error(results[1]).traceback
        assert isinstance(_error(results[2]), LocalProtocolError)
        assert [result.executed for result in results[:3]] == ["no", "unknown", "no"]  # type: ignore[union-attr]  # failures, see above
        assert [report.text for report in _good(results[3:])] == ["fine"]
        # The refused ones go on, the broken one wants a reset.
        again = await batch.step([Command()] * 4)
        assert [type(result) for result in again] == [
            StepResult,
            Failure,
            StepResult,
            StepResult,
        ]
        _good(await batch.reset(indices=[1]))
        _good(await batch.step([Command()] * 4))


async def test_a_step_after_the_end_fails_without_autoreset(server: Serving) -> None:
    """In mode `Disabled` a session whose episode is over has `EpisodeDone`."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset(options=[{"length": 1}, None])
        assert [r.terminated for r in _good(await batch.step([Command()] * 2))] == [
            True,
            False,
        ]
        results = await batch.step([Command()] * 2)
        assert isinstance(_error(results[0]), EpisodeDone)
        assert _good(results[1:])[0].count == 2


async def test_an_observation_of_another_type_fails_in_place(server: Serving) -> None:
    """What does not fit the client's type is the server's fault, and says so."""

    class Narrow(Report):
        count: str = ""  # type: ignore[assignment]  # on purpose

    class NarrowEnv(EnvClient[Command, Narrow, State]): ...

    async with NarrowEnv.batch(server.url, size=2) as batch:
        _good(await batch.reset())
        results = await batch.step([Command()] * 2)
        for result in results:
            error = _error(result)
            assert isinstance(error, RemoteProtocolError)
            assert "$.count" in error.message
            assert error.executed == "yes"


# Which sessions


async def test_some_sessions_can_be_stepped_in_any_order(server: Serving) -> None:
    """Results for `indices` come in their order, and the others stay where they are."""
    async with ScriptedEnv.batch(server.url, size=4) as batch:
        await batch.reset()
        await batch.step([Command()], indices=[2])
        some = _good(
            await batch.step([Command(text="a"), Command(text="b")], indices=[2, 0])
        )
        assert [(report.text, report.count) for report in some] == [("a", 2), ("b", 1)]
        states = await batch.state()
        assert [state.step_count for state in states if isinstance(state, State)] == [
            1,
            0,
            2,
            0,
        ]
        assert await batch.step([], indices=[]) == []


@pytest.mark.parametrize("indices", [[0, 0], [2], [-3], [0, -2]])
async def test_wrong_indices_are_misuse(server: Serving, indices: list[int]) -> None:
    """Duplicates and what is out of range are refused before anything is sent."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        with pytest.raises(LocalProtocolError, match="expected"):
            await batch.step([Command()] * len(indices), indices=indices)
        assert [r.count for r in _good(await batch.step([Command()] * 2))] == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_actions_is_misuse(server: Serving, count: int) -> None:
    """Nothing is sent when actions and sessions do not match."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        with pytest.raises(LocalProtocolError, match=f"2 actions, got {count}"):
            await batch.step(Command() for _ in range(count))
        with pytest.raises(LocalProtocolError, match=f"2 actions, got {count}"):
            batch.send([0, 1], [Command()] * count)
        assert [r.count for r in _good(await batch.step([Command()] * 2))] == [1, 1]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        (None, ["None"] * 3),
        (5, ["5", "6", "7"]),
        ([9, None, 1], ["9", "None", "1"]),
        (range(3), ["0", "1", "2"]),
    ],
)
async def test_seeds(server: Serving, seeds: Any, expected: list[str]) -> None:
    """Seeds are given one by one, or count up from the first."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        texts = [report.text for report in _good(await batch.reset(seeds=seeds))]
    assert texts == [f"seed {seed}" for seed in expected]


async def test_a_wrong_number_of_seeds_or_options_is_misuse(server: Serving) -> None:
    """Nothing is sent when there are too many or too few."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        with pytest.raises(LocalProtocolError, match="3 seeds, got 2"):
            await batch.reset(seeds=[1, 2])
        with pytest.raises(LocalProtocolError, match="3 options, got 4"):
            await batch.reset(options=[None] * 4)
        assert "reset None" not in journal


async def test_options_are_for_all_or_for_each(server: Serving) -> None:
    """One map of options goes to all sessions, a list one to each."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset(options={"length": 1})
        assert all(r.done for r in _good(await batch.step([Command()] * 2)))
        await batch.reset(options=[{"length": 1}, {"length": 2}])
        done = [r.done for r in _good(await batch.step([Command()] * 2))]
        assert done == [True, False]


# Overlapping calls


async def test_calls_on_the_same_session_may_not_overlap(server: Serving) -> None:
    """Whatever the second call is, it raises `SessionBusy` and the first goes on."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        gate = await holding("busy")
        waiting = Command(do="wait", text="busy")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(batch.step([waiting], indices=[1]))
            await asleep("busy")
            with pytest.raises(SessionBusy, match="session 1"):
                await batch.step([Command()] * 2)
            with pytest.raises(SessionBusy):
                await batch.reset(indices=[1])
            with pytest.raises(SessionBusy):
                await batch.state()
            with pytest.raises(SessionBusy):
                batch.send([1], [Command()])
            gate.set()
        assert _good(first.result())[0].count == 1
        # Nothing of what was refused had been sent.
        assert [r.count for r in _good(await batch.step([Command()] * 2))] == [1, 2]


async def test_calls_on_different_sessions_may_overlap(server: Serving) -> None:
    """One half of a batch can be stepped while the other half is waiting."""
    async with ScriptedEnv.batch(server.url, size=4) as batch:
        await batch.reset()
        gate = await holding("half")
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(
                batch.step([Command(do="wait", text="half")] * 2, indices=[0, 1])
            )
            await asleep("half")
            for count in range(1, 20):
                fast = _good(await batch.step([Command()] * 2, indices=[2, 3]))
                assert [report.count for report in fast] == [count] * 2
            assert not slow.done()
            gate.set()
        assert [report.count for report in _good(slow.result())] == [1, 1]


@pytest.mark.parametrize("do", ["count", "sleep"])
@pytest.mark.parametrize("turns", range(10))
async def test_a_step_cancelled_at_any_turn_is_told_or_did_not_happen(
    server: Serving, turns: int, do: str
) -> None:
    """The next step goes on, or says once, in place, what became of the other."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        await batch.reset()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(batch.step([Command(do=do)] * 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        if not task.cancelled():
            return
        for place, result in enumerate(await batch.step([Command()] * 3)):
            if isinstance(result, StepResult):
                assert result.observation.count == 1
                continue
            error = result.error
            assert isinstance(error, StepInterrupted)
            if error.executed == "yes":
                assert isinstance(error.result, StepResult)
                assert error.result.observation.count == 1
                (after,) = _good(await batch.step([Command()], indices=[place]))
                assert after.count == 2
            else:
                assert error.executed == "unknown"
                (broken,) = await batch.step([Command()], indices=[place])
                assert isinstance(_error(broken), ResetRequired)
        _good(await batch.reset())
        assert [r.count for r in _good(await batch.step([Command()] * 3))] == [1] * 3


@pytest.mark.parametrize("turns", range(10))
async def test_a_reset_cancelled_at_any_turn_is_forgiven_by_the_next(
    server: Serving, turns: int
) -> None:
    """Another reset clears whatever the cancelled one left."""
    async with ScriptedEnv.batch(server.url, size=3) as batch:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(batch.reset(seeds=1))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        texts = [report.text for report in _good(await batch.reset(seeds=7))]
        assert texts == ["seed 7", "seed 8", "seed 9"]
        assert [r.count for r in _good(await batch.step([Command()] * 3))] == [1] * 3


# Opening and closing


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_needs_a_size(size: int) -> None:
    """A batch without sessions is misuse, as are no sockets and unknown modes."""
    with pytest.raises(LocalProtocolError, match="size"):
        ScriptedEnv.batch("ws://nowhere", size=size)
    with pytest.raises(LocalProtocolError, match="socket"):
        ScriptedEnv.batch("ws://nowhere", size=1, sockets=size)
    with pytest.raises(LocalProtocolError, match="NextStep"):
        ScriptedEnv.batch("ws://nowhere", size=1, autoreset="next_step")
    with pytest.raises(LocalProtocolError, match="url or a provider"):
        ScriptedEnv.batch(size=1)


async def test_calls_need_an_open_batch(server: Serving) -> None:
    """Before and after the block every call is a typed error; twice is one, too."""
    batch = ScriptedEnv.batch(server.url, size=1)
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="open batch"):
            await batch.step([Command()])
        with pytest.raises(LocalProtocolError, match="open batch"):
            batch.send([0], [Command()])
        async with batch:
            with pytest.raises(LocalProtocolError, match="not open yet"):
                await batch.open()
            _good(await batch.reset())
    await batch.aclose()


async def test_opening_is_all_or_nothing() -> None:
    """Five sessions do not fit on a server for three, and none stays there."""
    async with serving(max_sessions=3) as server:
        batch = ScriptedEnv.batch(server.url, size=5)
        with pytest.raises(AtCapacity) as caught:
            await batch.open()
        assert caught.value.detail["max_sessions"] == 3
        await eventually(lambda: server.sessions == 0)
        assert connections() == 0
        async with ScriptedEnv.batch(server.url, size=3) as fits:
            _good(await fits.reset())


async def test_opening_waits_for_room() -> None:
    """With `capacity_timeout` a batch opens when others have left."""
    async with serving(max_sessions=3) as server:
        first = ScriptedEnv.batch(server.url, size=2)
        await first.open()
        second = ScriptedEnv.batch(server.url, size=3, capacity_timeout=5.0)
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(second.open())
            await eventually(lambda: server.core.table.waiting == 2)
            assert not opening.done()
            await first.aclose()
        _good(await second.reset())
        await second.aclose()
        await eventually(lambda: server.sessions == 0)


async def test_closing_answers_what_is_in_flight(server: Serving) -> None:
    """Closing stops a running step, closes all environments, and tells the caller."""
    batch = ScriptedEnv.batch(server.url, size=3)
    await batch.open()
    await batch.reset()
    await holding("closing")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            batch.step([Command(do="wait", text="closing"), Command()], indices=[0, 1])
        )
        await asleep("closing")
        await batch.aclose()
    stopped, finished = waiting.result()
    assert isinstance(_error(stopped), SessionClosed)
    assert _error(stopped).executed == "unknown"
    assert _good([finished])[0].count == 1
    assert journal.count("closed None") == 3


def _lose(server: Serving, id: str) -> None:
    """Have the server end a session."""
    server.core._retire(server.core.table.by_id[id], "lease_expired")


async def test_a_session_that_was_lost_is_opened_anew_by_a_reset(
    server: Serving,
) -> None:
    """A lost session fails in its place until a reset, which opens another one."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        before = batch.session_ids
        _lose(server, before[0])
        await eventually(lambda: server.sessions == 1)
        results = await batch.step([Command()] * 2)
        assert isinstance(_error(results[0]), SessionLost)
        assert _error(results[0]).executed == "no"
        assert _good(results[1:])[0].count == 1
        assert _good(await batch.reset(seeds=3))[0].text == "seed 3"
        assert [r.count for r in _good(await batch.step([Command()] * 2))] == [1, 1]
        after = batch.session_ids
        assert after[0] != before[0]
        assert after[1] == before[1]
        assert connections() == 1


async def test_a_session_lost_in_a_call_does_not_say_that_nothing_ran(
    server: Serving,
) -> None:
    """A running step whose session ends is a failure, executed or not unknown."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        await holding("lost")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(
                batch.step([Command(do="wait", text="lost"), Command()])
            )
            await asleep("lost")
            _lose(server, batch.session_ids[0])
        lost, fine = step.result()
        assert isinstance(lost, Failure)
        assert lost.executed == "unknown"
        assert _good([fine])[0].count == 1


@pytest.mark.parametrize("turns", range(8))
async def test_a_reset_that_opens_anew_can_be_cancelled(
    server: Serving, turns: int
) -> None:
    """Whenever it is cancelled, the next reset opens what is missing."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        _lose(server, batch.session_ids[0])
        await eventually(lambda: server.sessions == 1)
        await batch.state()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(batch.reset())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        _good(await batch.reset())
        assert [r.count for r in _good(await batch.step([Command()] * 2))] == [1, 1]


async def test_no_other_call_meets_a_session_that_is_opened_anew(
    server: Serving,
) -> None:
    """While a reset opens lost sessions, a step on them raises `SessionBusy`."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset()
        _lose(server, batch.session_ids[0])
        await eventually(lambda: server.sessions == 1)
        await batch.state()
        async with asyncio.TaskGroup() as group:
            resetting = group.create_task(batch.reset(indices=[0]))
            await asyncio.sleep(0)
            with pytest.raises(SessionBusy):
                await batch.step([Command()], indices=[0])
        _good(resetting.result())


async def test_a_batch_whose_server_is_gone_fails_in_every_place() -> None:
    """Steps are `SessionLost`, and a reset that finds nobody is a failure, not less."""
    async with serving() as server:
        async with ScriptedEnv.batch(
            server.url, size=2, reconnect_timeout=0.05
        ) as batch:
            await batch.reset()
            await holding("gone")
            async with asyncio.TaskGroup() as group:
                step = group.create_task(
                    batch.step([Command(do="wait", text="gone"), Command()])
                )
                await asleep("gone")
                assert server.path is not None
                await anyio.to_thread.run_sync(server.path.unlink)
                for link in list(server.core.links):
                    link.abort()
            assert isinstance(_error(step.result()[0]), SessionLost)
            assert _error(step.result()[0]).executed == "unknown"
            for _ in range(2):
                for result in await batch.reset():
                    assert isinstance(_error(result), ConnectFailed)
        assert connections() == 0


# States and deadlines


async def test_states_are_typed_and_fail_in_place(server: Serving) -> None:
    """`state` returns the client's type, and a failure only where it failed."""
    async with ScriptedEnv.batch(server.url, size=2) as batch:
        await batch.reset(options=[{"state": "fail"}, None])
        failed, state = await batch.state()
        assert isinstance(failed, Failure)
        assert isinstance(failed.error, EnvironmentFailed)
        assert state == State(step_count=0)
        (only,) = await batch.state(indices=[1])
        assert only == state
        # A state that fails does not end the episode.
        _good(await batch.step([Command()] * 2))


async def test_timeouts_are_per_session(server: Serving) -> None:
    """A session that exceeds the deadline fails in its place."""
    async with ScriptedEnv.batch(server.url, size=2, timeout=0.05) as batch:
        await batch.reset()
        results = await batch.step([Command(do="sleep", seconds=10.0), Command()])
        assert _error(results[0]).code == "deadline_exceeded"
        assert _good(results[1:])[0].count == 1
        await batch.reset(indices=[0])
        slow = Command(do="sleep", seconds=0.1)
        _good(await batch.step([slow], indices=[0], timeout=5.0))
