"""Wrong values from callers and environments: each costs its own call alone."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from openenv_async import (
    Action,
    EnvClient,
    Environment,
    EnvironmentFailed,
    GenericEnv,
    LocalProtocolError,
    Observation,
    ServerObserver,
    SessionBusy,
    State,
)
from openenv_async import messages as m
from tests.serving import dial, eventually, serving


class Odd(Action):
    """Says what the observation's fields shall be."""

    reward: Any = None
    done: Any = False
    value: Any = None
    sleep: float = 0.0


class Seen(Observation):
    """Carries any value."""

    value: Any = None


class OddEnvironment(Environment[Odd, Seen, State]):
    """Puts into an observation what it is told to."""

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Seen:
        return Seen(value=seed, reward=(options or {}).get("reward"))

    async def step(self, action: Odd) -> Seen:
        await asyncio.sleep(action.sleep)
        return Seen(reward=action.reward, terminated=action.done, value=action.value)

    def state(self) -> State:
        return State()


class OddEnv(EnvClient[Odd, Seen, State]):
    """A session of it."""


opened = threading.Event()


class StuckEnvironment(Environment[Odd, Seen, State]):
    """Blocks its thread until it is let go."""

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Seen:
        return Seen()

    def step(self, action: Odd) -> Seen:
        opened.wait(20)
        return Seen()

    def state(self) -> State:
        return State()


@pytest.mark.parametrize("execution", ["inline", "thread", "process"])
@pytest.mark.parametrize("wrong", [{"reward": "x"}, {"reward": [1.0]}, {"done": 1}])
async def test_a_wrong_reward_fails_its_step_alone(
    wrong: dict[str, Any], execution: Any
) -> None:
    """The environment's fault is named, and both sessions of the socket go on."""
    async with (
        serving(OddEnvironment, execution=execution) as server,
        OddEnv(server.url) as env,
        OddEnv(server.url) as other,
    ):
        await env.reset()
        await env.step(Odd(reward=1.0))
        await other.reset()
        with pytest.raises(EnvironmentFailed, match="expected a") as caught:
            await env.step(Odd(**wrong))
        assert caught.value.executed == "yes"
        assert (await other.step(Odd(reward=2))).reward == 2
        await env.reset()
        assert (await env.step(Odd(reward=0.5))).reward == 0.5


async def test_a_wrong_reward_of_a_reset_disturbs_no_list() -> None:
    """What is not a number is never listed as one."""
    async with (
        serving(OddEnvironment) as server,
        OddEnv(server.url) as env,
        ServerObserver(server.url) as observer,
    ):
        with pytest.raises(EnvironmentFailed, match="as reward"):
            await env.reset(options={"reward": "x"})
        rows = await observer.sessions()
        assert [row.reward for row in rows] == [None]


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, "abc", 1.5])
async def test_a_seed_that_is_none_is_misuse(seed: Any) -> None:
    """Nothing is sent, and the session is as it was."""
    async with serving(OddEnvironment) as server, OddEnv(server.url) as env:
        with pytest.raises(LocalProtocolError, match="as seed"):
            await env.reset(seed=seed)
        assert (await env.reset(seed=7)).observation.value == 7


async def test_a_huge_seed_by_hand_is_refused() -> None:
    """A seed that no other encoding could represent costs one request."""
    async with serving(OddEnvironment) as server, dial(server, codec=m.JSON) as peer:
        await peer.open(1)
        await peer.send_frame(b'[["reset",1,1,1180591620717411303424]]')
        failure = await peer.expect(m.Failure)
        assert (failure.seq, failure.executed) == (1, "no")
        await peer.reset(1, 2)


@pytest.mark.parametrize("timeout", ["5", -1, 0, float("nan"), float("inf"), True])
async def test_a_timeout_that_is_none_is_misuse(timeout: Any) -> None:
    """Nothing is sent, and the session is not busy afterwards."""
    async with serving(OddEnvironment) as server, OddEnv(server.url) as env:
        await env.reset()
        for call in (env.reset(timeout=timeout), env.state(timeout=timeout)):
            with pytest.raises(LocalProtocolError, match="seconds"):
                await call
        with pytest.raises(LocalProtocolError, match="seconds"):
            await env.step(Odd(), timeout=timeout)
        await env.step(Odd())


@pytest.mark.slow
async def test_an_old_deadline_does_not_end_a_later_call() -> None:
    """A call without a deadline may take longer than the one before was allowed."""
    async with serving(OddEnvironment) as server, OddEnv(server.url) as env:
        await env.reset()
        await env.step(Odd(), timeout=0.1)
        assert (await env.step(Odd(sleep=7.0, value=1))).observation.value == 1


async def test_a_call_that_hangs_does_not_keep_a_session_for_ever() -> None:
    """A vanished client's stuck call is given up, and its room is free again."""
    opened.clear()
    try:
        async with serving(StuckEnvironment, lease=0.05) as server:
            async with dial(server) as peer:
                await peer.open(1)
                await peer.reset(1)
                await peer.send(m.Step(1, 2, Odd()))
                await eventually(
                    lambda: any(
                        session.request for session in server.core.table.by_id.values()
                    )
                )
            await eventually(lambda: server.sessions == 0, patience=10.0)
            opened.set()
    finally:
        opened.set()


async def test_one_frame_cannot_ask_for_many_lists() -> None:
    """A flood of lists is refused, and another session's step is not held up."""
    async with (
        serving(OddEnvironment) as server,
        dial(server) as peer,
        OddEnv(server.url) as env,
    ):
        await env.reset()
        await peer.send(*(m.ListSessions(number) for number in range(5000)))
        before = time.perf_counter()
        await env.step(Odd())
        assert time.perf_counter() - before < 1.0
        answers = [await peer.receive() for _ in range(5000)]
        refused = [answer for answer in answers if isinstance(answer, m.Failure)]
        assert len(refused) >= 4000
        assert {failure.code for failure in refused} == {"busy"}


async def test_numpy_values_travel() -> None:
    """Scalars arrive as numbers, arrays as arrays, also where no type says so."""
    async with serving(OddEnvironment) as server, GenericEnv(server.url) as env:
        await env.reset(seed=np.int64(3))  # type: ignore[arg-type]  # an integer, too
        action = {"value": [np.int64(4), np.float32(0.5)], "reward": np.float64(1.5)}
        result = await env.step(action)
        assert result.observation["value"] == [4, 0.5]
        assert result.reward == 1.5
        result = await env.step({"value": np.arange(3, dtype=np.int16)})
        assert result.observation["value"].numpy().tolist() == [0, 1, 2]


async def test_the_owner_can_close_while_a_guest_holds_the_session() -> None:
    """It is the owner's: the guest is told that it ended."""
    async with serving(OddEnvironment) as server, dial(server) as peer:
        session = (await peer.open(1)).session
        await peer.reset(1)
        async with dial(server) as guest:
            await guest.send(m.TakeOver(1, session, "a" * 32))
            await guest.expect(m.Opened)
            await peer.call(m.Close(1, 2))
            await guest.expect(m.Ended)
        await eventually(lambda: server.sessions == 0)


async def test_a_refused_call_leaves_no_busy_session() -> None:
    """Two calls at once: the second is refused, the first gets its answer."""
    async with serving(OddEnvironment) as server, OddEnv(server.url) as env:
        await env.reset()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(env.step(Odd(sleep=0.05, value=1)))
            await asyncio.sleep(0)
            with pytest.raises(SessionBusy):
                await env.step(Odd())
        assert first.result().observation.value == 1
