"""Runs an application on uvicorn, with a graceful end and a private Unix socket."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from types import FrameType
from typing import Final

import anyio
import uvicorn
from starlette.applications import Starlette

from ..errors import ProviderError
from .direct import DirectProtocol

__all__ = ["bind_tcp", "bind_unix", "make_server", "run_server"]

_logger = logging.getLogger("openenv_async.server")

_BACKLOG: Final = 2048
_HURRY: Final = 0.05
"""Seconds between two looks for a second signal."""


class _Server(uvicorn.Server):
    """uvicorn's server, which drains the core before it drops connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: Starlette,
        *,
        drain: float,
        idle_timeout: float | None,
    ) -> None:
        super().__init__(config)
        self._application = app
        self._drain = drain
        self._idle_timeout = idle_timeout

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        idle = self._application.state.core.idle_seconds
        if self._idle_timeout is not None and idle > self._idle_timeout:
            if not self.should_exit:
                _logger.warning("nobody was connected for %.0f s: ending", idle)
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at the end, which kills us before our
        # caller has removed its socket; and only a second SIGINT would force the end.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        async with anyio.create_task_group() as group:
            group.start_soon(self._hurry, group.cancel_scope)
            await self._application.state.core.drain(timeout=self._drain)
            group.cancel_scope.cancel()
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn would leave the application without its own end.
            await self.lifespan.shutdown()

    async def _hurry(self, draining: anyio.CancelScope) -> None:
        """Cut the draining short at the second signal."""
        while not self.force_exit:  # noqa: ASYNC110 (a signal handler sets a flag)
            await anyio.sleep(_HURRY)
        draining.cancel()


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Raises:
        ProviderError: The address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ProviderError(
            f"expected a free address, got {host}:{port}: {error}"
        ) from error
    bound.listen(_BACKLOG)
    return bound


def bind_unix(path: Path, *, mode: int = 0o600) -> socket.socket:
    """Bind a Unix socket that only its owner may use; replaces a dead one.

    Raises:
        ProviderError: Somebody serves there, or the path cannot be a socket.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ProviderError(f"expected a free socket, got {path} in use")
            path.unlink()
        before = os.umask(0o777 & ~mode)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        bound.close()
        raise ProviderError(f"expected a path for a socket, got {path}: {error}") from (
            error
        )
    except ProviderError:
        bound.close()
        raise
    bound.listen(_BACKLOG)
    return bound


def run_server(
    app: Starlette,
    *bound: socket.socket,
    drain: float = 10.0,
    idle_timeout: float | None = None,
    log_level: str = "warning",
) -> None:
    """Serve until SIGINT or SIGTERM, then end gracefully; at once at a second one.

    Args:
        app: What `create_app` returned.
        bound: Listening sockets.
        drain: Seconds for requests in flight at the end.
        idle_timeout: Seconds without a connection after which to end as well; None
            waits for ever.
        log_level: uvicorn's.
    """
    make_server(app, drain=drain, idle_timeout=idle_timeout, log_level=log_level).run(
        sockets=list(bound)
    )


def make_server(
    app: Starlette,
    *,
    drain: float = 10.0,
    idle_timeout: float | None = None,
    log_level: str = "warning",
) -> uvicorn.Server:
    """Configure the server that `run_server` runs."""
    config = uvicorn.Config(
        app,
        ws=DirectProtocol,
        # The application lowers it where it can.
        ws_max_size=app.state.core.largest_frame,
        ws_per_message_deflate=False,
        # Our own heartbeats travel as messages, because tunnels drop pings.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        log_level=log_level,
        lifespan="on",
        timeout_graceful_shutdown=5,
        backlog=_BACKLOG,
    )
    return _Server(config, app, drain=drain, idle_timeout=idle_timeout)
