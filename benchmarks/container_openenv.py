"""OpenEnv 0.10.0's `LocalDockerProvider` and its client, measured as a worker.

Run by OpenEnv's own interpreter: `python -m benchmarks.container_openenv`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from openenv import GenericEnvClient  # type: ignore[import-not-found]  # lives in a venv of its own

from benchmarks.cases import MESSAGE
from benchmarks.container_cases import CODE, paced
from benchmarks.meter import Job, Metrics, Step, measure, repeat
from benchmarks.openenv_client import clients_of
from benchmarks.worker import serve_jobs

__all__ = ["run"]


async def run(job: Job) -> Metrics:
    """Measure one case."""
    mode = job.case.mode
    if mode == "start":
        return await repeat(job, lambda: _start(job.url), at_most=1)
    action = {"message": MESSAGE} if job.case.payload == "text" else {"code": CODE}
    async with clients_of(job.url, job.case.sessions) as clients:
        steps = [
            client.reset if mode == "reset" else _bound(client.step, action)
            for client in clients
        ]
        observation = (await clients[0].step(action)).observation
        if observation.get("exit_code", 0) != 0:
            raise ValueError(f"expected exit code 0, got {observation!r}")
        if mode == "paced":
            return await paced(job, steps)
        return await measure(job, steps)


async def _start(image: str) -> float:
    """From nothing to the first reset; what removes it is not counted."""
    begin = time.perf_counter()
    client = await GenericEnvClient.from_docker_image(image)
    try:
        await client.reset()
        return time.perf_counter() - begin
    finally:
        await client.close()


def _bound(
    step: Callable[[dict[str, str]], Awaitable[Any]], action: dict[str, str]
) -> Step:
    return lambda: step(action)


if __name__ == "__main__":
    serve_jobs(run)
