"""`create_app`: environments as a Starlette application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import messages as m
from .._aio import SPIN_WINDOW
from ..environment import AnyEnvironment, EnvironmentSpec, Execution, find_spec
from ..errors import LocalProtocolError
from ..ui import Pane, is_pane_path, is_web_asked_for, pane_hint_routes
from .connection import CODECS, DIRECT, AsgiLink, Connect, DirectLink, ServedSocket
from .core import ServerCore
from .dialect import (
    DialectSocket,
    Hall,
    McpRoute,
    RpcSocket,
    dialect_metadata,
    dialect_routes,
    dialect_schema,
)
from .readme import readme_of
from .schema import environment_schema
from .security import AccessPolicy, bearer_token
from .statistics import memory_bytes
from .streamable import streamable_for

__all__ = ["EnvironmentLike", "create_app", "create_core"]

EnvironmentLike = type[AnyEnvironment] | EnvironmentSpec | str
"""A class, a description of one, or what `openenv-async serve` takes."""

_CODES = {
    400: "protocol_error",
    401: "unauthorized",
    403: "forbidden",
    404: "unknown_environment",
}
_DRAIN_TIMEOUT = 10.0
_KEEPALIVE = 20.0
"""Seconds between pings of a WebSocket whose messages carry no heartbeat."""
_ROOM = 64 * 1024
"""How much larger than our frame limit the socket's is, so that ours answers."""


