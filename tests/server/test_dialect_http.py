"""OpenEnv's HTTP routes, against what its own server answered, and beyond it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from openenv_async.server import create_app
from tests.openenv.counting import Counting, OrderedCounting, Unbuildable
from tests.openenv.recordings import problem_of, recorded, rpc_disagreement
from tests.openenv.sockets import plain
from tests.openenv.tooling import Tooling
from tests.serving import Serving, eventually, serving

_EXCHANGES = recorded("http")
_OURS = {
    # It names the environment as it is opened, and describes it by its docstring.
    "/metadata": ("name", "description"),
}


async def ask(
    server: Serving, method: str, path: str, body: object = None, **options: Any
) -> httpx.Response:
    """Send one request."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
        return await c.request(method, path, content=body, **options)


async def rpc(server: Serving, method: str, **params: Any) -> Any:
    """Call a method of JSON-RPC over HTTP; the response."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await ask(server, "POST", "/mcp", body)
    assert answer.status_code == 200
    return answer.json()


def _fault(path: str, answer: httpx.Response, theirs: dict[str, Any]) -> object:
    """How an answer differs from the recorded one; None if it does not."""
    if answer.status_code != theirs["status"]:
        return answer.status_code, answer.text
    mine, expected = answer.json(), theirs["answer"]
    if path == "/mcp" and "jsonrpc" in expected:
        return rpc_disagreement(mine, expected) or None
    if theirs["status"] == 500:
        return None if mine["detail"] else mine
    if theirs["status"] == 422:
        found, wanted = problem_of(mine["detail"][0]), problem_of(expected["detail"][0])
        if found[0] == "json_invalid":
            return None if wanted[0] == "json_invalid" else found
        return None if found == wanted else (found, wanted)
    if path in ("/metadata", "/health"):
        # Ours say more.
        mine = {key: mine[key] for key in expected}
        expected = {
            key: mine[key] if key in _OURS.get(path, ()) else value
            for key, value in expected.items()
        }
    if path == "/list_environments":
        mine = mine[:1]
    if path == "/web":
        # Off, as theirs is; ours says how to turn it on.
        return None if "--web" in mine["detail"] else mine
    return None if mine == expected else mine


async def test_every_recorded_request_is_answered_alike() -> None:
    """Each route has OpenEnv 0.10.0's status and answer."""
    faults = {}
    async with serving(Counting) as server:
        for exchange in _EXCHANGES:
            method, path, body = (exchange[key] for key in ("method", "path", "body"))
            answer = await ask(server, method, path, body)
            if (fault := _fault(path, answer, exchange)) is not None:
                faults[f"{method} {path} {body}"] = fault
        await eventually(lambda: server.sessions == 0)
    assert faults == {}


# Calls without a session


async def test_single_calls_count_and_leave_nothing() -> None:
    """Each runs in a session of its own: a full server has no room for it."""
    async with serving(Counting, max_sessions=1) as server:
        async with plain(server):
            refused = await ask(server, "POST", "/reset")
            assert refused.status_code == 503
            assert "1/1 sessions" in refused.json()["detail"]
        await eventually(lambda: server.sessions == 0)
        assert (await ask(server, "POST", "/reset")).status_code == 200
        await eventually(lambda: server.sessions == 0)


async def test_single_step_of_an_ordered_environment_needs_an_episode() -> None:
    """Where the author wants a reset first, a lone step is a conflict."""
    async with serving(OrderedCounting) as server:
        answer = await ask(server, "POST", "/step", {"action": {"delta": 1}})
        assert answer.status_code == 409


async def test_single_step_has_a_deadline() -> None:
    """`timeout_s` ends a step that takes longer."""
    async with serving(Counting) as server:
        body = {"action": {"delta": 1, "sleep_s": 60}, "timeout_s": 0.05}
        answer = await ask(server, "POST", "/step", body)
        assert answer.status_code == 504
        await eventually(lambda: server.sessions == 0)


