"""OpenEnv's client for environments whose actions are calls of tools."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from ..errors import EnvironmentFailed, OpenEnvError
from ..tools.models import (
    CallTool,
    ListTools,
    ToolCalled,
    ToolDescription,
    ToolError,
    ToolsListed,
)
from .client import EnvClient
from .errors import ServerError
from .results import StepResult
from .wire import WireSession

__all__ = ["CallToolAction", "ListToolsAction", "MCPToolClient"]

CallToolAction: TypeAlias = CallTool
ListToolsAction: TypeAlias = ListTools

_LEASE: Final = 60.0
"""Seconds for which a session is attached to again."""


class MCPToolClient(EnvClient[Any, Any, dict[str, Any]]):
    """A client that lists and calls tools, as OpenEnv shapes it.

    It speaks OpenEnv's dialect to every server, and its session outlives its socket
    where the server can do that. Tools are called in the session's environment, beside
    `step`: they count no step and give no reward unless the environment says so.

    Unlike OpenEnv's, `list_tools` raises what went wrong instead of returning nothing.

    Args:
        base_url: As for `EnvClient`, and so are the others.
        mode: Nothing but "production".
    """

    def __init__(
        self,
        base_url: str | None = None,
        connect_timeout_s: float = 10.0,
        message_timeout_s: float = 60.0,
        websocket_ping_interval_s: float | None = 20.0,
        websocket_ping_timeout_s: float | None = 20.0,
        provider: Any = None,
        mode: str | None = None,
        max_message_size_mb: float = 100.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if (mode or "production").lower() != "production":
            raise ValueError(
                f"MCPToolClient only supports 'production' mode, got '{mode}'."
            )
        super().__init__(
            base_url,
            connect_timeout_s=connect_timeout_s,
            message_timeout_s=message_timeout_s,
            max_message_size_mb=max_message_size_mb,
            websocket_ping_interval_s=websocket_ping_interval_s,
            websocket_ping_timeout_s=websocket_ping_timeout_s,
            provider=provider,
            mode="production",
            headers=headers,
        )
        self._wire_options = dataclasses.replace(
            self._wire_options, dialect=True, lease=_LEASE
        )
        self._tools: list[ToolDescription] | None = None

    def list_tools(self, use_cache: bool = True) -> Any:  # noqa: FBT001, FBT002 (OpenEnv's signature)
        """The environment's tools; may be awaited, as every call.

        Args:
            use_cache: Whether an earlier answer will do.

        Raises:
            ServerError: The environment has no tools, or cannot list them.
        """

        async def work(session: WireSession) -> list[ToolDescription]:
            if self._tools is None or not use_cache:
                result = await _asked(session, "list_tools", "tools/list", {})
                self._tools = [_tool(found) for found in result.get("tools", [])]
            return self._tools

        return self._dispatch(work, list)

    def call_tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool; returns its value.

        Raises:
            ServerError: There is no such tool, or it raised.
        """

        async def work(session: WireSession) -> Any:
            params = {"name": name, "arguments": arguments}
            return await _asked(session, f"Tool '{name}'", "tools/call", params)

        return self._dispatch(work, _value)

    def get_tool(self, name: str) -> Any:
        """The tool of a name, or None; raises like `list_tools`."""

        async def work(session: WireSession) -> Any:
            result = await _asked(session, "list_tools", "tools/list", {})
            return [_tool(found) for found in result.get("tools", [])]

        return self._dispatch(
            work, lambda tools: next((t for t in tools if t.name == name), None)
        )

    def has_tool(self, name: str) -> Any:
        """Whether there is a tool of a name; raises like `list_tools`."""

        async def work(session: WireSession) -> Any:
            result = await _asked(session, "list_tools", "tools/list", {})
            return any(found.get("name") == name for found in result.get("tools", []))

        return self._dispatch(work, bool)

    # As for every client

    def _step_payload(self, action: Any) -> dict[str, Any]:
        if isinstance(action, msgspec.Struct):
            return cast(dict[str, Any], msgspec.to_builtins(action))
        if isinstance(action, dict):
            return cast(dict[str, Any], action)
        return cast(dict[str, Any], action.model_dump(exclude_defaults=True))

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Any]:
        fields: dict[str, Any] = payload.get("observation", {})
        done = payload.get("done", False)
        shared: dict[str, Any] = {
            "reward": payload.get("reward"),
            "terminated": done,
            "metadata": payload.get("metadata") or fields.get("metadata") or {},
        }
        observation: object = {**fields, "done": done, "reward": shared["reward"]}
        if "tools" in fields:
            tools = [_tool(found) for found in fields["tools"]]
            observation = ToolsListed(tools=tools, **shared)
        elif "tool_name" in fields:
            error = fields.get("error")
            observation = ToolCalled(
                tool_name=fields["tool_name"],
                result=fields.get("result"),
                error=None if not error else msgspec.convert(error, ToolError),
                **shared,
            )
        return StepResult(observation, shared["reward"], done, payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


_Method: TypeAlias = Literal["tools/list", "tools/call"]


async def _asked(
    session: WireSession, what: str, method: _Method, params: dict[str, Any]
) -> Any:
    try:
        return await session.call_mcp(method, params)
    except EnvironmentFailed as error:
        if "rpc_code" not in error.detail:
            raise
        raise _failed(f"{what} failed: {error.message}", error) from error


def _failed(text: str, error: OpenEnvError) -> ServerError:
    return ServerError(
        text,
        code=error.code,
        executed=error.executed,
        retryable=error.retryable,
        fault=error.fault,
        detail={**error.detail, "dialect_code": "EXECUTION_ERROR"},
    )


def _tool(found: Mapping[str, Any]) -> ToolDescription:
    schema = found.get("input_schema", found.get("inputSchema", {}))
    return ToolDescription(
        name=found.get("name", ""),
        description=found.get("description") or "",
        input_schema=schema,
    )


def _value(result: Any) -> Any:
    """What a tool returned, out of what its library made of it."""
    fields: object = result
    if isinstance(fields, dict) and "data" in fields:
        return cast(dict[str, Any], fields)["data"]
    return result
