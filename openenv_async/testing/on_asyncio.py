"""The part of the pytest plugin that needs pytest-asyncio, whatever its mode."""

from __future__ import annotations

import pytest_asyncio

from .plugin import connect, serve

__all__ = ["client_on_asyncio", "server_on_asyncio"]

# Its own decorator, because its strict mode takes no other.
server_on_asyncio = pytest_asyncio.fixture(
    serve, name="_environment_server_on_asyncio", loop_scope="function"
)
client_on_asyncio = pytest_asyncio.fixture(
    connect, name="_environment_client_on_asyncio", loop_scope="function"
)
