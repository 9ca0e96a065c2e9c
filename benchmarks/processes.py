"""Children of the harness: started, asked, and ended by their own id, always.

Each child leads a process group of its own, so that what it starts (the workers of
Gymnasium's vector environment) ends with it, and nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks.meter import Job, Metrics

__all__ = [
    "ROOT",
    "Address",
    "BenchmarkError",
    "Worker",
    "bench_folder",
    "free_port",
    "listening",
    "output_of",
    "running",
]

ROOT = Path(__file__).resolve().parent.parent
"""The repository: children start there, so that `-m benchmarks...` finds us."""

Address: TypeAlias = int | Path
"""A port on loopback, or the path of a Unix socket."""

_START_SECONDS = 90.0
_STOP_SECONDS = 5.0
_LOG_TAIL = 2000


class BenchmarkError(Exception):
    """A contender did not do what it is measured for."""


def bench_folder() -> Path:
    """Make the folder for what we write; git ignores it by itself."""
    folder = ROOT / ".bench"
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="ascii")
    return folder


def free_port() -> int:
    """Find a port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def running(
    argv: Sequence[str], *, log: Path, is_worker: bool = False
) -> AsyncIterator[Process]:
    """Run a child for as long as the context lasts.

    Args:
        argv: What to run, from the root of the repository.
        log: Where stderr (and a server's stdout) go.
        is_worker: Keep stdin and stdout as pipes.
    """
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE if is_worker else DEVNULL,
            stdout=PIPE if is_worker else sink,
            stderr=sink,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    # The group may outlive its leader.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def listening(process: Process, address: Address, log: Path) -> None:
    """Wait until a server accepts connections.

    Raises:
        BenchmarkError: It ended, or took too long; its last words are in the text.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                if await _accepts(address):
                    return
                await asyncio.sleep(0.02)
    state = "did not listen" if process.returncode is None else "ended"
    raise BenchmarkError(f"server {state}: {_tail(log)}")


async def _accepts(address: Address) -> bool:
    try:
        if isinstance(address, int):
            _, writer = await asyncio.open_connection("127.0.0.1", address)
        else:
            _, writer = await asyncio.open_unix_connection(address)
    except OSError:
        return False
    writer.close()
    return True


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()


class Worker:
    """The harness's end of `benchmarks.worker`."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ask(self, job: Job, *, timeout: float) -> Metrics:
        """Have one job measured.

        After a timeout the worker can't be used any more, because its answer would
        be taken for that of the next job.

        Raises:
            BenchmarkError: The case failed, or the worker ended.
            TimeoutError: There is no answer.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(job.as_dict()).encode() + b"\n")
        async with asyncio.timeout(timeout):
            line = await stdout.readline()
        if not line:
            raise BenchmarkError(f"worker ended: {_tail(self._log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(answer["error"])
        metrics: Metrics = answer["metrics"]
        return metrics


async def output_of(argv: Sequence[str], *, timeout: float = 60.0) -> str:
    """Run a short command and return its stdout.

    Raises:
        BenchmarkError: It failed; its stderr is in the text.
    """
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=DEVNULL, stdout=PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    except TimeoutError as error:
        raise BenchmarkError(f"{argv[0]} took over {timeout:.0f} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode:
        raise BenchmarkError(
            f"{argv!r}: {stderr.decode(errors='replace')[-_LOG_TAIL:]}"
        )
    return stdout.decode()
