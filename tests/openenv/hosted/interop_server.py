"""Serves environments of OpenEnv's, each at a port of its own, by OpenEnv or by us.

`python interop_server.py OPTIONS` takes a JSON object: `targets` are import paths by
name, `hosted` says whether our server hosts them. Prints `serving` and the ports as
JSON, then serves until it is terminated.
"""

from __future__ import annotations

import importlib
import json
import signal
import socket
import sys
import threading
from typing import Any

import uvicorn


def _theirs(target: str) -> uvicorn.Server:
    """OpenEnv's own server."""
    module, _, name = target.partition(":")
    app = getattr(importlib.import_module(module), name)
    if not hasattr(app, "openapi"):
        app = app()
    return uvicorn.Server(uvicorn.Config(app, log_level="error"))


def _ours(target: str) -> uvicorn.Server:
    """Our server, hosting the same."""
    from openenv_async.environment import find_spec  # noqa: PLC0415 (not OpenEnv's)
    from openenv_async.server import create_app  # noqa: PLC0415 (as above)
    from openenv_async.server.run import make_server  # noqa: PLC0415 (as above)

    app = create_app(find_spec(f"openenv:{target}"))
    return make_server(app, drain=1.0)


def main() -> None:
    """Serve until terminated."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    make = _ours if options["hosted"] else _theirs
    servers = [make(target) for target in options["targets"].values()]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in servers]
    threads = [
        threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        for server, listener in zip(servers, sockets, strict=True)
    ]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    for thread in threads:
        thread.start()
    ports = [listener.getsockname()[1] for listener in sockets]
    named = dict(zip(options["targets"], ports, strict=True))
    print("serving", json.dumps(named), flush=True)  # noqa: T201 (its caller reads it)
    ended.wait()
    for server in servers:
        server.should_exit = True
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