async def test_unbuildable_environment_is_a_server_error() -> None:
    """The answer says what could not be built."""
    async with serving(Unbuildable) as server:
        answer = await ask(server, "POST", "/reset")
        assert answer.status_code == 500
        assert "'Unbuildable'" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/reset", "/step", "/mcp", "/count_env/tasks"])
@pytest.mark.parametrize("declared", [True, False])
async def test_body_over_the_limit_is_refused(path: str, declared: bool) -> None:
    """No body fills the memory, whether it says its length or not."""
    async with serving(Counting, openenv_bytes=10_000) as server:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 1000

        content: Any = b" " * 100_000 if declared else pieces()
        transport = httpx.AsyncHTTPTransport(uds=str(server.path))
        async with httpx.AsyncClient(transport=transport) as client:
            answer = await client.post(f"http://localhost{path}", content=content)
        assert answer.status_code == 413
        assert "10000 bytes" in answer.json()["detail"]
        assert server.sessions == 0


async def test_foreign_origin_and_host_are_refused() -> None:
    """A page of another site cannot step an environment."""
    async with serving(Counting) as server:
        for header in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            answer = await ask(server, "POST", "/reset", headers=header)
            assert answer.status_code == 403
            assert "expected" in answer.json()["detail"]


async def test_token_guards_the_routes() -> None:
    """Where there is a token, only health answers without it."""
    async with serving(Counting, token="secret") as server:
        assert (await ask(server, "GET", "/health")).status_code == 200
        assert (await ask(server, "POST", "/reset")).status_code == 401
        header = {"Authorization": "Bearer secret"}
        answer = await ask(server, "POST", "/reset", headers=header)
        assert answer.status_code == 200


async def test_environment_is_chosen_by_the_query() -> None:
    """`?environment=` names one of several; an unknown one is 404."""
    async with serving(Counting, Tooling) as server:
        assert (await ask(server, "GET", "/list_environments")).json() == [
            "count_env",
            "tooling",
        ]
        answer = await ask(server, "POST", "/reset?environment=tooling")
        assert answer.json()["metadata"] == {"status": "ready"}
        missing = await ask(server, "POST", "/reset?environment=chess")
        assert missing.status_code == 404


# Pages


async def test_pages_serve_both() -> None:
    """OpenEnv's keys are at the top, ours beside them, by name."""
    async with serving(Counting, Tooling) as server:
        metadata = (await ask(server, "GET", "/metadata")).json()
        page = (await ask(server, "GET", "/schema")).json()
        for each in (metadata, page):
            assert list(each["environments"]) == ["count_env", "tooling"]
            assert each["default"] == "count_env"
        assert page["action"]["title"] == "Count"
        assert page["action"]["required"] == ["delta"]
        observation = page["observation"]["properties"]
        assert {"done", "reward", "metadata", "total"} <= set(observation)
        assert not {"terminated", "truncated"} & set(observation)
        assert page["reset_observation"] == page["observation"]


async def test_openapi_document_has_every_route_and_no_loose_reference() -> None:
    """Tools that read the document find the mode, the version and every definition."""
    async with serving(Tooling) as server:
        text = (await ask(server, "GET", "/openapi.json")).text
    document = json.loads(text)
    assert document["info"]["version"] == "1.0.0"
    assert {"/reset", "/step", "/state", "/mcp", "/health"} <= set(document["paths"])
    assert '"#/$defs/' not in text
    for name in set(text.split('"#/components/schemas/')[1:]):
        assert name.split('"')[0] in document["components"]["schemas"]


async def test_environment_without_tasks_says_so() -> None:
    """Its task routes are 501, as OpenEnv's are."""
    async with serving(Tooling) as server:
        answer = await ask(server, "GET", "/tooling/splits")
        assert answer.status_code == 501
        assert "list_splits" in answer.json()["detail"]


# Sessions over HTTP


