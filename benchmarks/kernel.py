"""Ping-pong of blocking sockets: what one round trip costs without any of us.

Run as `python -m benchmarks.kernel --seconds 0.3`; prints one JSON object with
microseconds for TCP and Unix sockets, with the ends on two cores and on one. They are
never free to move: the scheduler would put them on one core now and then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["ping_pong"]

_MESSAGE = b"x" * 80
"""About as long as a frame with one small step."""


def ping_pong(*, unix: bool, pinned: bool, seconds: float) -> dict[str, float]:
    """Measure round trips between this process and a child of it.

    Args:
        unix: Use a Unix socket instead of TCP on loopback.
        pinned: Put both ends on one core; otherwise each has one of its own.
        seconds: How long, warm-up excluded.
    """
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder, _listen(unix, folder) as listener:
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {max(cores)})
            _echo(listener)
            os._exit(0)
        os.sched_setaffinity(0, {max(cores) if pinned else min(cores)})
        try:
            with socket.socket(listener.family) as client:
                client.connect(listener.getsockname())
                _no_delay(client)
                _measure(client, seconds / 5)
                samples = sorted(_measure(client, seconds))
        finally:
            os.sched_setaffinity(0, cores)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return {
        "p50_us": samples[len(samples) // 2] / 1e3,
        "p99_us": samples[len(samples) * 99 // 100] / 1e3,
    }


def _listen(unix: bool, folder: str) -> socket.socket:  # noqa: FBT001 (private)
    listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    listener.bind(str(Path(folder) / "ping.sock") if unix else ("127.0.0.1", 0))
    listener.listen()
    return listener


def _echo(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    _no_delay(peer)
    while data := peer.recv(4096):
        peer.sendall(data)


def _measure(client: socket.socket, seconds: float) -> list[int]:
    samples: list[int] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        begin = time.perf_counter_ns()
        client.sendall(_MESSAGE)
        client.recv(4096)
        samples.append(time.perf_counter_ns() - begin)
    return samples


def _no_delay(end: socket.socket) -> None:
    if end.family == socket.AF_INET:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    """Print all four."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.3)
    seconds = parser.parse_args().seconds
    found = {
        "/".join(
            ["kernel", "unix" if unix else "tcp", *(["pinned"] if pinned else [])]
        ): ping_pong(unix=unix, pinned=pinned, seconds=seconds)
        for pinned in (False, True)
        for unix in (False, True)
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
