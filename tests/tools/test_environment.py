"""Calls of tools as steps: results, rewards, and errors that say whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import EnvClient, EnvironmentFailed, LocalProtocolError, State
from openenv_async.environment import EnvironmentSpec
from openenv_async.memory import MemoryServer
from openenv_async.tools import (
    CallTool,
    EpisodeBegun,
    ListTools,
    ToolAction,
    ToolCalled,
    ToolEnvironment,
    ToolError,
    ToolObservation,
    ToolsListed,
    tool,
)
from tests.tools.shop import Shop


class ShopEnv(EnvClient[ToolAction, ToolObservation, State]):
    """A client for tools."""


@pytest.fixture
async def env() -> AsyncIterator[ShopEnv]:
    """A session with an open shop."""
    async with MemoryServer(Shop) as server, ShopEnv(server.url) as env:
        await env.reset(episode_id="monday")
        yield env


async def call(env: ShopEnv, name: str, **arguments: Any) -> ToolCalled:
    """Call a tool; what came of it."""
    action = CallTool(tool_name=name, arguments=arguments)
    observation = (await env.step(action)).observation
    assert isinstance(observation, ToolCalled)
    return observation


async def test_result_travels_as_it_is(env: ShopEnv) -> None:
    """A plain value is the result; the call is counted."""
    called = await call(env, "sell", apples=2)
    assert called == ToolCalled(
        tool_name="sell", result={"sold": 2, "customer": "anybody"}
    )
    assert await env.state() == State(episode_id="monday", step_count=1)


async def test_tool_result_rewards_and_ends(env: ShopEnv) -> None:
    """A `ToolResult` gives the reward, the end and the metadata of its step."""
    await call(env, "sell", apples=3)
    called = await call(env, "close_deal")
    assert (called.result, called.reward, called.terminated) == ("done", 1.0, True)
    assert called.metadata == {"sold": 3}


async def test_tools_are_listed_under_their_names(env: ShopEnv) -> None:
    """Listing shows each tool once, and is no call."""
    observation = (await env.step(ListTools())).observation
    assert isinstance(observation, ToolsListed)
    assert {each.name: each.description for each in observation.tools} == {
        "close_deal": "Finish.",
        "drop": "Drop an apple.",
        "sell": "Sell some apples.\n\nReturns nothing to the stock.",
        "wait": "Wait for customers.",
    }
    assert (await env.state()).step_count == 0


async def test_reset_shows_the_prompt() -> None:
    """The first observation is the author's."""
    async with MemoryServer(Shop) as server, ShopEnv(server.url) as env:
        begun = (await env.reset()).observation
        assert begun == EpisodeBegun(prompt="Sell three apples.")


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "text"),
    [
        ("steal", {}, "tool_not_found", "expected one of ['close_deal', 'drop', "),
        ("sell", {}, "invalid_args", "missing required field `apples`"),
        ("sell", {"apples": []}, "invalid_args", "Expected `int`, got `array`"),
        ("sell", {"apples": 1, "pears": 2}, "invalid_args", "unknown field `pears`"),
        ("drop", {"how": "clumsily"}, "execution_error", "ValueError: slipped"),
        ("drop", {"how": "told"}, "transport_error", "it fell"),
        ("wait", {"seconds": 5.0}, "timeout", "expected a result within 0.05 s"),
    ],
)
async def test_error_is_an_answer_and_the_episode_goes_on(
    env: ShopEnv, name: str, arguments: dict[str, Any], kind: str, text: str
) -> None:
    """What the agent did wrong is an observation of that kind."""
    called = await call(env, name, **arguments)
    assert isinstance(called.error, ToolError)
    assert called.error.error_type == kind
    assert text in called.error.message
    assert called.result is None
    assert (await call(env, "sell", apples=1)).result["sold"] == 1


async def test_failure_may_cost_a_reward(env: ShopEnv) -> None:
    """A tool's own failure carries the reward that it names."""
    assert (await call(env, "drop", how="told")).reward == -1.0


async def test_fatal_exception_is_no_answer(env: ShopEnv) -> None:
    """What is not the agent's doing ends the episode as an error."""
    with pytest.raises(EnvironmentFailed, match="no apples left"):
        await call(env, "drop", how="fatally")


async def test_arguments_are_converted_as_models_write_them(env: ShopEnv) -> None:
    """A number in quotes is a number."""
    assert (await call(env, "sell", apples="2")).result["sold"] == 2


class Plain(ToolEnvironment):
    """One coroutine tool."""

    @tool
    async def look(self) -> str:
        """Look."""
        return "seen"


class Blocking(Plain):
    """And a blocking one."""

    @tool
    def dig(self) -> str:
        """Dig."""
        return "dug"


class Chosen(Blocking):
    """On the event loop all the same."""

    execution = "inline"


@pytest.mark.parametrize(
    ("kind", "execution"), [(Plain, "inline"), (Blocking, "thread"), (Chosen, "inline")]
)
def test_execution_follows_the_tools(
    kind: type[ToolEnvironment], execution: str
) -> None:
    """Coroutine tools run on the loop, others in threads, unless the author chose."""
    assert EnvironmentSpec.of(kind).execution == execution


def test_subclass_has_its_bases_tools() -> None:
    """Tools are inherited."""
    assert set(Blocking.tools) == {"look", "dig"}
    assert set(Plain.tools) == {"look"}


def test_name_that_is_taken_is_refused() -> None:
    """Two tools of one name are a mistake of the author's."""
    with pytest.raises(LocalProtocolError, match="'look' twice"):
        type("Twice", (Plain,), {"other": tool(name="look")(lambda self: None)})
