"""What calls return inside of the loop that their client lives in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from openenv_async.openenv import GenericEnvClient
from tests.client.dialects import started
from tests.clients import cancelled
from tests.openenv.counting import Counting
from tests.serving import serving


@pytest.fixture
async def env() -> AsyncIterator[GenericEnvClient]:
    """A client of this loop, in an episode."""
    async with serving(Counting) as server:
        async with GenericEnvClient(base_url=server.url) as client:
            await client.reset()
            yield client


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda call: call.reward, r"awaited before its result is used, got \.reward"),
        (lambda call: call["total"], r"got \['total'\]: its client lives in this"),
        (list, "got an iteration: .* write 'await client"),
    ],
)
async def test_a_result_that_is_used_unawaited_says_what_is_missing(
    env: GenericEnvClient, use: Callable[[Any], object], text: str
) -> None:
    """It cannot block the loop that it needs, so there is nothing else to do."""
    call = env.step({"delta": 1})
    with pytest.raises((AttributeError, TypeError), match=text):
        use(call)
    # It is still good for what it is for.
    assert (await call).reward == 1.0


async def test_calls_are_coroutines_as_openenvs_are(env: GenericEnvClient) -> None:
    """Tasks and `wait_for` take them; one that is given up never ran."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(env.step({"delta": 1})) for _ in range(2)]
        assert "awaited" in repr(tasks[0])
    assert [task.result().observation["total"] for task in tasks] == [1, 2]
    assert (await asyncio.wait_for(env.step({"delta": 1}), 5)).reward == 1.0
    given_up = env.step({"delta": 1})
    assert asyncio.iscoroutine(given_up)
    given_up.close()
    assert (await env.state())["step_count"] == 3


async def test_a_task_of_a_call_can_be_cancelled(env: GenericEnvClient) -> None:
    """The cancellation reaches the call itself."""
    task = started(env.step({"delta": 1, "sleep_s": 60.0}))
    await asyncio.sleep(0)
    await cancelled(task)
    await env.reset()
    assert (await env.step({"delta": 1})).observation["total"] == 1
