"""Serves environments: sessions over WebSockets, in a Starlette application."""

from .app import EnvironmentLike, create_app
from .run import bind_tcp, bind_unix, run_server

__all__ = ["EnvironmentLike", "bind_tcp", "bind_unix", "create_app", "run_server"]
