"""An environment whose actions are tools, as plain structs."""

from __future__ import annotations

from typing import Any

import msgspec

from openenv_async import Action, Environment, Observation, State

__all__ = ["CallTool", "ListTools", "Report", "Tooling"]

_TOOLS = [
    {
        "name": "echo",
        "description": "Echo a message",
        "input_schema": {
            "type": "object",
            "properties": {"message": {"type": "string"}},
            "required": ["message"],
        },
    }
]


class ListTools(Action, tag="list_tools"):
    """Asks for the tools."""


class CallTool(Action, tag="call_tool"):
    """Calls one."""

    tool_name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Report(Observation):
    """The tools, or a tool's result, or why there is none."""

    tools: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    tool_name: str | msgspec.UnsetType = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET


class Tooling(Environment[ListTools | CallTool, Report, State]):
    """Echoes by a tool; every call is a step."""

    name = "tooling"
    any_order = True

    def __init__(self) -> None:
        self._steps = 0

    async def reset(self, **arguments: Any) -> Report:
        """Start."""
        self._steps = 0
        return Report(metadata={"status": "ready"})

    async def step(self, action: ListTools | CallTool) -> Report:
        """List or call."""
        self._steps += 1
        if isinstance(action, ListTools):
            return Report(tools=_TOOLS)
        name = action.tool_name
        if name != "echo":
            error = {
                "error_type": "tool_not_found",
                "message": f"Unknown tool: {name!r}",
            }
            return Report(tool_name=name, result=None, error=error)
        text = action.arguments["message"]
        result = {
            "content": [{"type": "text", "text": text}],
            "structured_content": {"result": text},
            "data": text,
            "is_error": False,
        }
        return Report(tool_name=name, result=result, error=None, reward=1.0)

    def state(self) -> State:
        """Describe the episode."""
        return State(step_count=self._steps)
