"""This SDK's clients, providers and fleet, measured as a worker.

Run as `python -m benchmarks.container_sdk`. Only the public interface is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeAlias

from benchmarks.cases import MESSAGE, Payload
from benchmarks.container_cases import CODE, paced
from benchmarks.loops import loop_from_arguments
from benchmarks.meter import Job, Metrics, Step, measure, repeat
from benchmarks.worker import serve_jobs
from coding_env import CodingAction, CodingEnv, CodingObservation
from echo_env import EchoAction, EchoEnv
from openenv_async import EnvClient, Failure, StepResult
from openenv_async.providers import DockerProvider, Fleet

__all__ = ["run"]

_Client: TypeAlias = EnvClient[Any, Any, Any]
"""Of whichever environment the case names."""

_CLIENTS: Final[dict[Payload, type[_Client]]] = {"text": EchoEnv, "code": CodingEnv}
_ACTIONS: Final[dict[Payload, object]] = {
    "text": EchoAction(message=MESSAGE),
    "code": CodingAction(code=CODE),
}
_STALE: Final = 0.15
"""Seconds after which a fleet looks again whether a server lives, before it hands it
out: each hand-out that is measured has that in it."""
_SPARES: Final = 4
"""Spares that step in, at most, because each is a container."""
_PATIENCE: Final = 30.0
"""Seconds for a spare to be there."""


async def run(job: Job) -> Metrics:
    """Measure one case."""
    match job.case.mode:
        case "start":
            return await _start(job)
        case "place":
            return await _place(job)
        case "spare":
            return await _spare(job)
        case "batch":
            return await _batch(job)
    async with _opened(job) as clients:
        action = _ACTIONS[job.case.payload]
        steps = [
            client.reset if job.case.mode == "reset" else _bound(client, action)
            for client in clients
        ]
        await clients[0].reset()
        _check(await clients[0].step(action))
        if job.case.mode == "paced":
            return await paced(job, steps)
        metrics = await measure(job, steps)
        await clients[0].reset()
        _check(await clients[0].step(action))
        return metrics


async def _start(job: Job) -> Metrics:
    """From nothing to the first reset; what removes it is not counted.

    The first one in a process also imports aiodocker, and is told apart.
    """
    provider = DockerProvider(job.url, connection=job.case.transport)

    async def attempt() -> float:
        begin = time.perf_counter()
        async with _CLIENTS[job.case.payload](provider=provider) as client:
            await client.reset()
            return time.perf_counter() - begin

    try:
        first = await attempt()
        return {**await repeat(job, attempt), "first_seconds": first}
    finally:
        await provider.stop()


async def _place(job: Job) -> Metrics:
    """A session on one of two servers that serve."""
    provider = DockerProvider(job.url, connection=job.case.transport)
    async with Fleet(provider, replicas=2, sessions_per_replica=64, warm=1) as fleet:

        async def attempt() -> float:
            await asyncio.sleep(_STALE)
            client = EchoEnv(provider=fleet)
            seconds = await _seconds_to_open(client)
            await client.aclose()
            return seconds

        await attempt()
        return await repeat(job, attempt)


async def _spare(job: Job) -> Metrics:
    """A session on a spare, because no server that serves has room."""
    provider = DockerProvider(job.url, connection=job.case.transport)
    async with (
        Fleet(
            provider,
            min_replicas=0,
            max_replicas=2 * _SPARES,
            sessions_per_replica=1,
            warm=1,
        ) as fleet,
        contextlib.AsyncExitStack() as sessions,
    ):

        async def attempt() -> float:
            await _until_spare(fleet)
            await asyncio.sleep(_STALE)
            client = EchoEnv(provider=fleet)
            sessions.push_async_callback(client.aclose)
            return await _seconds_to_open(client)

        return await repeat(job, attempt, at_most=_SPARES)


async def _until_spare(fleet: Fleet) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            states = fleet.statistics().replicas
            if states["spare"] and not states["starting"]:
                return
            await asyncio.sleep(0.02)


async def _seconds_to_open(client: EchoEnv) -> float:
    begin = time.perf_counter()
    await client.open()
    return time.perf_counter() - begin


async def _batch(job: Job) -> Metrics:
    size, payload = job.case.sessions, job.case.payload
    async with _CLIENTS[payload].batch(job.url, size=size) as batch:
        _check_all(await batch.reset(seeds=0))
        actions = [_ACTIONS[payload]] * size

        async def step() -> None:
            await batch.step(actions)

        metrics = await measure(job, [step], steps_per_sample=size)
        _check_all(await batch.step(actions))
        return metrics


def _bound(client: _Client, action: object) -> Step:
    return lambda: client.step(action)


@contextlib.asynccontextmanager
async def _opened(job: Job) -> AsyncIterator[list[_Client]]:
    """Open and reset sessions at once, and close them at once."""
    kind = _CLIENTS[job.case.payload]
    clients = [kind(job.url) for _ in range(job.case.sessions)]

    async def start(client: _Client) -> None:
        await client.open()
        await client.reset()

    try:
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(start(client))
        yield clients
    finally:
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.aclose())


def _check_all(results: Sequence[StepResult[object] | Failure]) -> None:
    for result in results:
        if isinstance(result, Failure):
            raise result.error
        assert isinstance(result, StepResult)


def _check(result: StepResult[object]) -> None:
    """Code that failed must not count as code that ran fast."""
    observation = result.observation
    if isinstance(observation, CodingObservation) and observation.result != "2":
        raise ValueError(f"expected a result of '2', got {observation!r}")


if __name__ == "__main__":
    serve_jobs(run, loop_factory=loop_from_arguments())
