"""OpenEnv's HTTP routes: single calls, pages, JSON-RPC, tasks.

`/reset`, `/step` and `/state` know no session: each runs in one of its own that ends
with the answer. It counts, so that nobody gets past the server's bound this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ... import messages as m
from ...dialect import RpcProblem, decode_rpc_request, encode, validation_error
from .bodies import BadBody, detailed, located, read_body, read_json
from .hall import Hall
from .pages import openapi
from .rpc import answer_request
from .shapes import Shape
from .tasks import TaskRoutes

__all__ = ["McpRoute", "McpTransport", "dialect_routes"]

_STATUS: Final = {
    "at_capacity": 503,
    "shutting_down": 503,
    "invalid_action": 422,
    "reset_required": 409,
    "episode_done": 409,
    "deadline_exceeded": 504,
}
"""HTTP status, by our code of an error; 500 for all others."""

_Handler = Callable[[Request], Awaitable[Response]]


class _StepBody(msgspec.Struct, frozen=True):
    """What `/step` takes; other keys are ignored."""

    action: msgspec.Raw
    timeout_s: float | None = None


def dialect_routes(hall: Hall, mcp: McpRoute) -> list[BaseRoute]:
    """OpenEnv's routes, but those that our own protocol has as well."""
    single = _Single(hall)
    tasks = TaskRoutes(hall)

    async def document(_request: Request) -> Response:
        return JSONResponse(openapi(hall))

    async def environments(_request: Request) -> Response:
        return JSONResponse(list(hall.shapes))

    def post(path: str, handler: _Handler) -> Route:
        return Route(path, _guarded(handler), methods=["POST"])

    return [
        post("/reset", single.reset),
        post("/step", single.step),
        Route("/state", _guarded(single.state), methods=["GET"]),
        Route("/mcp", mcp, methods=["GET", "POST", "DELETE"]),
        Route("/openapi.json", document, methods=["GET"]),
        Route("/list_environments", environments, methods=["GET"]),
        Route("/{environment}/splits", _guarded(tasks.splits), methods=["GET"]),
        post("/{environment}/tasks", tasks.tasks),
        post("/{environment}/num_tasks", tasks.count),
        post("/{environment}/task", tasks.task),
        post("/{environment}/task_range", tasks.span),
    ]


def _guarded(handler: _Handler) -> _Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except BadBody as problem:
            return problem.response

    return guarded


class _Single:
    """Calls without a session."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall

    async def reset(self, request: Request) -> Response:
        """Start an episode that ends with the answer."""
        body = await read_body(request, self._hall.frame_bytes) or b"{}"
        seed = read_json(body, dict[str, Any]).get("seed")
        if isinstance(seed, int) and seed < 0:
            text = "Input should be greater than or equal to 0"
            return _refused("greater_than_equal", "seed", seed, text)
        return await self._call(request, m.Reset, body, where=["body"])

    async def step(self, request: Request) -> Response:
        """Perform an action on an environment that nobody has reset."""
        body = read_json(await read_body(request, self._hall.frame_bytes), _StepBody)
        action = bytes(body.action)
        read_json(action, dict[str, Any])
        timeout = body.timeout_s
        if timeout is not None and not timeout > 0:
            text = "Input should be greater than 0"
            return _refused("greater_than", "timeout_s", timeout, text)
        return await self._call(request, m.Step, action, timeout=timeout)

    async def state(self, request: Request) -> Response:
        """Describe an environment that nobody has reset."""
        return await self._call(request, m.GetState, b"{}")

    async def _call(
        self,
        request: Request,
        kind: type[m.Reset | m.Step | m.GetState],
        data: bytes,
        *,
        timeout: float | None = None,
        where: list[str | int] | None = None,
    ) -> Response:
        hall = self._hall
        name = request.query_params.get("environment")
        shape = hall.shape(name)
        if shape is None:
            return detailed(404, f"unknown environment {name!r}")
        seat = hall.enter(shape)
        if isinstance(seat, m.Failure):
            return self._failed(shape, seat, kind, data, where)
        try:
            answer = await seat.ask(kind, data, timeout=timeout)
        finally:
            seat.leave()
        if isinstance(answer, m.Failure):
            return self._failed(shape, answer, kind, data, where)
        if kind is m.GetState:
            return _json(shape.state(answer.payload))
        observed = shape.observation(answer.payload)
        reward, metadata = observed.reward, observed.metadata
        return _json(
            {
                "observation": observed.observation,
                "reward": None if reward is None else float(reward),
                "done": observed.done,
                "metadata": None if metadata is msgspec.UNSET else metadata,
            }
        )

    def _failed(
        self,
        shape: Shape,
        failure: m.Failure,
        kind: type,
        data: bytes,
        where: list[str | int] | None,
    ) -> Response:
        error = shape.error(
            failure, tracebacks=self._hall.tracebacks, kind=kind, sent=data
        )
        status = _STATUS.get(failure.code, 500)
        if error.errors is None:
            return detailed(status, error.message)
        return detailed(status, located(error.errors, where or []))


def _refused(kind: str, name: str, found: object, text: str) -> Response:
    return detailed(422, [validation_error(kind, ["body", name], found, text)])


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")


class McpTransport(Protocol):
    """MCP's own transport: an ASGI application that counts its sessions."""

    @property
    def sessions(self) -> int:
        """How many MCP sessions there are, with and without one of the server."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""


class McpRoute:
    """`/mcp`: OpenEnv's JSON-RPC, and beside it MCP itself where that is installed.

    Args:
        hall: OpenEnv's side of the server.
    """

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self.streamable: McpTransport | None = None
        """MCP's own transport, for clients that ask for it; set by whoever has it."""

    @property
    def sessions(self) -> int:
        """How many MCP sessions there are; 0 where MCP is not installed."""
        return 0 if self.streamable is None else self.streamable.sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whichever of the two it speaks."""
        headers = dict(scope["headers"])
        is_streamable = (
            scope["method"] != "POST"
            or b"mcp-session-id" in headers
            or b"text/event-stream" in headers.get(b"accept", b"")
        )
        if is_streamable and self.streamable is not None:
            await self.streamable(scope, receive, send)
            return
        if scope["method"] != "POST":
            response = detailed(405, "Method Not Allowed")
            response.headers["Allow"] = "POST"
        else:
            response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            body = await read_body(request, self._hall.frame_bytes)
            asked = decode_rpc_request(body)
        except BadBody as problem:
            return problem.response
        except RpcProblem as problem:
            # OpenEnv says with every status what went wrong inside the body.
            return _json(problem.failure)
        environment = request.query_params.get("environment")
        return _json(await answer_request(self._hall, asked, environment))
