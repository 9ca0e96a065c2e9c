"""This SDK's client, measured as a worker: `python -m benchmarks.sdk_client`.

Only the public interface is used, as a program of a user's would, with one exception:
`EnvClient` has no choice of sockets, so the case with one socket turns the pool's
threshold off.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias
from unittest import mock

import numpy as np

from benchmarks.cases import MESSAGE, Case
from benchmarks.cutting import count_of, measure_cuts
from benchmarks.loops import loop_from_arguments
from benchmarks.meter import Job, Metrics, Step, measure, repeat, resident_bytes
from benchmarks.sdk_environment import BenchAction, BenchObservation, ImageObservation
from benchmarks.worker import serve_jobs
from gymnasium_env import GymnasiumAction, GymnasiumEnv
from openenv_async import EnvClient, Failure, OpenEnvError, State
from openenv_async.client import pool

__all__ = ["BenchEnv", "ImageEnv", "run"]


class BenchEnv(EnvClient[BenchAction, BenchObservation, State]):
    """Client of the small case."""


class ImageEnv(EnvClient[BenchAction, ImageObservation, State]):
    """Client of the large case."""


_Batch: TypeAlias = Any
"""An `EnvBatch` of any types: cases choose among environments at run time."""

_CLIENTS: dict[str, type[EnvClient[Any, Any, Any]]] = {
    "text": BenchEnv,
    "image": ImageEnv,
    "cartpole": GymnasiumEnv,
}


async def run(job: Job) -> Metrics:
    """Measure one case."""
    match job.case.mode:
        case "awaited":
            return await _awaited(job)
        case "batch":
            return await _batch(job)
        case "connect":
            return await _connect(job)
        case "idle":
            return await _idle(job)
        case "cut":
            return await measure_cuts(job, _cut_client)
        case other:
            raise ValueError(
                f"expected a mode of `python -m benchmarks`, got {other!r}"
            )


async def _awaited(job: Job) -> Metrics:
    action = BenchAction(message=MESSAGE)

    def bound(client: EnvClient[Any, Any, Any]) -> Step:
        step = client.step
        return lambda: step(action)

    with _sockets(job.case):
        async with _clients(job) as clients:
            return await measure(job, [bound(client) for client in clients])


async def _batch(job: Job) -> Metrics:
    size = job.case.sessions
    async with _open_batch(job, autoreset="NextStep") as batch:
        step, actions = batch.step, _actions(job.case)

        async def plain() -> None:
            await step(actions)

        async def stacked() -> None:
            """Return what Gymnasium's vector environment does: one array."""
            results = await step(actions)
            np.stack([result.observation.numpy() for result in results])

        chosen = stacked if job.case.payload == "cartpole" else plain
        metrics = await measure(job, [chosen], steps_per_sample=size)
        _check(await step(actions))
        return metrics


def _actions(case: Case) -> Sequence[object]:
    if case.payload == "cartpole":
        return [GymnasiumAction(action=index % 2) for index in range(case.sessions)]
    return [BenchAction(message=MESSAGE)] * case.sessions


async def _connect(job: Job) -> Metrics:
    opened = _open_batch if job.case.contender == "sdk-batch" else _clients

    async def attempt() -> float:
        begin = time.perf_counter()
        async with opened(job):
            return time.perf_counter() - begin

    return await repeat(job, attempt)


async def _idle(job: Job) -> Metrics:
    async with BenchEnv(job.url) as first:
        await first.reset()
        before = resident_bytes(job.server_pid)
        async with _open_batch(job):
            await asyncio.sleep(job.warmup)
            grown = resident_bytes(job.server_pid) - before
    return {"bytes_per_session": grown / job.case.sessions}


class _CutClient:
    def __init__(self, client: BenchEnv) -> None:
        self._client = client

    async def step(self) -> object:
        return await self._client.step(BenchAction(message=MESSAGE))

    async def steps_so_far(self) -> int:
        return count_of(await self._client.state())


@contextlib.asynccontextmanager
async def _cut_client(url: str) -> AsyncIterator[_CutClient]:
    async with BenchEnv(url) as client:
        await client.reset()
        yield _CutClient(client)


@contextlib.asynccontextmanager
async def _open_batch(
    job: Job, *, autoreset: str = "Disabled"
) -> AsyncIterator[_Batch]:
    """Open a batch and reset it."""
    client = _CLIENTS[job.case.payload]
    async with client.batch(
        job.url,
        size=job.case.sessions,
        sockets=job.case.sockets or None,
        autoreset=autoreset,
    ) as batch:
        _check(await batch.reset(seeds=0))
        yield batch


@contextlib.asynccontextmanager
async def _clients(job: Job) -> AsyncIterator[list[EnvClient[Any, Any, Any]]]:
    """Open and reset sessions at once, and close them at once."""
    client = _CLIENTS[job.case.payload]
    clients = [client(job.url) for _ in range(job.case.sessions)]

    async def start(client: EnvClient[Any, Any, Any]) -> None:
        await client.open()
        await client.reset(seed=0)

    try:
        await _all(start, clients)
        yield clients
    finally:
        await _all(EnvClient.aclose, clients)


async def _all(
    act: Callable[[EnvClient[Any, Any, Any]], Awaitable[None]],
    clients: list[EnvClient[Any, Any, Any]],
) -> None:
    async def one(client: EnvClient[Any, Any, Any]) -> None:
        await act(client)

    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(one(client))


@contextlib.contextmanager
def _sockets(case: Case) -> Iterator[None]:
    if case.sockets == 1:
        with mock.patch.object(pool, "SPREAD", sys.maxsize):
            yield
    else:
        yield


def _check(results: Sequence[object]) -> None:
    """A failed session costs nothing, and must not count as a fast one."""
    for result in results:
        if isinstance(result, Failure):
            error: OpenEnvError = result.error
            raise error


if __name__ == "__main__":
    serve_jobs(run, loop_factory=loop_from_arguments())
