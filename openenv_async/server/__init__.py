"""Serves environments: sessions over WebSockets, in a Starlette application."""

from .app import EnvironmentLike, create_app
from .run import bind_tcp, bind_unix, run_server
from .web import create_web_interface_app

__all__ = [
    "EnvironmentLike",
    "bind_tcp",
    "bind_unix",
    "create_app",
    "create_web_interface_app",
    "run_server",
]
