"""Actions and observations of environments with tools.

Field for field as OpenEnv has them, so that its clients for tools find what they look
for; `type` says which of the structs it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import msgspec

from ..environment import Action, Observation

__all__ = [
    "CallTool",
    "EpisodeBegun",
    "ListTools",
    "ToolAction",
    "ToolCalled",
    "ToolDescription",
    "ToolError",
    "ToolErrorType",
    "ToolFailure",
    "ToolObservation",
    "ToolResult",
    "ToolsListed",
]

ToolErrorType: TypeAlias = Literal[
    "execution_error", "invalid_args", "tool_not_found", "timeout", "transport_error"
]
"""Why a call has no result."""

# The plain type, because msgspec builds its instances without calling anything.
_arguments = cast(Callable[[], dict[str, Any]], dict)


class ListTools(Action, frozen=True, tag_field="type", tag="list_tools"):
    """Ask which tools there are."""


class CallTool(Action, frozen=True, tag_field="type", tag="call_tool"):
    """Call a tool."""

    tool_name: str
    arguments: dict[str, Any] = msgspec.field(default_factory=_arguments)


ToolAction = ListTools | CallTool
"""What an environment with tools takes."""


class ToolDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One tool, for the model that is to call it."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ToolError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call has no result, for the model that made it."""

    error_type: ToolErrorType
    message: str


class EpisodeBegun(Observation, frozen=True, tag_field="type", tag="begun"):
    """What follows a reset."""

    prompt: str = ""
    """The task, in words."""


class ToolsListed(Observation, frozen=True, tag_field="type", tag="tools"):
    """The tools that there are."""

    tools: list[ToolDescription]


class ToolCalled(Observation, frozen=True, tag_field="type", tag="called"):
    """What came of a call: a result, or an error."""

    tool_name: str
    result: Any = None
    error: ToolError | None = None


ToolObservation = EpisodeBegun | ToolsListed | ToolCalled
"""What an environment with tools answers."""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool returns if its value is not all that is to be said."""

    value: Any = None
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    metadata: dict[str, Any] = msgspec.field(default_factory=_arguments)


class ToolFailure(Exception):
    """Raise it in a tool to tell the model what went wrong.

    Args:
        message: For the model.
        error_type: The kind of error that it sees.
        reward: Reward of the call, if failing has one.
    """

    def __init__(
        self,
        message: str,
        *,
        error_type: ToolErrorType = "execution_error",
        reward: float | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type: ToolErrorType = error_type
        self.reward = reward
