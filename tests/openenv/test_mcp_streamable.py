"""The official MCP client at `/mcp`: sessions, tools, and typed errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamable_http_client

from openenv_async.server import create_app
from openenv_async.tools import EpisodeBegun, ToolEnvironment, tool
from tests.environments import ScriptedEnvironment
from tests.serving import Serving, eventually, serving
from tests.tools.shop import Shop

# Importing the library on the server's side takes a second, and reads files.
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.allow_blocking("the mcp library imports modules at first use"),
]


@asynccontextmanager
async def connected(
    server: Serving, path: str = "/mcp"
) -> AsyncIterator[ClientSession]:
    """An initialized session of the official client."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with (
        httpx.AsyncClient(transport=transport, timeout=20) as http,
        streamable_http_client(f"http://localhost{path}", http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        yield session


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server with tools, and an environment without."""
    async with serving(Shop, ScriptedEnvironment, max_sessions=2) as server:
        yield server
    await unwatched()


async def unwatched() -> None:
    """Wait for the end of what the library leaves behind."""
    # The library's streams have a task that looks for the end of a process.
    watchers = [task for task in asyncio.all_tasks() if _watches(task)]
    for task in watchers:
        task.cancel()
    if watchers:
        await asyncio.wait(watchers)


def _watches(task: asyncio.Task[Any]) -> bool:
    return "_shutdown_watcher" in repr(task.get_coro())


def text_of(result: types.CallToolResult) -> str:
    """The text that the model sees."""
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


def told(caught: pytest.ExceptionInfo[McpError]) -> dict[str, Any]:
    """What an error of the protocol says besides its text."""
    data = caught.value.error.data
    assert isinstance(data, dict)
    return data


async def test_tools_are_listed_with_their_schemas(server: Serving) -> None:
    """The client finds every tool, as the environment describes it."""
    async with connected(server) as session:
        tools = {each.name: each for each in (await session.list_tools()).tools}
    assert set(tools) == {"sell", "close_deal", "wait", "drop"}
    assert tools["sell"].inputSchema["required"] == ["apples"]
    assert tools["sell"].description == (
        "Sell some apples.\n\nReturns nothing to the stock."
    )


async def test_calls_are_steps_of_one_episode(server: Serving) -> None:
    """State persists between calls; reward and end are told aside."""
    async with connected(server) as session:
        await session.call_tool("sell", {"apples": 1})
        sold = await session.call_tool("sell", {"apples": 2, "customer": "Eva"})
        assert sold.structuredContent == {"sold": 3, "customer": "Eva"}
        done = await session.call_tool("close_deal")
        assert (text_of(done), done.structuredContent) == ("done", {"result": "done"})
        assert done.meta == {"reward": 1.0, "done": True}
        with pytest.raises(McpError) as caught:
            await session.call_tool("sell", {"apples": 1})
    data = told(caught)
    assert (data["code"], data["executed"]) == ("episode_done", "no")


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("steal", {}, "tool_not_found"),
        ("sell", {"apples": "many"}, "invalid_args"),
        ("drop", {"how": "clumsily"}, "execution_error"),
        ("wait", {"seconds": 5}, "timeout"),
    ],
)
async def test_tool_error_is_a_result_with_its_type(
    server: Serving, name: str, arguments: dict[str, Any], kind: str
) -> None:
    """What the model did wrong comes back to it, marked as an error."""
    async with connected(server) as session:
        result = await session.call_tool(name, arguments)
    assert result.isError
    assert result.structuredContent is not None
    assert result.structuredContent["error_type"] == kind
    assert text_of(result) == result.structuredContent["message"]


async def test_failing_environment_is_an_error_of_the_protocol(server: Serving) -> None:
    """What is not the model's doing never looks like an answer to it."""
    async with connected(server) as session:
        with pytest.raises(McpError, match="no apples left") as caught:
            await session.call_tool("drop", {"how": "fatally"})
    data = told(caught)
    assert (data["code"], data["fault"]) == ("environment_failed", "environment")


async def test_each_client_has_a_session_that_ends_with_it(server: Serving) -> None:
    """Two clients share nothing, a third finds no room, and both leave nothing."""
    async with connected(server) as first, connected(server) as second:
        await first.call_tool("sell", {"apples": 1})
        sold = await second.call_tool("sell", {"apples": 5})
        assert sold.structuredContent == {"sold": 5, "customer": "anybody"}
        assert server.sessions == 2
        async with connected(server) as third:
            with pytest.raises(McpError) as caught:
                await third.list_tools()
        assert told(caught)["code"] == "at_capacity"
    await eventually(lambda: server.sessions == 0)


@pytest.mark.parametrize("name", ["scripted", "nowhere"])
async def test_environment_without_tools_is_refused(server: Serving, name: str) -> None:
    """A client that asks for it is told which ones have tools."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    headers = {"Accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers
    ) as http:
        answer = await http.post(f"/mcp?environment={name}", json={})
    assert answer.status_code == 404
    assert "['shop']" in answer.json()["detail"]


def test_application_without_tools_has_no_transport() -> None:
    """Where there are no tools, `/mcp` is OpenEnv's alone."""
    assert create_app(ScriptedEnvironment).state.mcp.streamable is None
    assert create_app(Shop).state.mcp.streamable is not None


class Seeded(ToolEnvironment):
    """Tells what it was reset with."""

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> EpisodeBegun:
        """Remember it."""
        self._told = {"seed": seed, "episode_id": episode_id, "options": options}
        return EpisodeBegun()

    @tool
    async def tell(self) -> dict[str, Any]:
        """Tell it."""
        return self._told


async def test_query_says_what_the_episode_begins_with() -> None:
    """MCP has no place for a seed or a task."""
    path = "/mcp?reset=" + quote('{"seed": 3, "episode_id": "e", "task": "t"}')
    async with serving(Seeded) as server, connected(server, path) as session:
        called = await session.call_tool("tell")
        assert called.structuredContent == {
            "seed": 3,
            "episode_id": "e",
            "options": {"task": "t"},
        }
    await unwatched()


@pytest.mark.parametrize("text", ["[1]", "{", "null", '"seed"'])
async def test_query_that_is_no_object_is_refused(text: str) -> None:
    """Before there is a session."""
    async with serving(Seeded) as server:
        transport = httpx.AsyncHTTPTransport(uds=str(server.path))
        async with httpx.AsyncClient(transport=transport) as http:
            url = f"http://localhost/mcp?reset={quote(text)}"
            accept = {"accept": "application/json, text/event-stream"}
            answer = await http.post(url, headers=accept, json={})
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith(f"got {text!r}")
