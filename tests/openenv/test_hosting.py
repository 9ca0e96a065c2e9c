"""OpenEnv's environments on our server, as they are, where OpenEnv is installed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from websockets.asyncio.client import unix_connect

from openenv_async import (
    DeadlineExceeded,
    EnvironmentFailed,
    EpisodeLost,
    InvalidAction,
    ResetRequired,
    SessionLost,
)
from openenv_async.client import GenericEnv
from tests.openenv.hosting import MODULE, hosting, running
from tests.openenv.recordings import disagreement, recorded

# The first one may have to install OpenEnv.
pytestmark = pytest.mark.timeout(600)

_NAMES = (
    *("app", "AsyncEnvironment", "LoneEnvironment", "BrowserEnvironment"),
    *("BrokenEnvironment", "tools_app", "make_app", "make_counting?goal=5"),
    *("recorded_app", "choose_class?limit=4"),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """One server with all of them."""
    with hosting("0.10.0", *_NAMES) as path:
        yield path


def env_of(server: Path, name: str | None = None) -> GenericEnv:
    """A session with one of them."""
    return GenericEnv(f"ws+unix://{server}", environment=name)


async def test_episode_is_as_its_author_wrote_it(server: Path) -> None:
    """Arguments, rubric, transform, serializer, state and the end are all there."""
    async with env_of(server) as env:
        begun = await env.reset(
            seed=5, episode_id="e", options={"start": 3, "unknown": 1}
        )
        assert begun.observation["note"] == "RESET"
        assert begun.observation["metadata"] == {"seed": 5}
        stepped = await env.step({"delta": 4, "mood": "rich"})
        assert stepped.reward == 8.0
        assert stepped.observation["metadata"] == {"noted": True}
        assert stepped.observation["when"] == "2026-01-02T03:04:05"
        assert stepped.observation["values"] == [1.0, None]
        assert await env.state() == {"episode_id": "e", "step_count": 1, "total": 7}
        last = await env.step({"delta": 3})
        assert (last.terminated, last.truncated) == (True, False)


async def test_truncation_is_told_where_the_environment_tells_it(server: Path) -> None:
    """Metadata that says so makes the end a truncation."""
    async with env_of(server) as env:
        await env.reset()
        cut = await env.step({"delta": 1, "mood": "cut"})
        assert (cut.terminated, cut.truncated) == (False, True)


@pytest.mark.parametrize(
    ("action", "kind", "where"),
    [
        ({"delta": 11}, "less_than_equal", ["delta"]),
        ({"delta": 7}, "value_error", ["delta"]),
        ({"delta": 1, "speed": 1}, "extra_forbidden", ["speed"]),
        ({}, "missing", ["delta"]),
    ],
)
async def test_invalid_action_is_refused_before_the_environment_sees_it(
    server: Path, action: dict[str, Any], kind: str, where: list[str]
) -> None:
    """Pydantic's reasons travel, and the session goes on."""
    async with env_of(server) as env:
        await env.reset()
        with pytest.raises(InvalidAction) as caught:
            await env.step(action)
        assert caught.value.executed == "no"
        errors: Any = caught.value.detail["errors"]
        assert [(each["type"], each["loc"]) for each in errors] == [(kind, where)]
        assert (await env.step({"delta": 1})).observation["total"] == 1


@pytest.mark.parametrize(
    ("mood", "text"),
    [("bad", "ValueError in step: in a bad mood"), ("strange", "got 'dict'")],
)
async def test_failing_step_breaks_its_episode(
    server: Path, mood: str, text: str
) -> None:
    """Nobody knows what state it left, so a reset is needed, and enough."""
    async with env_of(server) as env:
        await env.reset()
        with pytest.raises(EnvironmentFailed, match=text):
            await env.step({"delta": 1, "mood": mood})
        with pytest.raises(ResetRequired):
            await env.step({"delta": 1})
        await env.reset()
        assert (await env.step({"delta": 1})).observation["total"] == 1


async def test_action_that_is_nested_deeply_is_its_callers_mistake(
    server: Path,
) -> None:
    """Nothing ran, so the episode goes on; OpenEnv's clients are told the same."""
    value: list[Any] = []
    for _ in range(250):
        value = [value]
    async with env_of(server) as env:
        await env.reset()
        with pytest.raises(InvalidAction) as caught:
            await env.step({"delta": value})
        assert caught.value.executed == "no"
        assert (await env.step({"delta": 1})).observation["total"] == 1
    async with unix_connect(str(server), "ws://localhost/ws") as socket:
        await socket.send(json.dumps({"type": "step", "data": {"delta": value}}))
        answer = json.loads(await socket.recv())
        assert answer["data"]["code"] == "VALIDATION_ERROR"
        assert [each["loc"] for each in answer["data"]["errors"]] == [["delta"]]


