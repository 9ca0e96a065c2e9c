"""MCP's own transport at `/mcp`, for environments with tools.

The protocol is the official `mcp` library's, which an extra installs; it is imported at
the first request, because that takes a second. Each MCP session is a session of the
server: it counts, it can be watched, and a call of a tool is a step like any other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

import anyio
import msgspec
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import messages as m
from .dialect import Hall, Seat, Shape

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

__all__ = ["Streamable", "streamable_for"]

_SPARE: Final = 1024
"""MCP sessions that may be open without a session of the server."""
_IDLE: Final = 1800.0
"""Seconds without a request after which an MCP session ends."""


def streamable_for(hall: Hall) -> ASGIApp | None:
    """MCP's transport, if it is installed and there are tools."""
    has_tools = any(shape.has_tools for shape in hall.shapes.values())
    if not has_tools or importlib.util.find_spec("mcp") is None:
        return None
    return Streamable(hall)


class Streamable:
    """Answers MCP clients; `?environment=NAME` chooses an environment.

    `reset` in the query is a JSON object of arguments for `reset`, because MCP has no
    place for a seed or a task.

    Args:
        hall: The sessions' side.
    """

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._managers: dict[str, StreamableHTTPSessionManager] = {}
        self._lock = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        query = _query(scope)
        try:
            _arguments(query)
        except ValueError as error:
            problem = JSONResponse({"detail": str(error)}, status_code=400)
            await problem(scope, receive, send)
            return
        name = query.get("environment", [None])[-1]
        shape = self._hall.shape(name)
        if shape is None or not shape.has_tools:
            with_tools = [
                known for known, each in self._hall.shapes.items() if each.has_tools
            ]
            text = f"expected one of {with_tools!r} as environment, got {name!r}"
            await JSONResponse({"detail": text}, status_code=404)(scope, receive, send)
            return
        manager = await self._manager(shape)
        await manager.handle_request(scope, receive, send)

    async def _manager(self, shape: Shape) -> StreamableHTTPSessionManager:
        name = shape.spec.name
        async with self._lock:
            if name not in self._managers:
                make = await anyio.to_thread.run_sync(_load)
                manager = make(self._hall, shape)
                running = anyio.Event()
                self._hall.core.tasks.spawn(
                    _run(manager, running), f"openenv-async-mcp-{name}"
                )
                await running.wait()
                self._managers[name] = manager
            return self._managers[name]


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("latin-1"))


def _arguments(query: dict[str, list[str]]) -> dict[str, Any]:
    """What a client wants its episode to begin with.

    Raises:
        ValueError: It is no JSON object.
    """
    text = query.get("reset", ["{}"])[-1]
    try:
        found: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict):
        text = f"expected a JSON object as 'reset' in the query, got {text!r}"
        raise ValueError(text)  # noqa: TRY004 (a value of the query, not a type)
    return cast(dict[str, Any], found)


async def _run(manager: StreamableHTTPSessionManager, running: anyio.Event) -> None:
    """Run a manager until the server ends."""
    async with manager.run():
        running.set()
        await anyio.sleep_forever()


def _load() -> Callable[[Hall, Shape], StreamableHTTPSessionManager]:
    """Import the library, which blocks; returns what makes a manager."""
    from mcp.server.lowlevel import Server  # noqa: PLC0415 (an optional, slow extra)
    from mcp.server.streamable_http_manager import (  # noqa: PLC0415 (an optional, slow extra)
        StreamableHTTPSessionManager,
    )

    def make(hall: Hall, shape: Shape) -> StreamableHTTPSessionManager:
        spec = shape.spec

        @contextlib.asynccontextmanager
        async def session(
            _server: Server[_Episode, Any],
        ) -> AsyncGenerator[_Episode, None]:
            async with _Episode(hall, shape) as episode:
                yield episode

        server: Server[_Episode, Any] = Server(
            spec.name,
            version=spec.metadata.version or None,
            instructions=spec.metadata.description or None,
            lifespan=session,
        )
        _register(server)
        return StreamableHTTPSessionManager(
            server,
            session_idle_timeout=_IDLE,
            max_request_body_size=hall.frame_bytes,
            # Beyond the bound of sessions, so that its refusal is the one with numbers.
            max_sessions=hall.core.limits.sessions + _SPARE,
        )

    return make