def create_app(
    environments: EnvironmentLike
    | Sequence[EnvironmentLike]
    | Mapping[str, EnvironmentLike],
    *,
    max_sessions: int = 65_536,
    lease: float = 60.0,
    heartbeat: float = 15.0,
    execution: Execution | None = None,
    threads: int = 256,
    workers: int = 2,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
    tracebacks: bool = True,
    frame_bytes: int = 4 * 1024 * 1024,
    message_bytes: int = 256 * 1024 * 1024,
    kept_bytes: int = 1024 * 1024 * 1024,
    spin: float = SPIN_WINDOW,
    openenv_lease: float = 3600.0,
    openenv_bytes: int = 16 * 1024 * 1024,
    web: bool | None = None,
) -> Starlette:
    """Build the application that serves environments.

    Run it with `openenv-async serve`, or mount it: a lifespan that reaches it closes
    the environments at shutdown.

    Args:
        environments: One environment, several, or several by name. The first is what
            a client gets that names none.
        max_sessions: Sessions at a time, all environments together.
        lease: Most seconds that a session outlives its connection.
        heartbeat: Seconds of silence before a ping; three of them end a connection.
        execution: Overrides where the environments say they run.
        threads: Most threads for blocking environments.
        workers: Worker processes for each environment with execution `process`.
        token: Bearer token that clients must show. `/health` needs none.
        allowed_hosts: Names in `Host` besides addresses and `localhost`.
        allowed_origins: Other sites whose pages may connect.
        tracebacks: Whether clients see the tracebacks of environments.
        frame_bytes: Largest WebSocket message to accept.
        message_bytes: Largest message to accept, after its chunks are put together.
        kept_bytes: Bound for the replies that are kept for a reconnect.
        spin: Seconds of polling after traffic on a connection with few sessions,
            instead of sleeping: a lone step takes half the time. 0 never polls.
        openenv_lease: Seconds that a session which a client of OpenEnv made over HTTP
            outlives its last use.
        openenv_bytes: Largest WebSocket message, and largest HTTP body, to accept from
            clients of OpenEnv.
        web: Whether `/web/` has the debug pane; None asks `ENABLE_WEB_INTERFACE`, as
            OpenEnv's servers do, for those whom no command line of ours starts.

    Raises:
        LocalProtocolError: An environment cannot be found or described.
    """
    core = create_core(
        environments,
        execution=execution,
        limits=m.Limits(
            sessions=max_sessions,
            lease=lease,
            heartbeat=heartbeat,
            frame_bytes=frame_bytes,
            message_bytes=message_bytes,
        ),
        token=token,
        tracebacks=tracebacks,
        threads=threads,
        workers=workers,
        kept_bytes=kept_bytes,
        spin=spin,
    )
    policy = AccessPolicy(hosts=allowed_hosts, origins=allowed_origins)
    core.largest_frame = max(frame_bytes + _ROOM, openenv_bytes)
    hall = Hall(core, lease=openenv_lease, frame_bytes=openenv_bytes)
    mcp = McpRoute(hall)
    mcp.streamable = streamable_for(hall)
    endpoints = _Endpoints(core, hall, mcp)
    web = is_web_asked_for() if web is None else web
    pane = Pane(needs_token=token is not None).routes() if web else pane_hint_routes()
    application = Starlette(
        routes=[
            *pane,
            Route("/health", endpoints.health),
            Route("/metadata", endpoints.metadata),
            Route("/schema", endpoints.schema),
            Route("/statistics", endpoints.statistics),
            WebSocketRoute("/ws", _WebSocketEndpoint(hall)),
            WebSocketRoute("/mcp", _RpcEndpoint(hall)),
            *dialect_routes(hall, mcp),
        ],
        lifespan=endpoints.lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    application.add_middleware(_Gate, core=core, policy=policy)
    application.state.core = core
    application.state.mcp = mcp
    application.state.web = web
    return application


def create_core(
    environments: EnvironmentLike
    | Sequence[EnvironmentLike]
    | Mapping[str, EnvironmentLike],
    *,
    execution: Execution | None = None,
    **options: Any,
) -> ServerCore:
    """Build the core from whatever describes environments."""
    if isinstance(environments, Mapping):
        named = [
            _spec(environment, execution, name)
            for name, environment in environments.items()
        ]
    elif isinstance(environments, Sequence) and not isinstance(environments, str):
        named = [_spec(environment, execution, None) for environment in environments]
    else:
        named = [_spec(environments, execution, None)]
    return ServerCore(named, **options)


def _spec(
    environment: EnvironmentLike, execution: Execution | None, name: str | None
) -> EnvironmentSpec:
    if isinstance(environment, str):
        spec = find_spec(environment, execution=execution)
    elif isinstance(environment, EnvironmentSpec):
        spec = environment.with_execution(execution)
    elif isinstance(environment, type):  # pyright: ignore[reportUnnecessaryIsInstance]  # not every caller is checked
        spec = EnvironmentSpec.of(environment, execution=execution)
    else:
        raise LocalProtocolError(
            f"expected an Environment class, a spec or a name, got {environment!r}"
        )
    return spec if name is None else spec.with_name(name)


class _Gate:
    """Checks Host, Origin and token before anything else sees a request."""

    def __init__(self, app: ASGIApp, *, core: ServerCore, policy: AccessPolicy) -> None:
        self._app = app
        self._core = core
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, problem = 403, self._policy.refusal(scope["headers"])
        if problem is None and self._core.needs_token:
            token = bearer_token(scope["headers"])
            scope["openenv_async.authorized"] = self._core.authorize(token)
            # A WebSocket may still show its token in `hello` (section 3.4), because
            # browsers cannot set headers there; a wrong one is refused at once.
            may_wait = scope["type"] == "websocket" and token is None
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            is_open = path == "/health" or is_pane_path(path)
            if not (scope["openenv_async.authorized"] or may_wait or is_open):
                status = 401
                problem = "expected a valid bearer token in Authorization"
        if problem is not None:
            self._core.statistics.refused[_CODES[status]] += 1
        if problem is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _error(status, problem)(scope, receive, send)
        else:
            await _refuse_websocket(status, problem, scope, receive, send)


def _error(status: int, message: str) -> Response:
    code = _CODES[status]
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    # Clients of OpenEnv look for `detail`.
    body = {"code": code, "message": message, "detail": message}
    return JSONResponse(body, status_code=status, headers=headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    """Answer an unknown path or method as OpenEnv's servers do."""
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"detail": error.detail}, status_code=error.status_code, headers=error.headers
    )


async def _refuse_websocket(
    status: int, message: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer the handshake with an HTTP error that says why."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": message[:120]})
        return
    response = _error(status, message)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": response.raw_headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": response.body})


