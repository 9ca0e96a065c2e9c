"""Rounds of `benchmarks.interop`: every pair of server and client takes its turn.

Servers are started once and are idle while others are measured, except for the memory
of a session, which is measured at a server of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fnmatch
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from benchmarks.cases import Case, Mode
from benchmarks.meter import Job
from benchmarks.processes import (
    ROOT,
    BenchmarkError,
    Worker,
    free_port,
    listening,
    running,
)
from benchmarks.rounds import Outcome

__all__ = ["PAIRS", "SESSIONS", "InteropSettings", "play_interop"]

PAIRS = (
    ("theirs", "theirs"),
    ("theirs", "ours"),
    ("ours", "theirs"),
    ("ours", "ours"),
    ("hosted", "theirs"),
    ("hosted", "ours"),
    ("blocking-theirs", "theirs"),
    ("blocking-hosted", "ours"),
    ("blocking-inline", "ours"),
)
"""Server and client. `hosted` is OpenEnv's environment on our server; `blocking-` is
the same environment with blocking methods, `inline` with `--execution inline`."""

SESSIONS = (1, 64, 256)

_CASE_SECONDS = 60.0
_MOST_SESSIONS = "4096"
_Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InteropSettings:
    """How much to measure."""

    rounds: int
    seconds: float
    warmup: float
    idle: int
    """Sessions whose memory is measured."""
    trials: int
    """Connections that are cut."""
    only: str = "*"
    """Glob over the keys of the cases."""


async def play_interop(
    settings: InteropSettings, python: Path, folder: Path, say: _Say
) -> AsyncIterator[tuple[Outcome, dict[str, str]]]:
    """Play the rounds; metrics and errors of each, by case.

    Args:
        settings: How much to measure.
        python: OpenEnv's interpreter.
        folder: For logs, and for what OpenEnv's interpreter has to find.
        say: Told about progress.
    """
    async with contextlib.AsyncExitStack() as stack:
        play = _Play(stack, settings, python, folder, say)
        for number in range(settings.rounds):
            say(f"round {number + 1} of {settings.rounds}")
            yield await play.round(number)


class _Play:
    """Servers and workers, started when they are first needed."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        settings: InteropSettings,
        python: Path,
        folder: Path,
        say: _Say,
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._folder = folder
        self._say = say
        self._servers: dict[str, tuple[int, str]] = {}
        self._workers: dict[str, Worker] = {}
        self._commands = _Commands(python, folder)

    async def round(self, number: int) -> tuple[Outcome, dict[str, str]]:
        """Play one round; `number` rotates who goes first."""
        outcome: Outcome = {}
        errors: dict[str, str] = {}
        start = number % len(PAIRS)
        modes: list[tuple[Mode, int]] = [("awaited", size) for size in SESSIONS]
        if number == 0:
            # What hardly varies, and takes a server of its own, or a while.
            modes += [("idle", self._settings.idle), ("cut", self._settings.trials)]
        for mode, sessions in modes:
            for server, client in (*PAIRS[start:], *PAIRS[:start]):
                key = f"{server}+{client}/{mode}/n{sessions}"
                if not fnmatch.fnmatchcase(key, self._settings.only):
                    continue
                case = Case(contender=client, mode=mode, sessions=sessions)
                try:
                    await self._play(key, server, case, outcome)
                except (BenchmarkError, TimeoutError, OSError) as error:
                    errors[key] = str(error) or type(error).__name__
                    self._say(f"  {key}: {errors[key].splitlines()[-1]}")
        return outcome, errors

    async def _play(self, key: str, server: str, case: Case, outcome: Outcome) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if case.mode == "idle":
                # Memory that was used before would hide what a session takes.
                pid, url = await self._start_server(stack, server)
            else:
                if server not in self._servers:
                    self._servers[server] = await self._start_server(
                        self._stack, server
                    )
                pid, url = self._servers[server]
            job = Job(
                case=case,
                url=url,
                server_pid=pid,
                seconds=self._settings.seconds,
                warmup=self._settings.warmup,
            )
            worker = await self._worker(case.contender)
            try:
                outcome[key] = await worker.ask(job, timeout=_CASE_SECONDS)
            except TimeoutError:
                del self._workers[case.contender]
                raise
        found = outcome[key].items()
        self._say(f"  {key}: " + ", ".join(f"{n} {v:,.4g}" for n, v in found))

    async def _worker(self, client: str) -> Worker:
        if client not in self._workers:
            log = self._folder / f"worker-{client}.log"
            process = await self._stack.enter_async_context(
                running(self._commands.client(client), log=log, is_worker=True)
            )
            self._workers[client] = Worker(process, log)
        return self._workers[client]

    async def _start_server(
        self, stack: contextlib.AsyncExitStack, server: str
    ) -> tuple[int, str]:
        port = free_port()
        log = self._folder / f"{server}.log"
        command = self._commands.server(server, port)
        process = await stack.enter_async_context(running(command, log=log))
        await listening(process, port, log)
        # Let it finish what it does after it listens.
        await asyncio.sleep(self._settings.warmup)
        return process.pid, f"ws://127.0.0.1:{port}"


class _Commands:
    """How servers and clients are started."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = str(python)
        # What OpenEnv's interpreter lacks to run us: ourselves and a library of ours.
        self._path = folder / "path"
        self._path.mkdir(exist_ok=True)
        for source in (ROOT / "openenv_async", Path(str(msgspec.__file__)).parent):
            (self._path / source.name).symlink_to(source)

    def client(self, name: str) -> list[str]:
        """The command of a worker."""
        if name == "theirs":
            return [self._python, "-m", "benchmarks.openenv_client"]
        return [sys.executable, "-m", "benchmarks.sdk_client"]

    def server(self, name: str, port: int) -> list[str]:
        """The command of a server."""
        app = "blocking_app" if name.startswith("blocking-") else "app"
        target = f"benchmarks.openenv_server:{app}"
        where = ["--host", "127.0.0.1", "--port", str(port)]
        serve = ["-m", "openenv_async.cli", "serve"]
        most = ["--max-sessions", _MOST_SESSIONS]
        if name.endswith("theirs"):
            return [self._python, "-m", "uvicorn", target, *where]
        if name == "ours":
            ours = "benchmarks.sdk_environment:BenchEnvironment"
            return [sys.executable, *serve, ours, *where, *most]
        where_it_runs = ["--execution", "inline"] if name.endswith("inline") else []
        # `env` becomes the server: it is the process whose memory is read.
        variables = ["env", f"PYTHONPATH={self._path}"]
        hosted = f"openenv:{target}"
        return [
            *(*variables, self._python, *serve, hosted),
            *(*where, *most, *where_it_runs),
        ]
