"""Environments of tools without a reset, as OpenEnv's clients for tools use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import messages as m
from openenv_async.server.dialect import Hall, Seat
from openenv_async.tools import EpisodeBegun, ToolEnvironment
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


async def test_refused_call_says_that_nothing_ran(wire: Wire) -> None:
    """JSON-RPC has our facts in `data`, which OpenEnv leaves empty."""
    ended = await wire.rpc("tools/call", name="close_deal")
    assert ended["result"]["done"] is True
    refusal = (await wire.rpc("tools/call", name="close_deal"))["error"]
    assert refusal["data"] == {
        "code": "episode_done",
        "executed": "no",
        "retryable": False,
        "fault": "caller",
    }


async def test_error_of_a_tool_is_told_from_one_of_the_environment(wire: Wire) -> None:
    """The step ran that a tool refused; nobody knows how far one came that broke."""
    params = {"name": "drop", "arguments": {"how": "clumsily"}}
    data = (await wire.rpc("tools/call", **params))["error"]["data"]
    assert (data["error_type"], data["executed"]) == ("execution_error", "yes")
    params["arguments"] = {"how": "fatally"}
    data = (await wire.rpc("tools/call", **params))["error"]["data"]
    assert (data["code"], data["executed"]) == ("environment_failed", "unknown")


class Late(ToolEnvironment):
    """Its reset waits, and fails."""

    entered: asyncio.Event
    opened: asyncio.Event

    async def reset(self, **_arguments: Any) -> EpisodeBegun:
        """Wait until it is let go."""
        self.entered.set()
        await self.opened.wait()
        raise RuntimeError("closed today")


async def test_withdrawn_call_leaves_the_next_one_its_own_answer() -> None:
    """A reset that fails after its call was withdrawn is nobody else's answer."""
    Late.entered, Late.opened = asyncio.Event(), asyncio.Event()
    async with serving(Late) as server, asyncio.timeout(10):
        hall = Hall(server.core, lease=60.0, frame_bytes=1 << 20)
        seat = hall.enter(hall.shapes["late"])
        assert isinstance(seat, Seat)
        action = b'{"type": "list_tools"}'
        async with asyncio.TaskGroup() as group:
            first = group.create_task(seat.ask(m.Step, action))
            await Late.entered.wait()
            second = group.create_task(seat.ask(m.Step, action))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            Late.opened.set()
        answer = second.result()
        assert isinstance(answer, m.Failure)
        assert (answer.code, answer.executed) == ("episode_broken", "no")
        seat.leave()


async def test_reset_that_fails_is_the_answer() -> None:
    """The environment's own error is told, not that a reset is missing."""
    async with serving(Closed) as server, plain(server) as wire:
        listed = await wire.rpc("tools/list")
        assert "closed today" in listed["error"]["message"]
        assert "code" in await wire.step(type="list_tools")