async def test_session_over_http_survives_its_sockets() -> None:
    """It is attached by id, one socket at a time, and keeps its state in between."""
    async with serving(Counting) as server:
        id = (await rpc(server, "openenv/session/create"))["result"]["session_id"]
        async with plain(server, f"/ws?session_id={id}") as first:
            await first.reset(start=3)
            async with plain(server, f"/ws?session_id={id}") as second:
                told = (await second.receive())["data"]
                assert told["code"] == "SESSION_ERROR"
                assert "already has an attached WebSocket" in told["message"]
                assert await second.closed() == 1000
            await first.send({"type": "close"})
            assert await first.closed() == 1000
        async with plain(server, f"/ws?session_id={id}") as again:
            assert (await again.state())["total"] == 3
            answer = await rpc(server, "openenv/session/close", session_id=id)
            assert answer["result"]["closing"] is True
            assert (await again.step(delta=1))["reward"] == 1.0
        await eventually(lambda: server.sessions == 0)
        answer = await rpc(server, "openenv/session/close", session_id=id)
        assert answer["error"]["code"] == -32602


async def test_step_of_a_lost_socket_is_counted_once() -> None:
    """Who attaches again sees by the state whether the step was executed."""
    async with serving(Counting) as server:
        id = (await rpc(server, "openenv/session/create"))["result"]["session_id"]
        async with plain(server, f"/ws?session_id={id}") as wire:
            await wire.reset()
            await wire.send({"type": "step", "data": {"delta": 1, "sleep_s": 0.1}})
            await eventually(lambda: server.core.capacity()["in_flight"] == 1)
            wire.socket.transport.abort()
        await eventually(lambda: not server.core.links)
        async with plain(server, f"/ws?session_id={id}") as wire:
            # It waits for the step that runs, and gets no answer but its own.
            assert (await wire.state())["step_count"] == 1
            assert (await wire.step(delta=1))["observation"]["total"] == 2


async def test_session_over_http_ends_when_nobody_uses_it() -> None:
    """A client that forgets its session does not hold its place for ever."""
    async with serving(Counting, openenv_lease=0.05) as server:
        id = (await rpc(server, "openenv/session/create"))["result"]["session_id"]
        assert server.sessions == 1
        await eventually(lambda: server.sessions == 0)
        async with plain(server, f"/ws?session_id={id}") as wire:
            assert (await wire.receive())["data"]["code"] == "SESSION_ERROR"


async def test_full_server_makes_no_session_over_http() -> None:
    """The refusal tells the numbers."""
    async with serving(Counting, max_sessions=1) as server, plain(server):
        error = (await rpc(server, "openenv/session/create"))["error"]
        assert error["code"] == -32000
        assert error["data"] == {"active_sessions": 1, "max_sessions": 1}


async def test_own_session_of_a_socket_is_reached_over_http() -> None:
    """A socket may ask for its session's id; the session still ends with the socket."""
    async with serving(Tooling) as server:
        async with plain(server) as wire:
            made = await wire.rpc("openenv/session/create")
            id = made["result"]["session_id"]
            assert await wire.rpc("openenv/session/create") == made
            refused = await wire.rpc("openenv/session/close", session_id=id)
            assert refused["error"]["code"] == -32600
            await rpc(
                server,
                "tools/call",
                name="echo",
                arguments={"message": "a"},
                session_id=id,
            )
            assert (await wire.state())["step_count"] == 1
        await eventually(lambda: server.sessions == 0)


# Tools