class _Endpoints:
    """The routes of one application."""

    def __init__(self, core: ServerCore, hall: Hall, mcp: McpRoute) -> None:
        self._core = core
        self._hall = hall
        self._mcp = mcp

    @contextlib.asynccontextmanager
    async def lifespan(self, _application: Starlette) -> AsyncGenerator[None, None]:
        """Close every environment when the application ends."""
        self._core.warm()
        try:
            yield
        finally:
            self._hall.aclose()
            await self._core.drain(timeout=_DRAIN_TIMEOUT)
            await self._core.aclose()

    async def health(self, request: Request) -> Response:
        """Liveness, and capacity in numbers; 503 while draining.

        With `?hold`, the server's idle time begins anew: whoever keeps a server for
        later use asks in this way.
        """
        if "hold" in request.query_params:
            self._core.hold()
        # Those of MCP that have called nothing yet are no sessions of the core.
        capacity = {**self._core.capacity(), "mcp_sessions": self._mcp.sessions}
        return JSONResponse(
            capacity, status_code=200 if capacity["status"] == "healthy" else 503
        )

    async def metadata(self, request: Request) -> Response:
        """What the environments say about themselves."""
        return await self._describe(
            request,
            lambda spec: msgspec.to_builtins(
                msgspec.structs.replace(spec.metadata, readme=readme_of(spec))
            ),
            dialect_metadata,
        )

    async def schema(self, request: Request) -> Response:
        """JSON Schema of action, observation and state."""
        return await self._describe(request, environment_schema, dialect_schema)

    async def statistics(self, _request: Request) -> Response:
        """Counters since the start, and gauges; whoever asks twice computes rates."""
        # A file that may be slow to read where the machine is busy.
        memory = await anyio.to_thread.run_sync(memory_bytes)
        numbers = {**self._core.describe(), "memory_bytes": memory}
        return JSONResponse(numbers, headers={"Cache-Control": "no-store"})

    async def _describe(
        self,
        request: Request,
        describe: Callable[[EnvironmentSpec], object],
        describe_default: Callable[[EnvironmentSpec], dict[str, object]],
    ) -> Response:
        """One environment with `?environment=NAME`, otherwise all by name.

        OpenEnv's servers have one environment, which its clients look for at the top:
        they find the default there, beside all of them by name.
        """
        specs = self._core.specs
        name = request.query_params.get("environment")
        if name is not None and name not in specs:
            return _error(404, f"expected one of {list(specs)!r}, got {name!r}")

        def answer() -> object:
            if name is not None:
                return describe(specs[name])
            return {
                **describe_default(next(iter(specs.values()))),
                "environments": {name: describe(spec) for name, spec in specs.items()},
                "default": next(iter(specs)),
            }

        # In a thread, because the first answer reads sources and packages.
        return JSONResponse(await anyio.to_thread.run_sync(answer))


class _WebSocketEndpoint:
    """`/ws`: our protocol by its subprotocols, OpenEnv's where none is asked for.

    Plain ASGI, because Starlette's WebSocket costs more than a small frame.
    """

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._core = hall.core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = scope.get("subprotocols", [])
        chosen = next((name for name in offered if name in CODECS), None)
        if chosen is not None:
            codec = CODECS[chosen]
            authorized = scope.get("openenv_async.authorized", True)
            await _accept(scope, receive, send, chosen)
            socket: ServedSocket | None = scope.get("extensions", {}).get(DIRECT)
            if socket is not None:
                socket.limit(self._core.limits.frame_bytes + _ROOM, keepalive=None)
            await _serve(self._core, codec, scope, receive, send, authorized=authorized)
        elif offered:
            problem = f"expected a subprotocol of {list(CODECS)!r}, got {offered!r}"
            await _refuse_websocket(400, problem, scope, receive, send)
        else:
            query = QueryParams(scope.get("query_string", b""))
            await _serve_dialect(
                self._hall,
                lambda wake: DialectSocket(
                    self._hall,
                    wake,
                    environment=query.get("environment"),
                    session_id=query.get("session_id"),
                ),
                scope,
                receive,
                send,
            )


class _RpcEndpoint:
    """`/mcp` as a WebSocket: OpenEnv's JSON-RPC."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = QueryParams(scope.get("query_string", b""))
        await _serve_dialect(
            self._hall,
            lambda wake: RpcSocket(
                self._hall, wake, environment=query.get("environment")
            ),
            scope,
            receive,
            send,
        )


async def _accept(
    scope: Scope, receive: Receive, send: Send, subprotocol: str | None
) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": subprotocol})


async def _serve_dialect(
    hall: Hall, connect: Connect, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a client of OpenEnv."""
    if not scope.get("openenv_async.authorized", True):
        # Nothing in its frames could carry a token later.
        problem = "expected a valid bearer token in Authorization"
        await _refuse_websocket(401, problem, scope, receive, send)
        return
    await _accept(scope, receive, send, None)
    socket: ServedSocket | None = scope.get("extensions", {}).get(DIRECT)
    if socket is not None:
        socket.limit(hall.frame_bytes, keepalive=_KEEPALIVE)
    await _serve(
        hall.core, m.JSON, scope, receive, send, authorized=True, connect=connect
    )


async def _serve(
    core: ServerCore,
    codec: m.Codec,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    authorized: bool,
    connect: Connect | None = None,
) -> None:
    """Serve a connection by the shortest way that its server offers."""
    socket: ServedSocket | None = scope.get("extensions", {}).get(DIRECT)
    if socket is None:
        await AsgiLink(
            core,
            codec,
            authorized=authorized,
            send=send,
            receive=receive,
            connect=connect,
        ).serve()
    else:
        await DirectLink(
            core,
            codec,
            authorized=authorized,
            send=send,
            socket=socket,
            connect=connect,
        ).serve(receive)
