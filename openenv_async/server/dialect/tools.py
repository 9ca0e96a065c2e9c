"""Tool calls of OpenEnv's JSON-RPC, run as steps of the environment.

OpenEnv hands the calls of some environments past `step`, so that they count for
nothing. Here they are actions like any other: counted, rewarded, watched.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from ... import messages as m
from ...dialect import (
    RpcCode,
    RpcFailure,
    RpcRequest,
    RpcResult,
    encode,
    rpc_failure,
)
from .shapes import Shape

__all__ = ["RpcAnswer", "rpc_detail", "tool_action", "tool_answer"]

RpcAnswer = RpcResult | RpcFailure
"""A JSON-RPC response."""

_METHODS: Final = ("tools/list", "tools/call")


def tool_action(request: RpcRequest, shape: Shape) -> bytes | RpcFailure:
    """The encoded action that a request means, or the response that refuses it."""
    if request.method not in _METHODS:
        text = f"Method not found: {request.method}"
        return rpc_failure(request.id, RpcCode.METHOD_NOT_FOUND, text)
    if not shape.has_tools:
        text = "Environment does not support MCP"
        return rpc_failure(request.id, RpcCode.INTERNAL_ERROR, text)
    if request.method == "tools/list":
        return msgspec.json.encode({"type": "list_tools"})
    name = request.params.get("name")
    if not isinstance(name, str) or not name:
        text = "Missing 'name' in params"
        return rpc_failure(request.id, RpcCode.INVALID_PARAMS, text)
    arguments: object = request.params.get("arguments") or {}
    action: dict[str, object] = {
        "type": "call_tool",
        "tool_name": name,
        "arguments": arguments,
    }
    return msgspec.json.encode(action)


def rpc_detail(failure: m.Failure) -> dict[str, object]:
    """What an error says besides its text, for the field `data` of JSON-RPC."""
    return {
        "code": failure.code,
        "executed": failure.executed,
        "retryable": failure.retryable,
        "fault": failure.fault,
    }


def tool_answer(
    request: RpcRequest, shape: Shape, answer: m.Reply | m.Failure
) -> RpcAnswer:
    """The response that a step's answer means."""
    if isinstance(answer, m.Failure):
        error = shape.error(answer, tracebacks=True, kind=m.Step)
        text = answer.message if error.errors else error.message
        facts = rpc_detail(answer)
        return rpc_failure(request.id, RpcCode.INTERNAL_ERROR, text, facts)
    data = shape.observation(answer.payload)
    observation = cast(dict[str, Any], data.observation)
    if request.method == "tools/list":
        return RpcResult(request.id, {"tools": observation.get("tools", [])})
    problem: object = observation.get("error")
    if problem is not None:
        told: dict[str, object] = {}
        if isinstance(problem, dict):
            told = cast(dict[str, object], problem)
        text = str(told.get("message", "") or observation["error"])
        # The tool may not have run, but the step did.
        told = {**told, "executed": "yes"}
        return rpc_failure(request.id, RpcCode.INTERNAL_ERROR, text, told)
    result: object = observation.get("result")
    if "content" in (cast(dict[str, object], result) if _is_map(result) else ()):
        return RpcResult(request.id, result)
    told = {"done": data.done, "reward": data.reward, **observation}
    if shape.wraps_results:
        told |= _wrapped(result)
    return RpcResult(request.id, told)


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _wrapped(value: object) -> dict[str, object]:
    """A tool's value as MCP's libraries give it; OpenEnv's clients take `data`."""
    text = value if isinstance(value, str) else encode(value).decode()
    is_map = _is_map(value)
    return {
        "content": [{"type": "text", "text": text}],
        "structured_content": value if is_map else {"result": value},
        "meta": None,
        "data": value,
        "is_error": False,
    }
