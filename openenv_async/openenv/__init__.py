"""OpenEnv, both ways: its client interface, and its environments on our server."""

from .client import EnvClient
from .errors import CallTimeout, ConnectError, ConnectionClosedError, ServerError
from .generic import GenericAction, GenericEnvClient
from .results import StepResult
from .sync_client import SyncEnvClient
from .tool_client import CallToolAction, ListToolsAction, MCPToolClient

__all__ = [
    "CallTimeout",
    "CallToolAction",
    "ConnectError",
    "ConnectionClosedError",
    "EnvClient",
    "GenericAction",
    "GenericEnvClient",
    "ListToolsAction",
    "MCPToolClient",
    "ServerError",
    "StepResult",
    "SyncEnvClient",
]
