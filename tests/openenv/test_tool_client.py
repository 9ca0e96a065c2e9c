"""The drop-in client for tools, with OpenEnv's server and with ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async.openenv import CallToolAction, ListToolsAction, MCPToolClient
from openenv_async.openenv.errors import ServerError
from openenv_async.tools.models import ToolCalled, ToolsListed
from tests.chaos.cutter import cut_off
from tests.serving import serving
from tests.tools.shop import Shop

from .theirs import Theirs, serving_theirs
from .tooling import Tooling


@pytest.fixture(scope="module")
def theirs() -> Iterator[Theirs]:
    """OpenEnv's server, with tools."""
    with serving_theirs("0.10.0", tools=True) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tools_are_listed_and_called_plainly(theirs: Theirs) -> None:
    """Before any reset, as agents do."""
    client = MCPToolClient(base_url=theirs.url)
    names = [tool.name for tool in client.list_tools()]
    assert names == ["add", "fail"]
    tool = client.get_tool("add")
    assert tool.description == "Add two numbers."
    assert tool.input_schema["required"] == ["a"]
    assert client.get_tool("none") is None
    assert client.has_tool("fail")
    assert client.call_tool("add", a=2, b=3) == 5
    with pytest.raises(RuntimeError, match=r"Tool 'fail' failed: .*as it does"):
        client.call_tool("fail")
    with pytest.raises(RuntimeError, match="Tool 'none' failed"):
        client.call_tool("none")
    client.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_tools_are_steps_as_well(theirs: Theirs) -> None:
    """As Harbor and OpenEnv's own tests call them."""
    async with MCPToolClient(base_url=theirs.url) as env:
        await env.reset()
        listed = (await env.step(ListToolsAction())).observation
        assert isinstance(listed, ToolsListed)
        assert [tool.name for tool in listed.tools] == ["add", "fail"]
        called = (
            await env.step(CallToolAction(tool_name="add", arguments={"a": 1}))
        ).observation
        assert isinstance(called, ToolCalled)
        assert called.error is None
        assert called.result["data"] == 2
        failed = (await env.step(CallToolAction(tool_name="fail"))).observation
        assert failed.error.error_type == "execution_error"
        assert not failed.done


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_session_outlives_its_socket(theirs: Theirs) -> None:
    """It is attached to again."""
    async with cut_off(theirs) as proxy:
        async with MCPToolClient(base_url=proxy.url) as env:
            await env.reset()
            proxy.cut()
            answers: list[Any] = []
            for _ in range(2):
                try:
                    answers.append(await env.call_tool("add", a=1))
                except ServerError as error:
                    # The cut was not noticed yet, and nobody counts such calls.
                    assert error.executed == "unknown"  # noqa: PT017 (it may raise)
            assert answers[-1] == 2


async def test_our_server_lists_and_calls_tools() -> None:
    """The same calls, with an environment of ours."""
    async with serving(Tooling) as server:
        async with MCPToolClient(base_url=server.url) as env:
            assert [tool.name for tool in await env.list_tools()] == ["echo"]
            assert await env.has_tool("echo")
            result = await env.step(
                CallToolAction(tool_name="echo", arguments={"message": "hi"})
            )
            assert result.observation.tool_name == "echo"


async def test_our_server_says_whether_a_call_ran() -> None:
    """A refusal that ran nothing can be told from a tool that failed."""
    async with serving(Shop) as server:
        async with MCPToolClient(base_url=server.url) as env:
            with pytest.raises(ServerError, match="slipped") as caught:
                await env.call_tool("drop", how="clumsily")
            assert caught.value.executed == "yes"
            with pytest.raises(ServerError, match="no apples") as caught:
                await env.call_tool("drop", how="fatally")
            assert caught.value.executed == "unknown"
            with pytest.raises(ServerError, match="'broken'") as caught:
                await env.call_tool("sell", apples=1)
            error = caught.value
            assert (error.code, error.executed) == ("episode_broken", "no")
            assert error.dialect_code == "EXECUTION_ERROR"
            with pytest.raises(ServerError, match="Missing 'name'") as caught:
                await env.call_tool("")
            assert caught.value.executed == "no"


def test_only_production_is_a_mode() -> None:
    """As OpenEnv says it."""
    with pytest.raises(ValueError, match="only supports 'production'"):
        MCPToolClient("http://host", mode="simulation")
