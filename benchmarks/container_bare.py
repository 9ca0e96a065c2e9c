"""A bare `docker run` of a small WebSocket server, measured as a worker.

It is what starting a container costs without any SDK: `python -m
benchmarks.container_bare`. The image is ours, so that Python is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.container_engine import docker_run
from benchmarks.meter import Job, Metrics, repeat
from benchmarks.worker import serve_jobs

__all__ = ["run"]

_SERVER: Final = Path(__file__).with_name("container_bare_server.py")
_PYTHON: Final = "/opt/openenv/bin/python"
_PATIENCE: Final = 30.0
_POLL: Final = 0.004


async def run(job: Job) -> Metrics:
    """Measure one case."""
    source = _SERVER.read_text(encoding="utf-8")
    if job.case.mode != "start":
        raise ValueError(f"expected mode 'start', got {job.case.mode!r}")

    async def attempt() -> float:
        begin = time.perf_counter()
        async with (
            docker_run(
                job.url,
                "-c",
                source,
                options=("--entrypoint", "/opt/openenv/bin/python"),
            ) as port,
            _connected(port) as connection,
        ):
            await connection.send(b"")
            await connection.recv()
            return time.perf_counter() - begin

    return await repeat(job, attempt)


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[ClientConnection]:
    """Connect as soon as it is possible."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            # The port's proxy accepts before the server listens, then hangs up.
            with contextlib.suppress(OSError, EOFError, WebSocketException):
                connection = await connect(f"ws://127.0.0.1:{port}", proxy=None)
                break
            await asyncio.sleep(_POLL)
    async with connection:
        yield connection


if __name__ == "__main__":
    serve_jobs(run)
