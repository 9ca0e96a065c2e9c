"""Asks the server of this container whether it is well: the image's `HEALTHCHECK`.

It runs as a file, with `python -I -S`, and imports next to nothing, because an engine
runs it every few seconds in each of many containers. It learns the address from the
arguments of the container's first process, so that it holds for whatever `serve` was
told: `--uds`, or `--port`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

__all__ = ["address_of", "is_healthy", "main"]

# Importing `typing`, for constants that are `Final`, would take as long as the rest.
_FIRST_PROCESS = "/proc/1/cmdline"
_PATIENCE = 4.0
"""Seconds; less than the engine's own limit, so that we say what is wrong."""
_REQUEST = b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"


def address_of(arguments: Sequence[str]) -> str | tuple[str, int]:
    """Where a server with these arguments listens: a path, or host and port."""
    options = {"--uds": "", "--host": "127.0.0.1", "--port": "8000"}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in options:
            options[option] = value if equals else following
    if options["--uds"]:
        return options["--uds"]
    host = options["--host"]
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return every.get(host, host), int(options["--port"])


def is_healthy(address: str | tuple[str, int]) -> bool:
    """Whether the server there answers with 200; raises OSError where none listens."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
    else:
        connection = socket.create_connection(address, timeout=_PATIENCE)
    with connection:
        connection.sendall(_REQUEST)
        with connection.makefile("rb") as reply:
            return reply.readline().split()[1:2] == [b"200"]


def main() -> int:
    """Return 0 when the server is well, 1 otherwise, after saying why."""
    address: object = _FIRST_PROCESS
    try:
        with open(_FIRST_PROCESS, encoding="utf-8", errors="surrogateescape") as file:
            address = found = address_of(file.read().split("\0"))
        if is_healthy(found):
            return 0
        reason = "it answers, but not with 200"
    except (OSError, ValueError) as error:
        reason = str(error)
    sys.stdout.write(f"no healthy server at {address!r}: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
