"""The application for an ASGI server: `uvicorn echo_env.server.app:app`."""

from __future__ import annotations

from openenv_async.server import create_app

from .environment import EchoEnvironment

__all__ = ["app"]

app = create_app(EchoEnvironment)
