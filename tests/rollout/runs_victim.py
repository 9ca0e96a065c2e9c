"""Writes episodes in child processes that are killed at random moments.

Run as `python -m tests.rollout.runs_victim FOLDER FORMAT ROUNDS SEED`. The children go
on with one run; what each was told is written goes to `FOLDER/acknowledged`. They are
forked, because starting the interpreter would take longer than all that they do.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import anyio._backends._asyncio
import pyarrow.json
import pyarrow.parquet
import zstandard

from openenv_async.rollout.runs import EpisodeFormat, RunWriter
from tests.rollout.runs import FORMATS, make_episode, make_manifest

__all__ = ["RUN", "main"]

RUN = "run"
_WRITERS = 8
_LONGEST = 0.2
"""Seconds until a child is killed, at most: from its start, or from a success."""
_PATIENCE = 10.0
"""Seconds to wait for that."""


async def _write(folder: Path, episode_format: EpisodeFormat) -> None:
    """Append what is missing, in several tasks, until killed."""
    acknowledged = os.open(
        folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT
    )
    async with RunWriter(
        folder / RUN,
        make_manifest(episode_format),
        resume=True,
        # Small, so that files are finished and sealed all the time.
        part_bytes=4000,
    ) as writer:

        async def append(first: int) -> None:
            number = first
            while True:
                episode = make_episode(number, length=number % 4)
                if episode.id not in writer:
                    await writer.append(episode)
                    os.write(acknowledged, f"{number}\n".encode())
                number += _WRITERS

        async with asyncio.TaskGroup() as group:
            for first in range(_WRITERS):
                group.create_task(append(first))


def _size(folder: Path) -> int:
    path = folder / "acknowledged"
    return path.stat().st_size if path.exists() else 0


def main() -> None:
    """Start, kill, start again."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[3])
    episode_format = next(name for name in FORMATS if name == sys.argv[2])
    moments = random.Random(int(sys.argv[4]))
    # Imported here, because they would be most of a child's life.
    assert all((anyio._backends._asyncio, pyarrow.json, pyarrow.parquet, zstandard))
    for number in range(rounds):
        before = _size(folder)
        child = os.fork()
        if not child:
            try:
                asyncio.run(_write(folder, episode_format))
            finally:
                os._exit(1)
        if number % 2:
            # Otherwise most would be killed while they open the run.
            end = time.monotonic() + _PATIENCE
            while _size(folder) == before and time.monotonic() < end:
                time.sleep(0.001)
        time.sleep(moments.uniform(0.005, _LONGEST))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        # A child that ended by itself has failed.
        assert os.WIFSIGNALED(status), f"ended with {status}"


if __name__ == "__main__":
    main()