async def test_each_session_has_a_thread_of_its_own(server: Path) -> None:
    """Blocking environments stay on the thread that built them; slow ones alone."""
    async with env_of(server) as first, env_of(server) as second:
        one = (await first.reset()).observation["thread"]
        two = (await second.reset()).observation["thread"]
        assert one != two
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(first.step({"delta": 1, "sleep": 0.5}))
            for _ in range(5):
                assert (await second.step({"delta": 1})).observation["thread"] == two
            assert not slow.done()
        assert slow.result().observation["thread"] == one


async def test_single_thread_is_shared_where_it_is_required(server: Path) -> None:
    """All sessions of such an environment are on one thread."""
    names = "browser"
    async with env_of(server, names) as first, env_of(server, names) as second:
        one = (await first.reset()).observation["thread"]
        assert (await second.reset()).observation["thread"] == one


async def test_async_environment_runs_on_the_loop(server: Path) -> None:
    """Its steps overlap without threads, and a deadline cancels one."""
    async with env_of(server, "async") as first, env_of(server, "async") as second:
        await first.reset(options={"start": 1})
        await second.reset()
        async with asyncio.TaskGroup() as tasks:
            one = tasks.create_task(first.step({"delta": 1, "sleep": 0.3}))
            two = tasks.create_task(second.step({"delta": 2}))
        seen = [one.result().observation, two.result().observation]
        assert [each["total"] for each in seen] == [2, 2]
        assert seen[0]["thread"] == seen[1]["thread"]
        with pytest.raises(DeadlineExceeded):
            await first.step({"delta": 1, "sleep": 600.0}, timeout=0.1)


async def test_lone_environment_gets_a_process_for_each_session(server: Path) -> None:
    """What its class holds is a session's own, and a hang is killed."""
    async with env_of(server, "lone") as first, env_of(server, "lone") as second:
        pids = {
            (await each.reset(timeout=60)).observation["process"]
            for each in (first, second)
        }
        assert len(pids) == 2
        await first.step({"delta": 1})
        await first.step({"delta": 1})
        await second.step({"delta": 1})
        assert (await first.state())["step_count"] == 2
        assert (await second.state())["step_count"] == 1
        with pytest.raises(DeadlineExceeded):
            await first.step({"delta": 1, "sleep": 600.0}, timeout=0.1)
        with pytest.raises((EpisodeLost, SessionLost)):
            await second.step({"delta": 1, "mood": "deadly"})
        assert (await first.reset()).observation["process"] not in pids
        await second.reset()


async def test_environment_that_cannot_be_built_says_why(server: Path) -> None:
    """Its own error reaches the caller."""
    async with env_of(server, "broken") as env:
        with pytest.raises(EnvironmentFailed, match="no browser here"):
            await env.reset()


@pytest.mark.parametrize(
    ("name", "goal"), [("made_app", 2), ("count", 5), ("chosen", 4)]
)
async def test_functions_are_factories_too(server: Path, name: str, goal: int) -> None:
    """One of an application, an environment, or a class; with arguments."""
    async with env_of(server, name) as env:
        await env.reset()
        assert not (await env.step({"delta": goal - 1})).done
        assert (await env.step({"delta": 1})).done


async def test_tools_of_fastmcp_are_actions(server: Path) -> None:
    """Listing and calling go through `step`; a tool's failure is an observation."""
    async with env_of(server, "tools") as env:
        await env.reset()
        listed = (await env.step({"type": "list_tools"})).observation
        assert [each["name"] for each in listed["tools"]] == ["add", "fail"]
        call = {"type": "call_tool", "tool_name": "add", "arguments": {"a": 2, "b": 3}}
        assert (await env.step(call)).observation["result"]["data"] == 5
        failed = {"type": "call_tool", "tool_name": "fail"}
        error = (await env.step(failed)).observation["error"]
        assert error["error_type"] == "execution_error"


@pytest.mark.allow_blocking("the mcp library imports modules at first use")
async def test_mcp_clients_reach_tools_of_fastmcp(server: Path) -> None:
    """The official client sees what the environment's own server said."""
    transport = httpx.AsyncHTTPTransport(uds=str(server))
    async with (
        httpx.AsyncClient(transport=transport, timeout=60) as http,
        streamable_http_client(
            "http://localhost/mcp?environment=tools", http_client=http
        ) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        tools = (await session.list_tools()).tools
        assert [each.name for each in tools] == ["add", "fail"]
        assert tools[0].inputSchema["required"] == ["a"]
        added = await session.call_tool("add", {"a": 2, "b": 3})
        assert added.structuredContent == {"result": 5}
        assert isinstance(added.content[0], types.TextContent)
        assert added.content[0].text == "5"
        failed = await session.call_tool("fail")
        assert failed.isError
        assert failed.structuredContent is not None
        assert failed.structuredContent["error_type"] == "execution_error"


async def ask(server: Path, path: str, **options: Any) -> Any:
    """Get JSON over HTTP, or post it."""
    transport = httpx.AsyncHTTPTransport(uds=str(server))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost"
    ) as http:
        method = "POST" if options else "GET"
        answer = await http.request(method, path, **options)
        answer.raise_for_status()
        return answer.json()


