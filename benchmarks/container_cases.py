"""What is measured of containers, fleet and coding environment, scenario by scenario.

Modes beside those of `cases`: `start` is a container from nothing to its first reset,
`place` a session on a server of a fleet, `spare` one on a server that steps in,
`reset` a new episode on a session that is open, `paced` steps at the pace of a policy.
Contenders are `sdk`, `sdk-local` (the same server as a process of this machine),
`openenv`, and `bare`, a WebSocket server of a dozen lines. Standard library only:
OpenEnv's interpreter imports this module.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.cases import Case, ContainerMode, Mode, Payload
from benchmarks.meter import Job, Metrics, Step

__all__ = ["CODE", "PACE", "container_scenarios", "paced"]

CODE: Final = "1 + 1"
"""What a trivial step runs."""

PACE: Final = 10
"""Steps a second of each session in mode `paced`; a policy is rarely faster."""

_TRANSPORTS: Final = ("unix", "tcp")


def container_scenarios() -> Iterator[tuple[Case, ...]]:
    """Yield the scenarios of one round."""
    yield (
        *(_sdk("start", transport) for transport in _TRANSPORTS),
        Case(contender="bare", mode="start", sessions=1),
        _openenv("start"),
    )
    yield (
        _sdk("start", "unix", payload="code"),
        _openenv("start", payload="code"),
    )
    yield (_sdk("place", "unix"), _sdk("spare", "unix"))
    modes: tuple[tuple[Mode | ContainerMode, int], ...] = (
        ("reset", 1),
        ("reset", 64),
        ("awaited", 1),
        ("paced", 64),
        ("awaited", 64),
    )
    for mode, sessions in modes:
        yield _coding(mode, sessions)
    for sessions in (1, 64, 1024):
        yield (
            *(_sdk("awaited", transport, sessions) for transport in _TRANSPORTS),
            *(() if sessions > 64 else (_openenv("awaited", sessions),)),
        )
        yield tuple(_sdk("batch", transport, sessions) for transport in _TRANSPORTS)


def _coding(mode: Mode | ContainerMode, sessions: int) -> tuple[Case, ...]:
    return (
        Case(
            contender="sdk-local",
            mode=mode,
            sessions=sessions,
            transport="unix",
            payload="code",
        ),
        *(_sdk(mode, transport, sessions, "code") for transport in _TRANSPORTS),
        _openenv(mode, sessions, "code"),
    )


def _sdk(
    mode: Mode | ContainerMode,
    transport: str,
    sessions: int = 1,
    payload: Payload = "text",
) -> Case:
    return Case(
        contender="sdk",
        mode=mode,
        sessions=sessions,
        transport="unix" if transport == "unix" else "tcp",
        payload=payload,
    )


def _openenv(
    mode: Mode | ContainerMode, sessions: int = 1, payload: Payload = "text"
) -> Case:
    return Case(contender="openenv", mode=mode, sessions=sessions, payload=payload)


async def paced(job: Job, steps: Sequence[Step]) -> Metrics:
    """Run every one of `steps` `PACE` times a second, evenly spread, for a while.

    Args:
        job: How long.
        steps: What the sessions call.
    """
    begin = time.perf_counter()
    measured = begin + job.warmup
    end = measured + max(job.seconds, 2 / PACE)
    latencies: list[float] = []

    async def drive(step: Step, due: float) -> None:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            start = time.perf_counter()
            await step()
            if due >= measured:
                latencies.append(time.perf_counter() - start)
            due += 1 / PACE

    async with asyncio.TaskGroup() as tasks:
        for index, step in enumerate(steps):
            tasks.create_task(drive(step, begin + index / len(steps) / PACE))
    latencies.sort()
    elapsed = time.perf_counter() - measured
    return {
        "steps_per_s": len(latencies) / elapsed,
        "samples": len(latencies),
        "p50_us": _quantile(latencies, 0.50) * 1e6,
        "p99_us": _quantile(latencies, 0.99) * 1e6,
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
