"""Environments whose actions are calls of tools."""

from .environment import ToolEnvironment, tool
from .models import (
    CallTool,
    EpisodeBegun,
    ListTools,
    ToolAction,
    ToolCalled,
    ToolDescription,
    ToolError,
    ToolErrorType,
    ToolFailure,
    ToolObservation,
    ToolResult,
    ToolsListed,
)
from .signatures import Tool

__all__ = [
    "CallTool",
    "EpisodeBegun",
    "ListTools",
    "Tool",
    "ToolAction",
    "ToolCalled",
    "ToolDescription",
    "ToolEnvironment",
    "ToolError",
    "ToolErrorType",
    "ToolFailure",
    "ToolObservation",
    "ToolResult",
    "ToolsListed",
    "tool",
]
