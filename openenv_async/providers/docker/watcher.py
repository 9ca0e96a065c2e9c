"""Removes the containers of a process that is gone; runs as a process of its own.

`python -I -S watcher.py ENGINE OWNER [CERTIFICATES]`, with standard input from the
owner, whose process id is the second argument.
The owner writes a line for each change: `+NAME FOLDER` before it asks the engine for a
container, `=NAME` once the engine has it, `-NAME` when it is removed. When the owner is
gone, in whatever way, the input ends, and what was not taken back is removed, folders
too. It needs nothing but the standard library, so that it costs a few milliseconds.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import shutil
import socket
import ssl
import sys
import time
import urllib.parse

__all__ = ["main"]

_LOOK = 0.5
"""Seconds between two looks whether the owner is still there.

A child that the owner forked holds the other end of the pipe open after its death.
"""
_PATIENCE = 60.0
"""Seconds in which containers are to be removed."""
_LATE = 10.0
"""Seconds in which a container that was asked for may still appear."""
_ANSWER = 30.0
"""Seconds for the engine to answer."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection_to(engine: str, certificates: str | None) -> http.client.HTTPConnection:
    """A connection to the engine, not yet open."""
    url = urllib.parse.urlsplit(engine)
    if url.scheme == "unix":
        return UnixConnection(url.path)
    host = url.hostname or "localhost"
    if certificates is None:
        return http.client.HTTPConnection(host, url.port or 2375, timeout=_ANSWER)
    context = ssl.create_default_context(cafile=f"{certificates}/ca.pem")
    context.load_cert_chain(f"{certificates}/cert.pem", f"{certificates}/key.pem")
    return http.client.HTTPSConnection(
        host, url.port or 2376, timeout=_ANSWER, context=context
    )


class Charge:
    """The containers to remove when the owner is gone."""

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self.made: set[str] = set()
        """Those that the engine has for certain."""

    def note(self, line: str) -> None:
        """Take in a line of the owner."""
        name, _, folder = line[1:].partition(" ")
        if line[:1] == "+":
            self.folders[name] = folder
        elif line[:1] == "=":
            self.made.add(name)
        elif line[:1] == "-":
            self.folders.pop(name, None)
            self.made.discard(name)


def watch(charge: Charge, owner: int) -> None:
    """Take in lines until the owner is gone, or has closed its end."""
    rest = b""
    while True:
        # Asked first: what the owner wrote before its death is still to be read, even
        # when it died before we began.
        is_gone = os.getppid() != owner
        readable, _, _ = select.select([0], [], [], 0 if is_gone else _LOOK)
        if readable:
            chunk = os.read(0, 65_536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                charge.note(line.decode())
        elif is_gone:
            return


def remove(engine: str, certificates: str | None, charge: Charge) -> None:
    """Remove what is left, as often as it takes."""
    begin = time.monotonic()
    while charge.folders and time.monotonic() - begin < _PATIENCE:
        is_late = time.monotonic() - begin > _LATE
        for name, folder in list(charge.folders.items()):
            status = _delete(engine, certificates, name)
            # One that was asked for, but that the engine does not have, may be coming.
            absent = status == 404 and (is_late or name in charge.made)
            if status == 204 or absent:
                del charge.folders[name]
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
        if charge.folders:
            time.sleep(0.1)


def _delete(engine: str, certificates: str | None, name: str) -> int:
    """Kill and remove a container; returns the engine's status, 0 without one."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = connection_to(engine, certificates)
        with contextlib.closing(connection):
            connection.request("DELETE", f"/containers/{name}?force=1&v=1")
            return connection.getresponse().status
    return 0


def main(engine: str, owner: str, certificates: str | None = None) -> None:
    """Watch, then clean up."""
    charge = Charge()
    watch(charge, int(owner))
    remove(engine, certificates, charge)


if __name__ == "__main__":
    main(*sys.argv[1:])
