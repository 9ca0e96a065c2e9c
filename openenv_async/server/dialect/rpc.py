"""OpenEnv's JSON-RPC without a socket: sessions over HTTP, and tools in them."""

from __future__ import annotations

from typing import Final

from ... import messages as m
from ...dialect import RpcCode, RpcRequest, RpcResult, rpc_failure
from .hall import Hall, Shared
from .seat import Seat
from .shapes import Shape
from .tools import RpcAnswer, tool_action, tool_answer

__all__ = ["CLOSE", "CREATE", "answer_request", "close_session"]

CREATE: Final = "openenv/session/create"
"""Opens a session and returns its id."""
CLOSE: Final = "openenv/session/close"
"""Ends it."""


async def answer_request(
    hall: Hall, request: RpcRequest, environment: str | None
) -> RpcAnswer:
    """Answer a request that came over HTTP.

    Tools without a session get one for the length of the call.

    Args:
        hall: OpenEnv's side of the server.
        request: The request.
        environment: Which environment; None for the default.
    """
    shape = hall.shape(environment)
    if shape is None:
        text = f"expected one of {list(hall.shapes)!r}, got {environment!r}"
        return rpc_failure(request.id, RpcCode.INVALID_PARAMS, text)
    if request.method == CREATE:
        return _create(hall, request, shape)
    if request.method == CLOSE:
        return close_session(hall, request)
    asked = request.params.get("session_id")
    if asked is None:
        action = tool_action(request, shape)
        if not isinstance(action, bytes):
            return action
        seat = hall.enter(shape)
        if isinstance(seat, m.Failure):
            return _refused(hall, request, shape, seat)
        try:
            return await _run(hall, request, seat, action)
        finally:
            seat.leave()
    shared = hall.find(asked)
    if shared is None:
        text = f"Unknown session_id: {asked}"
        return rpc_failure(request.id, RpcCode.INVALID_PARAMS, text)
    action = tool_action(request, shared.seat.shape)
    if not isinstance(action, bytes):
        return action
    hall.touch(shared)
    return await _run(hall, request, shared.seat, action)


async def _run(hall: Hall, request: RpcRequest, seat: Seat, action: bytes) -> RpcAnswer:
    answer = await seat.ask(m.Step, action)
    detail = answer.detail if isinstance(answer, m.Failure) else None
    if isinstance(answer, m.Failure) and (detail or {}).get("constructing"):
        return _refused(hall, request, seat.shape, answer)
    return tool_answer(request, seat.shape, answer)


def _create(hall: Hall, request: RpcRequest, shape: Shape) -> RpcAnswer:
    shared = hall.create(shape)
    if isinstance(shared, m.Failure):
        return _refused(hall, request, shape, shared)
    return RpcResult(request.id, {"session_id": shared.id})


def _refused(
    hall: Hall, request: RpcRequest, shape: Shape, failure: m.Failure
) -> RpcAnswer:
    """No room for a session, or no environment in it."""
    error = shape.error(failure, tracebacks=hall.tracebacks)
    numbers = hall.capacity_detail(failure)
    if error.factory_name is not None:
        numbers = {"factory_name": error.factory_name}
    return rpc_failure(request.id, RpcCode.SERVER_ERROR, error.message, numbers)


def close_session(
    hall: Hall, request: RpcRequest, *, own: Shared | None = None
) -> RpcAnswer:
    """End a session by its id; one with a socket ends when that does.

    Args:
        hall: OpenEnv's side of the server.
        request: The request.
        own: The session of the socket that asks, which it cannot close.
    """
    asked = request.params.get("session_id")
    if not isinstance(asked, str) or not asked:
        text = "Invalid params - 'session_id' is required"
        return rpc_failure(request.id, RpcCode.INVALID_PARAMS, text)
    shared = hall.find(asked)
    if shared is None:
        text = f"Unknown session_id: {asked}"
        return rpc_failure(request.id, RpcCode.INVALID_PARAMS, text)
    if shared is own:
        text = f"Session {asked} is this socket's own: close the socket instead"
        return rpc_failure(request.id, RpcCode.INVALID_REQUEST, text)
    if hall.close(shared):
        return RpcResult(request.id, {"session_id": asked, "closed": True})
    result = {"session_id": asked, "closed": False, "closing": True}
    return RpcResult(request.id, result)
