"""Environments of tools without a reset, as OpenEnv's clients for tools use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.openenv.sockets import Wire, plain
from tests.serving import serving
from tests.tools.shop import Shop


class Closed(Shop):
    """A shop that does not open."""

    def reset(self, **arguments: Any) -> Any:
        """Fail."""
        raise RuntimeError("closed today")


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A connection to a shop."""
    async with serving(Shop) as server, plain(server) as wire:
        yield wire


async def test_tools_are_listed_before_any_reset(wire: Wire) -> None:
    """A reset comes first, which nobody sees."""
    listed = await wire.rpc("tools/list")
    assert "sell" in [tool["name"] for tool in listed["result"]["tools"]]
    assert (await wire.state())["step_count"] == 0


async def test_tools_are_called_before_any_reset(wire: Wire) -> None:
    """The call runs once, in an episode that began for it."""
    called = await wire.rpc("tools/call", name="sell", arguments={"apples": 2})
    assert called["result"]["data"]["sold"] == 2
    stepped = await wire.step(
        type="call_tool", tool_name="sell", arguments={"apples": 1}
    )
    assert stepped["observation"]["result"]["sold"] == 3
    assert (await wire.state())["step_count"] == 2


async def test_calls_keep_their_order(wire: Wire) -> None:
    """What was sent without waiting is answered in order, after one reset."""
    for apples in (1, 2, 3):
        action = {"type": "call_tool", "tool_name": "sell"}
        data = {**action, "arguments": {"apples": apples}}
        await wire.send({"type": "step", "data": data})
    async with asyncio.timeout(10):
        answers = [await wire.receive() for _ in range(3)]
    sold = [each["data"]["observation"]["result"]["sold"] for each in answers]
    assert sold == [1, 3, 6]


async def test_episode_that_ended_needs_a_reset(wire: Wire) -> None:
    """Only the first one begins by itself."""
    finish = {"type": "call_tool", "tool_name": "close_deal"}
    assert (await wire.step(**finish))["done"] is True
    again = await wire.step(**finish)
    assert (again["code"], again["executed"]) == ("EXECUTION_ERROR", "no")


async def test_reset_that_fails_is_the_answer() -> None:
    """The environment's own error is told, not that a reset is missing."""
    async with serving(Closed) as server, plain(server) as wire:
        listed = await wire.rpc("tools/list")
        assert "closed today" in listed["error"]["message"]
        assert "code" in await wire.step(type="list_tools")
