"""Autoreset: the same as Gymnasium's, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode as GymnasiumMode
from gymnasium.vector import SyncVectorEnv
from numpy.testing import assert_array_equal

from gymnasium_env import GymnasiumAction, GymnasiumEnv
from openenv_async import (
    AutoresetMode,
    EpisodeDone,
    Failure,
    StepInterrupted,
    StepResult,
)
from openenv_async import messages as m
from tests.clients import ScriptedEnv, asleep, holding
from tests.environments import Command, Report
from tests.serving import Serving, eventually, serving

_SIZE = 4
_STEPS = 120


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server of scripted environments."""
    async with serving() as running:
        yield running


def _vector(mode: GymnasiumMode) -> SyncVectorEnv:
    return SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * _SIZE, autoreset_mode=mode
    )


def _array(result: StepResult[Any] | Failure) -> Any:
    assert isinstance(result, StepResult), result
    return result.observation.numpy()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
async def test_autoreset_is_gymnasiums(mode: str) -> None:
    """Same seeds and actions give the same observations, rewards and ends."""
    vector = _vector(GymnasiumMode(mode))
    actions = np.random.default_rng(5).integers(0, 2, size=(_STEPS, _SIZE))
    ends = 0
    try:
        async with (
            serving("gymnasium_env?id=CartPole-v1") as server,
            GymnasiumEnv.batch(server.url, size=_SIZE, autoreset=mode) as batch,
        ):
            expected, _ = vector.reset(seed=11)
            results = await batch.reset(seeds=11)
            assert_array_equal(np.stack([_array(r) for r in results]), expected)
            done_before = np.zeros(_SIZE, bool)
            for row in actions:
                observed, rewards, terminated, truncated, info = vector.step(row)
                results = await batch.step(
                    [GymnasiumAction(action=int(action)) for action in row]
                )
                assert_array_equal(np.stack([_array(r) for r in results]), observed)
                done = terminated | truncated
                ends += int(done.sum())
                for place, result in enumerate(results):
                    assert isinstance(result, StepResult)
                    if mode == "NextStep":
                        assert result.done == done[place]
                        assert result.is_reset == done_before[place]
                        assert (result.reward or 0.0) == rewards[place]
                        assert result.final is None
                    else:
                        assert result.is_reset == done[place]
                        last = result.final if done[place] else result
                        assert last is not None
                        assert last.reward == rewards[place]
                        assert last.terminated == terminated[place]
                        assert last.truncated == truncated[place]
                    if mode == "SameStep" and done[place]:
                        assert result.final is not None
                        assert_array_equal(
                            _array(result.final), info["final_obs"][place]
                        )
                done_before = done
    finally:
        vector.close()
    assert ends > _SIZE


def _reports(
    results: Sequence[StepResult[Report] | Failure],
) -> list[StepResult[Report]]:
    for result in results:
        assert isinstance(result, StepResult), result
    return [result for result in results if isinstance(result, StepResult)]


async def test_the_next_step_resets_and_ignores_its_action(server: Serving) -> None:
    """`NextStep`: the step after the end is a reset, even with a failing action."""
    async with ScriptedEnv.batch(
        server.url, size=2, autoreset=AutoresetMode.NEXT_STEP
    ) as batch:
        await batch.reset(options=[{"length": 1}, None])
        first, _ = _reports(await batch.step([Command()] * 2))
        assert (first.done, first.is_reset) == (True, False)
        second, other = _reports(await batch.step([Command(do="fail"), Command()]))
        assert (second.is_reset, second.reward, second.done) == (True, None, False)
        assert (other.is_reset, other.observation.count) == (False, 2)
        # The options were the first reset's; Gymnasium repeats none either.
        third, _ = _reports(await batch.step([Command()] * 2))
        assert (third.observation.count, third.done) == (1, False)


