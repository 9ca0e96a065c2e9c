"""Rounds of containers: every contender takes its turn in every scenario.

As in `rounds`, but servers are containers, and a case may start its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fnmatch
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.cases import Case
from benchmarks.container_cases import container_scenarios
from benchmarks.container_engine import docker_run, served
from benchmarks.container_images import Images
from benchmarks.meter import Job
from benchmarks.processes import BenchmarkError, Worker, listening, running
from benchmarks.rounds import Outcome
from openenv_async.errors import OpenEnvError
from openenv_async.providers import DockerProvider

__all__ = ["ContainerSettings", "play_containers"]

_CASE_SECONDS: Final = 90.0
"""Set-up and tear-down of one case, at most; measuring comes on top."""
_SELF_STARTING: Final = ("start", "place", "spare")
"""Modes that start what they need."""
_MODULES: Final = {
    "sdk": "benchmarks.container_sdk",
    "sdk-local": "benchmarks.container_sdk",
    "bare": "benchmarks.container_bare",
    "openenv": "benchmarks.container_openenv",
}
_Say: TypeAlias = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """How much to measure, and of whom."""

    rounds: int
    seconds: float
    warmup: float
    only: str
    """Glob over the keys of the cases."""
    openenv_python: Path | None
    """None leaves OpenEnv out."""

    def wants(self, case: Case) -> bool:
        """Tell whether a case is to be measured."""
        possible = case.contender != "openenv" or self.openenv_python is not None
        return possible and fnmatch.fnmatchcase(case.key, self.only)


async def play_containers(
    number: int, settings: ContainerSettings, images: Images, say: _Say
) -> tuple[Outcome, dict[str, str]]:
    """Play one round, and return metrics and errors by case.

    Args:
        number: Rotates who goes first in a scenario.
        settings: How much to measure.
        images: What is started.
        say: Told about progress.
    """
    with tempfile.TemporaryDirectory(prefix="oe-bench-") as folder:
        async with contextlib.AsyncExitStack() as stack:
            this = _Round(stack, Path(folder), settings, images, say)
            for scenario in container_scenarios():
                start = number % len(scenario)
                for case in (*scenario[start:], *scenario[:start]):
                    if settings.wants(case):
                        await this.play(case)
    return this.outcome, this.errors


class _Round:
    """Servers and workers of one round, started when they are first needed."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        folder: Path,
        settings: ContainerSettings,
        images: Images,
        say: _Say,
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._settings = settings
        self._images = images
        self._say = say
        self._urls: dict[tuple[str, str, str], str] = {}
        self._workers: dict[str, Worker] = {}
        self.outcome: Outcome = {}
        self.errors: dict[str, str] = {}

    async def play(self, case: Case) -> None:
        """Measure one case; a failure is noted, and costs only this case."""
        try:
            metrics = await self._ask(case, await self._url(case))
        except (BenchmarkError, OpenEnvError, TimeoutError, OSError) as error:
            self.errors[case.key] = str(error) or type(error).__name__
            self._say(f"  {case.key}: {self.errors[case.key].splitlines()[-1]}")
            return
        self.outcome[case.key] = metrics
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in metrics.items())
        self._say(f"  {case.key}: {shown}")

    async def _ask(self, case: Case, url: str) -> dict[str, float]:
        job = Job(
            case=case,
            url=url,
            server_pid=0,
            seconds=self._settings.seconds,
            warmup=self._settings.warmup,
        )
        module = _MODULES[case.contender]
        worker = self._workers.get(module) or await self._start_worker(module)
        self._workers[module] = worker
        try:
            return await worker.ask(job, timeout=_CASE_SECONDS + 5 * job.seconds)
        except (TimeoutError, BenchmarkError):
            # After a timeout it cannot be used again, and it may have ended.
            del self._workers[module]
            raise

    async def _start_worker(self, module: str) -> Worker:
        log = self._folder / f"worker-{module}.log"
        is_theirs = module == _MODULES["openenv"]
        python = str(self._settings.openenv_python if is_theirs else sys.executable)
        process = await self._stack.enter_async_context(
            running((python, "-m", module), log=log, is_worker=True)
        )
        return Worker(process, log)

    async def _url(self, case: Case) -> str:
        """Where the case's server is, or for a case that starts one, its image."""
        if case.mode in _SELF_STARTING:
            return self._images.of(case.contender, case.payload)
        key = (case.contender, case.payload, case.transport)
        if key not in self._urls:
            self._urls[key] = await self._stack.enter_async_context(self._serving(case))
            # Let it finish what it does after it answers.
            await asyncio.sleep(self._settings.warmup)
        return self._urls[key]

    @contextlib.asynccontextmanager
    async def _serving(self, case: Case) -> AsyncIterator[str]:
        match case.contender:
            case "sdk-local":
                path, log = self._folder / "local.sock", self._folder / "local.log"
                serve = (sys.executable, "-m", "openenv_async.cli", "serve")
                async with running(
                    (*serve, "coding_env", "--uds", str(path)), log=log
                ) as process:
                    await listening(process, path, log)
                    yield f"ws+unix://{path}"
            case "openenv":
                image = self._images.of("openenv", case.payload)
                async with docker_run(image) as port:
                    await served(port)
                    yield f"ws://127.0.0.1:{port}"
            case _:
                provider = DockerProvider(
                    self._images.of("sdk", case.payload), connection=case.transport
                )
                try:
                    yield (await provider.start()).url
                finally:
                    await provider.stop()
