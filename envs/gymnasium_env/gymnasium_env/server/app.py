"""CartPole as an application for an ASGI server.

For any other environment, `openenv-async serve "gymnasium_env?id=..."`, or the same
two lines with another id.
"""

from __future__ import annotations

from openenv_async.server import create_app

from .environment import gymnasium_environment

__all__ = ["app"]

app = create_app(gymnasium_environment("CartPole-v1"))
