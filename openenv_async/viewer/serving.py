"""Runs the viewer for whoever sits at this machine."""

from __future__ import annotations

import contextlib
import socket

import uvicorn
from starlette.applications import Starlette

__all__ = ["run_viewer"]


def run_viewer(app: Starlette, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        app: What `create_viewer_app` returned.
        bound: A listening socket.
    """
    config = uvicorn.Config(app, ws="none", log_level="warning", lifespan="on")
    # uvicorn ends gracefully, and raises the signal again when it has.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])