async def test_tools_are_listed_and_called_in_a_session() -> None:
    """Calls over HTTP and steps over the socket are one episode."""
    async with serving(Tooling) as server:
        id = (await rpc(server, "openenv/session/create"))["result"]["session_id"]
        async with plain(server, f"/ws?session_id={id}") as wire:
            await wire.reset()
            listed = await rpc(server, "tools/list", session_id=id)
            assert [tool["name"] for tool in listed["result"]["tools"]] == ["echo"]
            called = await rpc(
                server,
                "tools/call",
                name="echo",
                arguments={"message": "hi"},
                session_id=id,
            )
            assert called["result"]["data"] == "hi"
            assert (await wire.state())["step_count"] == 2
            stepped = await wire.step(tool_name="echo", arguments={"message": "yo"})
            assert stepped["observation"]["result"]["data"] == "yo"
            framed = await wire.rpc("tools/call", name="nope")
            assert framed["error"]["code"] == -32603
            assert framed["error"]["message"] == "Unknown tool: 'nope'"


async def test_tool_without_a_session_gets_one_for_the_call() -> None:
    """Nothing of it is left afterwards."""
    async with serving(Tooling) as server:
        called = await rpc(
            server, "tools/call", name="echo", arguments={"message": "x"}
        )
        assert called["result"]["data"] == "x"
        await eventually(lambda: server.sessions == 0)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {}, -32602),
        ("tools/call", {"name": 3}, -32602),
        ("tools/call", {"name": "echo", "arguments": {}}, -32603),
        ("tools/call", {"name": "echo", "arguments": 3}, -32603),
        ("tools/call", {"name": "echo", "session_id": "nope"}, -32602),
        ("tools/list", {"session_id": 3}, -32602),
        ("initialize", {}, -32601),
        ("openenv/session/close", {}, -32602),
    ],
)
async def test_bad_call_has_its_code(
    method: str, params: dict[str, Any], code: int
) -> None:
    """What is wrong with a call is told by JSON-RPC's code."""
    async with serving(Tooling) as server:
        assert (await rpc(server, method, **params))["error"]["code"] == code
        await eventually(lambda: server.sessions == 0)


async def test_rpc_socket_has_a_session_of_its_own() -> None:
    """`/mcp` as a WebSocket takes plain JSON-RPC; bad frames cost only their answer."""
    async with serving(Tooling, max_sessions=1) as server:
        async with plain(server, "/mcp") as wire:
            for frame in ("{bad", "[1]", b"\x00"):
                assert (await wire.ask(frame))["error"]["code"] == -32700
            call = {"jsonrpc": "2.0", "id": "a", "method": "tools/list"}
            assert (await wire.ask(call))["result"]["tools"]
            made = await wire.ask({**call, "method": "openenv/session/create"})
            assert made["result"]["session_id"]
            async with plain(server, "/mcp") as other:
                refused = await other.receive()
                assert refused["error"]["code"] == -32000
                assert await other.closed() == 1000
        await eventually(lambda: server.sessions == 0)


async def test_streamable_clients_get_their_own_application() -> None:
    """Where MCP itself is installed, clients that ask for its transport reach it."""

    async def streamable(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"mcp"})

    app = await anyio.to_thread.run_sync(create_app, Tooling)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        accept = {"Accept": "application/json, text/event-stream"}
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        app.state.mcp.streamable = None
        answer = await client.post("/mcp", json=call, headers=accept)
        assert answer.json()["result"]["tools"]
        app.state.mcp.streamable = streamable
        for method, headers in (
            ("POST", accept),
            ("POST", {"Mcp-Session-Id": "1"}),
            ("GET", {}),
            ("DELETE", {}),
        ):
            answer = await client.request(method, "/mcp", headers=headers)
            assert answer.status_code == 299
        answer = await client.post("/mcp", json=call)
        assert answer.json()["result"]["tools"]


def test_app_has_room_for_the_larger_of_both_frames() -> None:
    """The socket's own limit never cuts off what one of the protocols allows."""
    app = create_app(Counting, frame_bytes=1_000_000, openenv_bytes=10_000)
    assert app.state.core.largest_frame > 1_000_000
    app = create_app(Counting, frame_bytes=1_000_000, openenv_bytes=20_000_000)
    assert app.state.core.largest_frame == 20_000_000
