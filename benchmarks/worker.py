"""A measuring client: a process that takes jobs on stdin and prints what it found.

One job is one line of JSON, and so is one answer: `{"metrics": {...}}` or
`{"error": "..."}`. Between jobs the process sleeps, so that workers of several
contenders can take turns without disturbing each other. Every job has an event loop
of its own. Standard library only: OpenEnv's interpreter imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from benchmarks.meter import Job, Metrics

__all__ = ["LoopFactory", "serve_jobs"]

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]


def serve_jobs(
    run: Callable[[Job], Awaitable[Metrics]], *, loop_factory: LoopFactory | None = None
) -> None:
    """Answer jobs until stdin ends.

    Args:
        run: Measures one job.
        loop_factory: Makes the event loop; None is asyncio's own.
    """
    # A library that prints must not break the answers: they get a descriptor of
    # their own, and stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(line, run, loop_factory)) + "\n")
        answers.flush()


def _answer(
    line: str,
    run: Callable[[Job], Awaitable[Metrics]],
    loop_factory: LoopFactory | None,
) -> dict[str, object]:
    try:
        job = Job.from_dict(json.loads(line))
        with _pinned(job), asyncio.Runner(loop_factory=loop_factory) as runner:
            return {"metrics": runner.run(_await(run(job)))}
    # A case that fails is a result to report, not the end of the worker.
    except Exception as error:  # noqa: BLE001 (reported to the harness)
        traceback.print_exc(file=sys.stderr)
        return {"error": f"{type(error).__name__}: {error}"}


async def _await(metrics: Awaitable[Metrics]) -> Metrics:
    return await metrics


@contextlib.contextmanager
def _pinned(job: Job) -> Iterator[None]:
    """Put this process and the server on one core, for a case that asks for it."""
    if not job.case.pinned:
        yield
        return
    cores = os.sched_getaffinity(0)
    core = {max(cores)}
    try:
        _set_affinity(job.server_pid, core)
        os.sched_setaffinity(0, core)
        yield
    finally:
        os.sched_setaffinity(0, cores)
        _set_affinity(job.server_pid, cores)


def _set_affinity(pid: int, cores: set[int]) -> None:
    """Affinity belongs to threads; those that are started later inherit it."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)
