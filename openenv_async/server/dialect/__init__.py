"""OpenEnv's clients at our server: its WebSockets and its HTTP routes."""

from __future__ import annotations

from .hall import Hall
from .http import McpRoute, McpTransport, dialect_routes
from .pages import dialect_metadata, dialect_schema
from .seat import Seat
from .shapes import Shape
from .sockets import DialectSocket, RpcSocket
from .tools import rpc_detail

__all__ = [
    "DialectSocket",
    "Hall",
    "McpRoute",
    "McpTransport",
    "RpcSocket",
    "Seat",
    "Shape",
    "dialect_metadata",
    "dialect_routes",
    "dialect_schema",
    "rpc_detail",
]
