"""The application for an ASGI server: `uvicorn coding_env.server.app:app`."""

from __future__ import annotations

from openenv_async.server import create_app

from .environment import coding_environment

__all__ = ["app"]

app = create_app(coding_environment())
