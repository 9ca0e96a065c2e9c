"""Server and client processes for tests that end them in ways a process cannot see."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import anyio

__all__ = [
    "ROOT",
    "SCRIPTED",
    "Process",
    "is_alive",
    "running",
    "serve_arguments",
    "short_folder",
    "started",
]

ROOT = Path(__file__).parents[2]
SCRIPTED = "tests.environments:ScriptedEnvironment"


class Process:
    """A Python process whose output goes to a file.

    Args:
        arguments: For the interpreter.
        folder: Where the output goes.
        environment: Variables to add.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = folder / f"output-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )
        self.pid = self._popen.pid
        self.url = ""
        """Where it serves, if it does."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if self._popen.poll() is None:
            self._popen.send_signal(number)

    def kill(self) -> None:
        """End the process without giving it a chance, and wait for it."""
        self.signal(signal.SIGKILL)
        self._popen.wait(10)

    def wait(self, timeout: float = 12.0) -> int:
        """Wait for the end; returns the exit status."""
        return self._popen.wait(timeout)

    @property
    def is_running(self) -> bool:
        """Whether the process still runs."""
        return self._popen.poll() is None

    def output(self) -> str:
        """What the process printed."""
        return self._log.read_text()

    def line(self, start: str, timeout: float = 12.0) -> str:
        """Wait for a printed line that begins with a text; returns what follows it."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in self.output().splitlines(keepends=True):
                if line.startswith(start) and line.endswith("\n"):
                    return line.removeprefix(start).strip()
            assert self.is_running, self.output()
            time.sleep(0.005)
        raise AssertionError(f"no line {start!r} in:\n{self.output()}")


def serve_arguments(*arguments: str) -> list[str]:
    """Arguments for the interpreter that serve scripted environments."""
    return ["-m", "openenv_async.cli", "serve", SCRIPTED, *arguments]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """A process that is killed at the end if it still runs."""
    process = Process(arguments, folder, environment)
    try:
        yield process
    finally:
        process.kill()


@contextlib.asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    """A server process that listens; killed at the end.

    Args:
        folder: Where its output goes, and its socket `s` if it is given no `--port`.
        arguments: For `openenv-async serve`.
    """
    where = () if "--port" in arguments else ("--uds", str(folder / "s"))
    process = await anyio.to_thread.run_sync(
        Process, serve_arguments(*where, *arguments), folder
    )
    try:
        line = await anyio.to_thread.run_sync(process.line, "serving ")
        process.url = line.partition(" at ")[2]
        yield process
    finally:
        await anyio.to_thread.run_sync(process.kill)