async def test_it_describes_itself(server: Path) -> None:
    """Metadata, schemas for forms, and tasks are the environment's own."""
    metadata = await ask(server, "/metadata?environment=counting")
    assert (metadata["description"], metadata["version"]) == ("Counts.", "3.2")
    assert metadata["execution"] == "thread"
    schema = await ask(server, "/schema?environment=counting")
    assert schema["action"]["properties"]["delta"]["maximum"] == 10
    assert schema["action"]["title"] == "CountAction"
    assert {"total", "reward", "terminated"} <= set(schema["observation"]["properties"])
    assert schema["state"]["title"] == "CountState"
    assert await ask(server, "/counting/splits") == [
        {"name": "train", "type": "train"},
        {"name": "hard", "type": "test"},
    ]
    counted = await ask(server, "/counting/num_tasks", json={"split": "train"})
    assert counted == {"num_tasks": 3}


_FRAMES: list[dict[str, Any]] = [
    {"type": "step", "data": {"delta": 1}},
    {"type": "state"},
    {"type": "reset", "data": {"seed": 1, "episode_id": "e", "start": 2, "more": 0}},
    {"type": "step", "data": {"delta": "3"}},
    {"type": "step", "data": {"delta": 1, "mood": "rich"}},
    {"type": "step", "data": {"delta": 11}},
    {"type": "step", "data": {"delta": 1, "speed": 1}},
    {"type": "step", "data": {"delta": 1, "mood": "bad"}},
    {"type": "step", "data": {"delta": 1, "mood": "cut"}},
    {"type": "step", "data": {"delta": 10}},
    {"type": "step", "data": {"delta": 1}},
    {"type": "state"},
    {"type": "reset", "data": {"start": -1}},
    {"type": "reset"},
    {"type": "state"},
]
"""Frames of OpenEnv's protocol; their answers must be equal."""
_OWN = ("process", "thread")


async def _answers(path: Path) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    async with unix_connect(str(path), "ws://localhost/ws") as socket:
        for frame in _FRAMES:
            await socket.send(json.dumps(frame))
            answer = json.loads(await socket.recv())
            data = answer["data"]
            # What ours says beyond.
            data.pop("truncated", None)
            for key in _OWN:
                data.get("observation", {}).pop(key, None)
            if answer["type"] == "error":
                errors = data.get("errors") or ()
                told = [(each["type"], each["loc"]) for each in errors]
                answer["data"] = (data["code"], data["message"], told)
            answers.append(answer)
    return answers


_SERVE = f"""
import pathlib, sys, threading, time, uvicorn
import {MODULE} as theirs
def tell():
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    print("ready", flush=True)
threading.Thread(target=tell, daemon=True).start()
uvicorn.run(theirs.app, uds=sys.argv[1], log_level="warning")
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Path]:
    """The same environment behind OpenEnv's own server."""
    path = tmp_path / "s"
    with running("0.10.0", ["-c", _SERVE, str(path)], "ready"):
        yield path


async def test_openenvs_frames_are_answered_as_its_own_server_does(
    server: Path, theirs: Path
) -> None:
    """Frame by frame, the same environment behind either server looks the same."""
    expected = await _answers(theirs)
    ours = await _answers(server)
    for frame, mine, wanted in zip(_FRAMES, ours, expected, strict=True):
        assert mine == wanted, frame


_TOOLS = recorded("tools")


def _listed(answer: Any) -> dict[str, Any]:
    """Tools by name; OpenEnv spells the key in two ways, and its clients read both."""
    return {
        tool["name"]: tool.get("input_schema", tool.get("inputSchema"))
        for tool in answer["data"]["result"]["tools"]
    }


async def test_recorded_conversation_about_tools_goes_the_same_way(
    server: Path,
) -> None:
    """A conversation with OpenEnv 0.10.0, over tools of FastMCP, frame by frame."""
    faults = {}
    url = "ws://localhost/ws?environment=recorded"
    async with unix_connect(str(server), url) as socket:
        for exchange in _TOOLS:
            await socket.send(exchange["send"])
            ours, theirs = json.loads(await socket.recv()), exchange["receive"]
            if exchange["title"] == "ws mcp tools/list":
                assert _listed(ours) == _listed(theirs)
            elif fault := disagreement(ours, theirs):
                faults[exchange["title"]] = fault
    assert faults == {}