async def test_the_same_step_brings_the_next_episode(server: Serving) -> None:
    """`SameStep`: the result begins an episode, and `final` ends the one before."""
    async with ScriptedEnv.batch(server.url, size=2, autoreset="SameStep") as batch:
        await batch.reset(options=[{"length": 1}, None])
        first, other = _reports(await batch.step([Command(text="last"), Command()]))
        assert (first.is_reset, first.done, first.reward) == (True, False, None)
        assert first.final is not None
        assert (first.final.observation.text, first.final.terminated) == ("last", True)
        assert (other.is_reset, other.final) == (False, None)
        second, _ = _reports(await batch.step([Command()] * 2))
        assert (second.is_reset, second.final) == (False, None)
        assert second.observation.count == 1


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
async def test_posted_steps_reset_like_others(server: Serving, mode: str) -> None:
    """`send` and `ready` follow the same rules."""
    async with ScriptedEnv.batch(server.url, size=1, autoreset=mode) as batch:
        await batch.reset(options={"length": 1})
        seen: list[tuple[bool, bool, bool]] = []
        batch.send([0], [Command()])
        async for ready in batch.ready():
            (result,) = _reports(ready.results)
            seen.append((result.done, result.is_reset, result.final is not None))
            if len(seen) < 3:
                batch.send([0], [Command()])
    if mode == "NextStep":
        assert seen == [(True, False, False), (False, True, False), (False,) * 3]
    else:
        assert seen == [(False, True, True), (False,) * 3, (False,) * 3]


async def test_without_autoreset_nothing_is_reset(server: Serving) -> None:
    """`Disabled`, the default: every step after the end is `EpisodeDone`."""
    async with ScriptedEnv.batch(server.url, size=1) as batch:
        assert batch.autoreset is AutoresetMode.DISABLED
        await batch.reset(options={"length": 1})
        await batch.step([Command()])
        for _ in range(2):
            (result,) = await batch.step([Command()])
            assert isinstance(result, Failure)
            assert isinstance(result.error, EpisodeDone)
            assert result.executed == "no"


async def test_a_reset_that_cannot_finish_keeps_the_final_result(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SameStep`: when the reset fails, the failure has what ended the episode."""
    async with ScriptedEnv.batch(server.url, size=1, autoreset="SameStep") as batch:
        await batch.reset(options={"length": 1})
        monkeypatch.setattr(
            "tests.environments.ScriptedEnvironment._misdeed", _refuse_resets
        )
        (result,) = await batch.step([Command(text="last")])
        assert isinstance(result, Failure)
        assert result.final is not None
        assert (result.final.observation.text, result.final.done) == ("last", True)
        monkeypatch.undo()
        # The next step tries again, because no episode runs.
        (again,) = _reports(await batch.step([Command()]))
        assert again.is_reset


def _refuse_resets(_self: object, deed: str, _text: str) -> None:
    if deed == "":
        raise RuntimeError("cannot reset")


async def test_cancelling_between_episodes_loses_no_step(server: Serving) -> None:
    """`SameStep`, cancelled while others run: the ended episode is told, once."""
    async with ScriptedEnv.batch(server.url, size=2, autoreset="SameStep") as batch:
        await batch.reset(options=[{"length": 1}, None])
        await holding("other")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(
                batch.step([Command(text="last"), Command(do="wait", text="other")])
            )
            await asleep("other")
            await eventually(lambda: batch._slots[0].gather is None)
            step.cancel()
        first, second = await batch.step([Command()] * 2)
        assert isinstance(first, Failure)
        assert first.error.code == "cancelled"
        assert first.executed == "yes"
        told: Any = first.error
        assert told.result.final.observation.text == "last"
        assert isinstance(second, Failure)
        assert second.error.code == "cancelled"
        again, _ = await batch.step([Command()] * 2)
        assert isinstance(again, StepResult)
        assert again.observation.count == 1


async def test_a_reset_that_was_cancelled_in_time_does_not_hide_the_step(
    server: Serving,
) -> None:
    """`SameStep`: the step had been executed, whatever became of its reset."""
    async with ScriptedEnv.batch(server.url, size=1, autoreset="SameStep") as batch:
        await batch.reset()
        (final,) = await batch.step([Command(text="last")])
        assert isinstance(final, StepResult)
        slot = batch._slots[0]
        slot.kind = m.Reset
        slot.remember(Failure(EpisodeDone("not begun", executed="no"), final))
        (told,) = await batch.step([Command()])
        assert isinstance(told, Failure)
        assert told.executed == "yes"
        assert isinstance(told.error, StepInterrupted)
        assert told.error.result is final
        # Somebody was about to be told, but was cancelled: the next one is.
        await batch.state()
        slot.kind = m.Step
        slot.remember(told)
        (again,) = await batch.step([Command()])
        assert isinstance(again, Failure)
        assert again.error is told.error
        assert isinstance((await batch.step([Command()]))[0], StepResult)
