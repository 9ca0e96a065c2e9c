"""OpenEnv 0.10.0's own async client, measured as a worker.

Run by OpenEnv's own interpreter: `python -m benchmarks.openenv_client`. It is
`GenericEnvClient`, the one that parses least, on the default event loop; where the
image travels as base64 text the client decodes it to bytes, and lists stay lists.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from openenv import GenericEnvClient  # type: ignore[import-not-found]  # lives in a venv of its own

from benchmarks.cases import MESSAGE
from benchmarks.cutting import count_of, measure_cuts
from benchmarks.meter import Job, Metrics, Step, measure, repeat, resident_bytes
from benchmarks.worker import serve_jobs

__all__ = ["clients_of", "run"]

_PATIENCE = 60.0
"""Connecting a thousand sessions at once takes it longer than its default of 10 s."""


async def run(job: Job) -> Metrics:
    """Measure one case."""
    mode, sessions = job.case.mode, job.case.sessions
    if mode == "idle":
        return await _idle(job)
    if mode == "cut":
        return await measure_cuts(job, _cut_client)
    if mode == "connect":

        async def attempt() -> float:
            begin = time.perf_counter()
            async with clients_of(job.url, sessions):
                return time.perf_counter() - begin

        return await repeat(job, attempt)
    url = job.url if job.case.payload == "text" else f"{job.url}/image"
    async with clients_of(url, sessions) as clients:
        return await measure(job, [_step(client, job) for client in clients])


async def _idle(job: Job) -> Metrics:
    async with clients_of(job.url, 1):
        before = resident_bytes(job.server_pid)
        async with clients_of(job.url, job.case.sessions):
            await asyncio.sleep(job.warmup)
            grown = resident_bytes(job.server_pid) - before
    return {"bytes_per_session": grown / job.case.sessions}


class _CutClient:
    def __init__(self, client: GenericEnvClient) -> None:
        self._client = client

    async def step(self) -> object:
        result: object = await self._client.step({"message": MESSAGE})
        return result

    async def steps_so_far(self) -> int:
        return count_of(await self._client.state())


@contextlib.asynccontextmanager
async def _cut_client(url: str) -> AsyncIterator[_CutClient]:
    async with clients_of(url, 1) as (client,):
        yield _CutClient(client)


def _step(client: GenericEnvClient, job: Job) -> Step:
    step: Callable[[dict[str, Any]], Awaitable[Any]] = client.step
    payload = job.case.payload
    action = {"message": MESSAGE} if payload == "text" else {"encoding": payload}

    def plain() -> Awaitable[Any]:
        return step(action)

    async def decoding() -> bytes:
        result = await step(action)
        return base64.b64decode(result.observation["encoded"])

    return decoding if payload == "base64" else plain


@contextlib.asynccontextmanager
async def clients_of(url: str, count: int) -> AsyncIterator[list[GenericEnvClient]]:
    """Connect and reset `count` sessions at once, and close them at once."""
    clients = [
        GenericEnvClient(
            base_url=url, connect_timeout_s=_PATIENCE, message_timeout_s=_PATIENCE
        )
        for _ in range(count)
    ]

    async def start(client: GenericEnvClient) -> None:
        await client.connect()
        await client.reset()

    try:
        await _all(start, clients)
        yield clients
    finally:
        await _all(GenericEnvClient.close, clients)


async def _all(
    act: Callable[[GenericEnvClient], Awaitable[object]],
    clients: list[GenericEnvClient],
) -> None:
    async def one(client: GenericEnvClient) -> None:
        await act(client)

    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(one(client))


if __name__ == "__main__":
    serve_jobs(run)
