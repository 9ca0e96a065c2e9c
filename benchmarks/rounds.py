"""Rounds: every contender takes its turn in every scenario."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fnmatch
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.cases import Case, scenarios
from benchmarks.contenders import Contenders
from benchmarks.imports import imports
from benchmarks.meter import Job, Metrics
from benchmarks.processes import (
    Address,
    BenchmarkError,
    Worker,
    free_port,
    listening,
    output_of,
    running,
)

__all__ = ["Outcome", "Settings", "play_round"]

Outcome = dict[str, Metrics]
"""Metrics of one round, by the key of the case."""

_CASE_SECONDS = 60.0
"""Set-up and tear-down of one case, at most; measuring comes on top."""
_Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How much to measure."""

    rounds: int
    seconds: float
    warmup: float
    idle_sdk: int
    idle_openenv: int
    only: str
    """Glob over the keys of the cases."""


async def play_round(
    number: int,
    settings: Settings,
    contenders: Contenders,
    say: _Say,
) -> tuple[Outcome, dict[str, str]]:
    """Play one round, and return metrics and errors by case.

    Args:
        number: Rotates who goes first in a scenario.
        settings: How much to measure.
        contenders: How to start them.
        say: Told about progress.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="oe-bench-"))
        this = _Round(stack, Path(folder), settings, contenders, say)
        await this.alone()
        for scenario in scenarios(
            idle_sdk=settings.idle_sdk, idle_openenv=settings.idle_openenv
        ):
            for case in _rotated(scenario, number):
                await this.play(case)
        return this.outcome, this.errors
    raise AssertionError  # pragma: no cover (for mypy: the stack swallows nothing)


def _rotated(scenario: Sequence[Case], by: int) -> Iterable[Case]:
    start = by % len(scenario)
    return (*scenario[start:], *scenario[:start])


class _Round:
    """Servers and workers of one round, started when they are first needed."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        folder: Path,
        settings: Settings,
        contenders: Contenders,
        say: _Say,
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._settings = settings
        self._contenders = contenders
        self._say = say
        self._servers: dict[str, tuple[int, str]] = {}
        self._broken: dict[str, BenchmarkError] = {}
        self._workers: dict[tuple[str, ...], Worker] = {}
        self.outcome: Outcome = {}
        self.errors: dict[str, str] = {}

    async def alone(self) -> None:
        """Measure what needs no server: the kernel, and imports."""
        if self._wanted("kernel"):
            async with self._noting("kernel"):
                seconds = str(self._settings.seconds / 2)
                command = [sys.executable, "-m", "benchmarks.kernel"]
                found = await output_of([*command, "--seconds", seconds])
                self._note_all(json.loads(found))
        for statement in imports(self._contenders.openenv_python):
            if self._wanted(statement.key):
                async with self._noting(statement.key):
                    self._note_all({statement.key: await statement.measure()})

    async def play(self, case: Case) -> None:
        """Measure one case; a failure is noted, and costs only this case."""
        if not self._wanted(case.key) or not self._possible(case):
            return
        async with self._noting(case.key), contextlib.AsyncExitStack() as stack:
            if case.mode == "idle":
                # Memory that was used before would hide what a session takes.
                server = await self._start_server(stack, case)
            else:
                server = await self._server(case)
            self._note_all({case.key: await self._ask(case, *server)})

    @contextlib.asynccontextmanager
    async def _noting(self, key: str) -> AsyncIterator[None]:
        try:
            yield
        except (BenchmarkError, TimeoutError, OSError) as error:
            self.errors[key] = str(error) or type(error).__name__
            self._say(f"  {key}: {self.errors[key].splitlines()[-1]}")

    def _wanted(self, key: str) -> bool:
        return fnmatch.fnmatchcase(key, self._settings.only)

    def _possible(self, case: Case) -> bool:
        return case.contender != "openenv" or bool(self._contenders.openenv_python)

    def _note_all(self, found: Outcome) -> None:
        self.outcome |= found
        for key, metrics in found.items():
            shown = ", ".join(f"{name} {value:,.4g}" for name, value in metrics.items())
            self._say(f"  {key}: {shown}")

    async def _ask(self, case: Case, pid: int, url: str) -> Metrics:
        job = Job(
            case=case,
            url=url,
            server_pid=pid,
            seconds=self._settings.seconds,
            warmup=self._settings.warmup,
        )
        command = self._contenders.worker(case)
        worker = self._workers.get(command) or await self._start_worker(command)
        self._workers[command] = worker
        try:
            # Stretched windows, and repetitions that overrun, are counted in.
            return await worker.ask(job, timeout=_CASE_SECONDS + 5 * job.seconds)
        except TimeoutError:
            del self._workers[command]
            raise

    async def _start_worker(self, command: Sequence[str]) -> Worker:
        log = self._folder / f"worker-{command[2]}.log"
        process = await self._stack.enter_async_context(
            running(command, log=log, is_worker=True)
        )
        return Worker(process, log)

    async def _server(self, case: Case) -> tuple[int, str]:
        key = self._contenders.server_key(case)
        if not key:
            return 0, ""
        if key in self._broken:
            raise self._broken[key]
        if key not in self._servers:
            try:
                self._servers[key] = await self._start_server(self._stack, case)
            except BenchmarkError as error:
                self._broken[key] = error
                raise
        return self._servers[key]

    async def _start_server(
        self, stack: contextlib.AsyncExitStack, case: Case
    ) -> tuple[int, str]:
        key = self._contenders.server_key(case)
        is_unix = case.transport == "unix"
        address: Address = self._folder / f"{key}.sock" if is_unix else free_port()
        plan = self._contenders.server(case, address)
        log = self._folder / f"{key}.log"
        process = await stack.enter_async_context(running(plan.argv, log=log))
        await listening(process, address, log)
        # Let it finish what it does after it listens.
        await asyncio.sleep(self._settings.warmup)
        return process.pid, plan.url
