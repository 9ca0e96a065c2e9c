"""`openenv-async serve`: environments behind one endpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from ..server import bind_tcp, bind_unix, create_app, run_server
from ..ui import WEB_VARIABLE

if sys.platform != "win32":
    import resource

__all__ = ["serve"]


def serve(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="PACKAGE[:ENVIRONMENT][?KEY=VALUE]...",
            help="Environments: an installed environment's name, or an import path; "
            "behind a question mark arguments, as in 'gymnasium_env?id=CartPole-v1'.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_535,
            help="Port; 0 takes a free one. With --uds and --web, the pane's.",
        ),
    ] = 8000,
    uds: Annotated[
        Path | None, typer.Option(help="Unix socket to listen on instead.")
    ] = None,
    max_sessions: Annotated[
        int, typer.Option(min=1, help="Sessions at a time.")
    ] = 65_536,
    lease: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that a session outlives its connection."),
    ] = 60.0,
    heartbeat: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence before a ping.")
    ] = 15.0,
    execution: Annotated[
        Literal["inline", "thread", "process", "isolated"] | None,
        typer.Option(help="Where environments run, if not where they say."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Most threads for blocking environments.")
    ] = 256,
    workers: Annotated[
        int, typer.Option(min=1, help="Worker processes, for execution 'process'.")
    ] = os.cpu_count() or 2,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="OPENENV_ASYNC_TOKEN",
            help="Bearer token that clients must show; better given in the variable.",
        ),
    ] = None,
    openenv_lease: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that an unused session lives which OpenEnv's clients made "
            "over HTTP.",
        ),
    ] = 3600.0,
    openenv_bytes: Annotated[
        int,
        typer.Option(min=1024, help="Largest message or body of OpenEnv's clients."),
    ] = 16 * 1024 * 1024,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name to serve under, besides addresses and localhost."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Other site whose pages may connect.")
    ] = None,
    web: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            envvar=WEB_VARIABLE, help="Serve the debug pane for browsers, at /web/."
        ),
    ] = False,
    tracebacks: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option(help="Send tracebacks of environments to clients.")
    ] = True,
    spin: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds of polling after traffic on connections with few sessions.",
        ),
    ] = 60e-6,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for what is in flight at the end.")
    ] = 10.0,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Seconds without a connection after which the server ends by itself; "
            "a request of /health?hold counts as one.",
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option()
    ] = "warning",
    lifeline: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve environments over one WebSocket endpoint, until Ctrl-C or SIGTERM."""
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    _raise_descriptor_limit()
    # An environment of the folder that we were called in, as with `python -m`.
    sys.path.insert(0, os.getcwd())
    app = create_app(
        targets,
        max_sessions=max_sessions,
        lease=lease,
        heartbeat=heartbeat,
        execution=execution,
        threads=threads,
        workers=workers,
        token=token,
        allowed_hosts=allow_host or (),
        allowed_origins=allow_origin or (),
        tracebacks=tracebacks,
        spin=spin,
        web=web,
        openenv_lease=openenv_lease,
        openenv_bytes=openenv_bytes,
    )
    bound: list[socket.socket] = []
    addresses: list[str] = []
    if uds is not None:
        bound.append(bind_unix(uds))
        addresses.append(f"ws+unix://{uds.absolute()}")
    if uds is None or web:
        # Browsers cannot open a Unix socket.
        bound.append(bind_tcp(host, port))
        addresses.append(f"ws://{_address(host)}:{bound[-1].getsockname()[1]}")
    names = ", ".join(app.state.core.specs)
    print(f"serving {names} at {addresses[0]}", flush=True)
    if web:
        print(f"debug pane at http{addresses[-1].removeprefix('ws')}/web/", flush=True)
    try:
        # Until the server has its own handler, so that what follows is removed.
        signal.signal(signal.SIGTERM, _end_early)
        if lifeline is not None:
            threading.Thread(
                target=_watch_lifeline, args=(lifeline,), daemon=True
            ).start()
        run_server(
            app, *bound, drain=drain, idle_timeout=idle_timeout, log_level=log_level
        )
    finally:
        if uds is not None:
            # Whoever made the folder may have closed it since.
            with contextlib.suppress(PermissionError):
                uds.unlink(missing_ok=True)
        if lifeline is not None and _lifeline_ended.is_set():
            shutil.rmtree(lifeline, ignore_errors=True)


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as we may: the usual 1,024 are few for a server.

    An environment with a process of its own for each session needs some for each.
    """
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _end_early(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


_PATIENCE = 15.0
"""Seconds that a server whose owner is gone has to end gracefully."""
_lifeline_ended = threading.Event()


def _watch_lifeline(folder: Path) -> None:
    """End this server when whoever started it is gone: its end of stdin closes."""
    parent = os.getppid()
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 1024):
            break
    _lifeline_ended.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    # An environment blocks the loop, and nobody is left who would kill us.
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
