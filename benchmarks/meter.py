"""How a loop of steps is measured: warm-up, window, latencies and CPU of both ends.

Every contender is measured by this code, so that its cost (two clock reads and an
append per step) is the same for all. Standard library only: OpenEnv's interpreter
imports this module.
"""

from __future__ import annotations

import array
import asyncio
import dataclasses
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case

__all__ = ["Job", "Metrics", "Step", "measure", "repeat", "resident_bytes"]

Step = Callable[[], Awaitable[object]]
"""Do one step, or one batch of steps."""

Metrics = dict[str, float]
"""What came out of one case, by name; units are in the names."""

_ENOUGH_SAMPLES = 30
"""A window with fewer is stretched, so that a slow contender is not one sample."""
_STRETCHES = 12
"""How often a window may grow by a quarter."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One case, and where and how long to measure it."""

    case: Case
    url: str
    """Where the contender's server listens, in the contender's own notation; for a case
    that starts its server, the image."""
    server_pid: int
    """Whose CPU and memory are charged; 0 where there is no server."""
    seconds: float
    warmup: float

    def as_dict(self) -> dict[str, Any]:
        """Flatten into what JSON can carry."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Job:
        """Undo `as_dict`."""
        return cls(**{**fields, "case": Case(**fields["case"])})


async def measure(
    job: Job, steps: Sequence[Step], *, steps_per_sample: int = 1
) -> Metrics:
    """Run every one of `steps` in a loop of its own, for a while.

    Args:
        job: How long, and whose CPU to charge.
        steps: What the concurrent loops call.
        steps_per_sample: How many environment steps one call is.
    """
    meter = _Meter(job)
    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            tasks.create_task(meter.drive(step))
        tasks.create_task(meter.control())
    return meter.metrics(steps_per_sample)


async def repeat(
    job: Job, attempt: Callable[[], Awaitable[float]], *, at_most: int = 20
) -> Metrics:
    """Repeat something that times itself, and return the median of its seconds."""
    seconds: list[float] = []
    deadline = time.perf_counter() + job.seconds
    while not seconds or (len(seconds) < at_most and time.perf_counter() < deadline):
        seconds.append(await attempt())
    seconds.sort()
    return {"seconds": seconds[len(seconds) // 2], "repetitions": float(len(seconds))}


def resident_bytes(pid: int) -> int:
    """Read the resident memory of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * _PAGE_BYTES


class _Meter:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._running = True
        # A list of a million numbers would be walked by every full collection.
        self._latencies_ns = array.array("q")
        self._seconds = 0.0
        self._client_cpu = 0.0
        self._server_cpu = 0.0

    async def drive(self, step: Step) -> None:
        clock = time.perf_counter_ns
        # Only ever cleared in place: this bound method stays valid.
        record = self._latencies_ns.append
        while self._running:
            begin = clock()
            await step()
            record(clock() - begin)

    async def control(self) -> None:
        await asyncio.sleep(self._job.warmup)
        del self._latencies_ns[:]
        client, server = time.process_time(), self._server_seconds()
        begin = time.perf_counter()
        await asyncio.sleep(self._job.seconds)
        for _ in range(_STRETCHES):
            if len(self._latencies_ns) >= _ENOUGH_SAMPLES:
                break
            await asyncio.sleep(self._job.seconds / 4)
        self._seconds = time.perf_counter() - begin
        self._client_cpu = time.process_time() - client
        self._server_cpu = self._server_seconds() - server
        # What finishes from here on is not part of the window.
        self._latencies_ns = self._latencies_ns[:]
        self._running = False

    def metrics(self, steps_per_sample: int) -> Metrics:
        samples = sorted(self._latencies_ns)
        steps = len(samples) * steps_per_sample
        metrics = {"steps_per_s": steps / self._seconds, "samples": len(samples)}
        if samples:
            metrics["p50_us"] = _quantile(samples, 0.50) / 1e3
            metrics["p99_us"] = _quantile(samples, 0.99) / 1e3
            metrics["client_cpu_us"] = self._client_cpu * 1e6 / steps
            if self._job.server_pid:
                metrics["server_cpu_us"] = self._server_cpu * 1e6 / steps
        return metrics

    def _server_seconds(self) -> float:
        return _cpu_seconds(self._job.server_pid) if self._job.server_pid else 0.0


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads, from `/proc/<pid>/stat`."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    # The second field is the command in brackets, and may contain anything.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