def _register(server: Server[_Episode, Any]) -> None:
    """Answer the two requests that concern tools."""
    from mcp import types  # noqa: PLC0415 (an optional, slow extra)

    async def ask(action: dict[str, object]) -> dict[str, Any]:
        context = server.request_context
        request = context.request
        query = {} if request is None else _query(request.scope)
        return await context.lifespan_context.ask(action, _arguments(query))

    async def list_tools(_request: types.ListToolsRequest) -> types.ServerResult:
        listed = await ask({"type": "list_tools"})
        tools = [
            types.Tool(
                name=each["name"],
                description=each.get("description"),
                inputSchema=each.get("input_schema") or each.get("inputSchema") or {},
            )
            for each in listed.get("tools", [])
        ]
        return types.ServerResult(types.ListToolsResult(tools=tools))

    async def call_tool(request: types.CallToolRequest) -> types.ServerResult:
        called = await ask(
            {
                "type": "call_tool",
                "tool_name": request.params.name,
                "arguments": request.params.arguments or {},
            }
        )
        return types.ServerResult(
            types.CallToolResult.model_validate(_tool_result(called))
        )

    server.request_handlers[types.ListToolsRequest] = list_tools
    server.request_handlers[types.CallToolRequest] = call_tool


class _Episode:
    """The session behind one MCP session; its episode begins with the first request."""

    def __init__(self, hall: Hall, shape: Shape) -> None:
        self._hall = hall
        self._shape = shape
        self._seat: Seat | None = None
        self._begun = False
        self._lock = anyio.Lock()

    async def __aenter__(self) -> _Episode:
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._seat is not None:
            self._seat.leave()

    async def ask(
        self, action: dict[str, object], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Perform an action; returns the observation in OpenEnv's form.

        Args:
            action: The action's fields.
            arguments: For `reset`, if the episode is yet to begin.

        Raises:
            McpError: The server refused it, or the environment failed.
        """
        seat = await self._ready(arguments)
        answer = await seat.ask(m.Step, msgspec.json.encode(action))
        if isinstance(answer, m.Failure):
            raise _error(answer)
        data = self._shape.observation(answer.payload)
        observation = cast(dict[str, Any], data.observation)
        return {"reward": data.reward, "done": data.done, **observation}

    async def _ready(self, arguments: dict[str, Any]) -> Seat:
        async with self._lock:
            seat = self._seat
            if seat is None or not seat.is_open:
                entered = self._hall.enter(self._shape, label="mcp")
                if isinstance(entered, m.Failure):
                    raise _error(entered)
                seat = self._seat = entered
                self._begun = False
            if not self._begun:
                answer = await seat.ask(m.Reset, msgspec.json.encode(arguments))
                if isinstance(answer, m.Failure):
                    raise _error(answer)
                self._begun = True
            return seat


def _error(failure: m.Failure) -> Exception:
    """A JSON-RPC error that says what ours does."""
    from mcp import McpError, types  # noqa: PLC0415 (an optional, slow extra)

    by_caller = failure.fault == "caller"
    return McpError(
        types.ErrorData(
            code=types.INVALID_PARAMS if by_caller else types.INTERNAL_ERROR,
            message=failure.message,
            data={
                "code": failure.code,
                "executed": failure.executed,
                "retryable": failure.retryable,
                "fault": failure.fault,
            },
        )
    )


def _tool_result(called: dict[str, Any]) -> dict[str, Any]:
    """The result of a call, as MCP has it, with what a trainer wants to know aside."""
    meta = {"reward": called["reward"], "done": called["done"]}
    problem = called.get("error")
    if problem is not None:
        text = str(problem.get("message", ""))
        return {
            "content": [{"type": "text", "text": text}],
            "structuredContent": problem,
            "isError": True,
            "_meta": meta,
        }
    result: object = called.get("result")
    shown = _text(result)
    if isinstance(result, dict) and "content" in result and "is_error" in result:
        # A result of FastMCP's, which an environment of OpenEnv's passes on.
        known = cast(dict[str, Any], result)
        return {
            "content": [_content(each) for each in known["content"]],
            "structuredContent": known.get("structured_content"),
            "isError": known["is_error"],
            "_meta": meta,
        }
    is_object = isinstance(result, dict)
    return {
        "content": [{"type": "text", "text": shown}],
        "structuredContent": result if is_object else {"result": result},
        "isError": False,
        "_meta": meta,
    }


def _content(block: dict[str, Any]) -> dict[str, Any]:
    """A block of content under the names that MCP gives its fields."""
    return {("_meta" if key == "meta" else key): block[key] for key in block}


def _text(result: object) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
