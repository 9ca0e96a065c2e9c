"""The coding environment behind a server, with its typed client."""

from __future__ import annotations

import time

import anyio
import pytest

from coding_env import CodingAction, CodingEnv
from openenv_async import (
    DeadlineExceeded,
    EpisodeDone,
    InvalidAction,
    LocalProvider,
    StepResult,
)

_TARGET = "coding_env?interpreter=cpython&max_timeout=5&timeout=5"


@pytest.mark.parametrize("target", [_TARGET, "coding_env"])
async def test_session_runs_code(target: str) -> None:
    """A session keeps its variables from step to step, with either interpreter."""
    async with CodingEnv.local(target) as env:
        await env.reset()
        await env.step(CodingAction(code="x = 20"))
        result = await env.step(CodingAction(code="print('hi')\nx + 1"))
        assert (result.observation.stdout, result.observation.result) == ("hi\n", "21")
        assert (await env.state()).step_count == 2


async def test_sessions_survive_each_others_ends() -> None:
    """Of many sessions at a time those that hang or crash end alone."""
    codes = {
        0: "while True: pass",
        1: "import os\nos._exit(9)",
        2: "import ctypes\nctypes.string_at(0)",
    }
    async with CodingEnv.batch(size=16, provider=LocalProvider(_TARGET)) as envs:
        await envs.reset()
        results = await envs.step(
            [
                CodingAction(code=codes.get(number, f"x = {number}\nx"), timeout=1.0)
                for number in range(16)
            ]
        )
        seen = [one.observation for one in results if isinstance(one, StepResult)]
        assert len(seen) == 16
        assert [one.exit_code for one in seen[:3]] == [124, 9, 139]
        assert all(one.truncated for one in seen[:3])
        assert [one.result for one in seen[3:]] == [str(n) for n in range(3, 16)]


async def test_a_dead_episode_must_be_reset() -> None:
    """After a killed worker a step is refused, and reset() gives a new one."""
    async with CodingEnv.local(_TARGET) as env:
        await env.reset()
        result = await env.step(CodingAction(code="import os\nos._exit(1)"))
        assert result.truncated
        with pytest.raises(EpisodeDone):
            await env.step(CodingAction(code="1"))
        await env.reset()
        assert (await env.step(CodingAction(code="1"))).observation.result == "1"


async def test_a_deadline_of_the_client_kills_the_code() -> None:
    """A step that the client gives up ends at once; reset() then gives a new worker."""
    async with CodingEnv.local(_TARGET) as env:
        await env.reset()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await env.step(CodingAction(code="while True: pass"), timeout=0.3)
        assert time.monotonic() - started < 2
        assert not (await env.state()).alive
        await env.reset()
        assert (await env.step(CodingAction(code="3"))).observation.result == "3"


async def test_wrong_timeouts_are_refused() -> None:
    """A timeout beyond the operator's most is refused, and the episode goes on."""
    async with CodingEnv.local(_TARGET) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match="up to 5, got 6"):
            await env.step(CodingAction(code="1", timeout=6.0))
        assert (await env.step(CodingAction(code="1"))).observation.result == "1"


async def test_64_sessions_at_a_time() -> None:
    """Sixty-four sessions on one server each keep their own variables."""
    async with CodingEnv.batch(size=64, provider=LocalProvider(_TARGET)) as envs:
        await envs.reset()
        with anyio.fail_after(15):
            for step in range(5):
                results = await envs.step(
                    [
                        CodingAction(code=f"x = {n} if {step} == 0 else x + 1\nx")
                        for n in range(64)
                    ]
                )
                seen = [r.observation for r in results if isinstance(r, StepResult)]
                assert [one.result for one in seen] == [
                    str(n + step) for n in range(64)
                ]
