"""MCP's own transport at `/mcp`, for environments with tools.

The protocol is the official `mcp` library's, which an extra installs; it is imported at
the first request, because that takes a second. Each MCP session is a session of the
server: it counts, it can be watched, and a call of a tool is a step like any other.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

import anyio
import msgspec
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from .. import messages as m
from ..dialect import RpcCode
from .dialect import Hall, Seat, Shape, rpc_detail
from .visits import Visit, Visits

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

__all__ = ["Streamable", "streamable_for"]

_ID: Final = b"mcp-session-id"
"""The header that names a session."""
_visit: ContextVar[Visit] = ContextVar("openenv-async-mcp-visit")
"""Whose request this is; the library starts a session within its first one."""


def streamable_for(hall: Hall) -> Streamable | None:
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
        self._visits = Visits(sessions=hall.core.limits.sessions, lease=hall.lease)

    @property
    def sessions(self) -> int:
        """How many MCP sessions there are, with and without one of the server."""
        return len(self._visits)

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
        await self._serve(manager, scope, receive, send)

    async def _serve(
        self,
        manager: StreamableHTTPSessionManager,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let the library answer, and note which session was used."""
        id = _header(scope["headers"], _ID)
        visit = Visit() if id is None else self._visits.find(id)
        if visit is None:
            await _unknown_session()(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            if is_start and not visit.id and message["status"] < 400:
                told = _header(message["headers"], _ID)
                if told is not None:
                    self._visits.admit(visit, told)
            await send(message)

        self._visits.begin(visit)
        before = _visit.set(visit)
        try:
            await manager.handle_request(scope, receive, watched)
        finally:
            _visit.reset(before)
            self._visits.done(visit)

    async def _manager(self, shape: Shape) -> StreamableHTTPSessionManager:
        name = shape.spec.name
        async with self._lock:
            if name not in self._managers:
                make = await anyio.to_thread.run_sync(_load)
                manager = make(self._hall, shape, self._visits)
                running = anyio.Event()
                self._hall.core.tasks.spawn(
                    _run(manager, running, self._visits), f"openenv-async-mcp-{name}"
                )
                await running.wait()
                self._managers[name] = manager
            return self._managers[name]


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("latin-1"))


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    found = (value for key, value in headers if key.lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1")


def _unknown_session() -> JSONResponse:
    """What tells a client of MCP to begin anew."""
    error = {"code": int(RpcCode.INVALID_REQUEST), "message": "Session not found"}
    body = {"jsonrpc": "2.0", "id": "server-error", "error": error}
    return JSONResponse(body, status_code=404)


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


async def _run(
    manager: StreamableHTTPSessionManager, running: anyio.Event, visits: Visits
) -> None:
    """Run a manager until the server ends."""
    async with manager.run():
        running.set()
        try:
            await anyio.sleep_forever()
        finally:
            # One after the other: to cancel all at once takes the library far longer.
            await visits.aclose()


def _load() -> Callable[[Hall, Shape, Visits], StreamableHTTPSessionManager]:
    """Import the library, which blocks; returns what makes a manager."""
    from mcp.server.lowlevel import Server  # noqa: PLC0415 (an optional, slow extra)
    from mcp.server.streamable_http_manager import (  # noqa: PLC0415 (an optional, slow extra)
        StreamableHTTPSessionManager,
    )

    # The library's logger; filters are added once, however often this is called.
    logging.getLogger("mcp.server.streamable_http").addFilter(_is_news)

    def make(hall: Hall, shape: Shape, visits: Visits) -> StreamableHTTPSessionManager:
        spec = shape.spec

        @contextlib.asynccontextmanager
        async def session(
            _server: Server[_Episode, Any],
        ) -> AsyncGenerator[_Episode, None]:
            visit = _visit.get()
            # The scope ends the session from outside, like a client that leaves.
            with visit.scope:
                async with _Episode(hall, shape, visits, visit) as episode:
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
            # Which ones end, and when, is for `Visits` to say.
            session_idle_timeout=None,
            max_sessions=None,
            max_request_body_size=hall.frame_bytes,
        )

    return make


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a record of the library's says more than that a client left."""
    cause = record.exc_info[1] if record.exc_info else None
    is_gone = isinstance(cause, anyio.ClosedResourceError | anyio.BrokenResourceError)
    return not (is_gone and "standalone SSE writer" in record.getMessage())


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

    def __init__(self, hall: Hall, shape: Shape, visits: Visits, visit: Visit) -> None:
        self._hall = hall
        self._shape = shape
        self._visits = visits
        self._visit = visit
        self._begun = False
        self._lock = anyio.Lock()

    async def __aenter__(self) -> _Episode:
        self._visits.enter(self._visit)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._visits.leave(self._visit)
        if self._visit.seat is not None:
            self._visit.seat.leave()

    async def ask(
        self, action: dict[str, object], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Perform an action; returns the observation in OpenEnv's form.

        Args:
            action: The action's fields.
            arguments: For `reset`, if the episode is yet to begin.

        Cancelling that cancels the step, which breaks the episode if it had begun.

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
            seat = self._visit.seat
            # One that was lost is not replaced: the agent would go on in an episode
            # that never saw what it did.
            if seat is None:
                entered = self._hall.enter(self._shape, label="mcp")
                if isinstance(entered, m.Failure):
                    raise _error(entered)
                seat = entered
                self._visits.take(self._visit, seat)
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
            data=rpc_detail(failure),
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
