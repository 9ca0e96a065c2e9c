"""How fast one environment steps behind a server, with random valid actions."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from time import perf_counter, perf_counter_ns
from typing import Any, Final, Literal

import anyio
import msgspec

from .client import BatchResult, Failure, GenericEnv, StepResult
from .client.description import describe
from .errors import InvalidAction, LocalProtocolError, OpenEnvError
from .providers import LocalProvider
from .rollout.adapters.sampling import Sampler

__all__ = ["Speed", "SpeedReport", "measure_speed"]

_ACTIONS: Final = 512
"""Actions to draw beforehand, so that drawing them is not measured."""

Mode = Literal["awaited", "batched"]


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of stepping reached."""

    mode: Mode
    """`awaited`: each session by itself, with `await env.step`. `batched`: all sessions
    of a batch together, with `await envs.step`."""
    sessions: int
    steps: int
    """Steps that were answered; resets and failures are not among them."""
    resets: int
    seconds: float
    steps_per_second: float
    p50_ms: float
    """Half of the calls took less: a step's, or a whole batch's."""
    p99_ms: float
    environment_us: float
    """In the environment's own code, on average for a step."""
    queue_us: float
    """Waiting on the server for the environment."""
    failures: dict[str, int]
    """Calls that failed, by the error's class."""


class SpeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment reached, in each way of stepping."""

    url: str
    environment: str
    execution: str
    rows: list[Speed]


class _Meter:
    """Counts what happens while it runs."""

    def __init__(self, mode: Mode, sessions: int, seconds: float) -> None:
        self._mode: Mode = mode
        self._sessions = sessions
        self._began = perf_counter()
        self._ends = self._began + seconds
        self._times: list[int] = []
        self._steps = self._resets = 0
        self._environment_ns = self._queue_ns = 0
        self._failures: Counter[str] = Counter()

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return perf_counter() >= self._ends

    def reset(self, count: int = 1) -> None:
        """Count resets."""
        self._resets += count

    def call(self, began_ns: int) -> None:
        """Count a call's time."""
        self._times.append(perf_counter_ns() - began_ns)

    def step(self, result: StepResult[Any]) -> None:
        """Count a step."""
        self._steps += 1
        self._environment_ns += result.environment_ns
        self._queue_ns += result.queue_ns

    def fail(self, error: OpenEnvError) -> None:
        """Count a failure."""
        self._failures[type(error).__name__] += 1

    def speed(self) -> Speed:
        """Sum up."""
        seconds = perf_counter() - self._began
        times = sorted(self._times) or [0]
        return Speed(
            mode=self._mode,
            sessions=self._sessions,
            steps=self._steps,
            resets=self._resets,
            seconds=round(seconds, 3),
            steps_per_second=round(self._steps / seconds, 1),
            p50_ms=round(times[len(times) // 2] / 1e6, 4),
            p99_ms=round(times[len(times) * 99 // 100] / 1e6, 4),
            environment_us=round(self._environment_ns / max(1, self._steps) / 1e3, 2),
            queue_us=round(self._queue_ns / max(1, self._steps) / 1e3, 2),
            failures=dict(self._failures),
        )


async def measure_speed(
    target: str,
    *,
    environment: str | None = None,
    token: str | None = None,
    sessions: int = 64,
    seconds: float = 2.0,
    seed: int = 0,
    variables: dict[str, str] | None = None,
) -> SpeedReport:
    """Step as fast as it goes: one session, many sessions, a batch of as many.

    Episodes that end are reset, which takes part of the time. Actions are drawn from
    the schema, without what is optional in them.

    Args:
        target: The address of a server, or what `openenv-async serve` takes: then a
            server of its own is started on this machine.
        environment: Which of the server's environments; None takes its default.
        token: Bearer token.
        sessions: How many are many.
        seconds: For each way of stepping.
        seed: Of actions and episodes.
        variables: Environment variables for a server of its own.

    Raises:
        LocalProtocolError: A number is out of range, or no action can be drawn.
        OpenEnvError: There is no server, or it does not host the environment.
    """
    if sessions < 1 or not 0 < seconds < 3600:
        raise LocalProtocolError(
            f"expected at least one session and up to an hour, got {sessions} sessions "
            f"and {seconds} s"
        )
    async with _served(target, variables or {}) as url:
        about = await describe(url, environment=environment, token=token)
        sampler = Sampler(about.action, seed=seed, optional=0.0)
        actions = [sampler.sample() for _ in range(_ACTIONS)]
        options = {"environment": about.name, "token": token, "timeout": 60.0}
        load = _Load(url, options, actions, seed)
        rows = [await load.awaited(1, seconds)]
        if sessions > 1:
            rows.append(await load.awaited(sessions, seconds))
        rows.append(await load.batched(sessions, seconds))
    return SpeedReport(
        url=target,
        environment=about.name,
        execution=about.metadata.execution,
        rows=rows,
    )


@contextlib.asynccontextmanager
async def _served(target: str, variables: dict[str, str]) -> AsyncGenerator[str, None]:
    if "://" in target:
        yield target
        return
    server = await LocalProvider(target, environment=variables).start()
    try:
        yield server.url
    finally:
        with anyio.CancelScope(shield=True):
            await server.stop()


class _Load:
    """Steps one environment in different ways."""

    def __init__(
        self, url: str, options: dict[str, Any], actions: list[Any], seed: int
    ) -> None:
        self._url = url
        self._options = options
        self._actions = actions
        self._seed = seed

    def _from(self, place: int) -> Iterator[Any]:
        """All actions over and over, each session from another one on."""
        actions = itertools.cycle(self._actions)
        return itertools.islice(actions, place * 7 % len(self._actions), None)

    async def awaited(self, count: int, seconds: float) -> Speed:
        """Step sessions that do not wait for each other."""
        async with contextlib.AsyncExitStack() as stack:
            envs = [
                await stack.enter_async_context(GenericEnv(self._url, **self._options))
                for _ in range(count)
            ]
            for place, env in enumerate(envs):
                await env.reset(seed=self._seed + place)
            meter = _Meter("awaited", count, seconds)
            async with anyio.create_task_group() as group:
                for place, env in enumerate(envs):
                    group.start_soon(self._drive, env, place, meter)
            return meter.speed()

    async def _drive(self, env: GenericEnv, place: int, meter: _Meter) -> None:
        for action in self._from(place):
            if meter.is_over or not env.is_open:
                return
            began_ns = perf_counter_ns()
            try:
                result = await env.step(action)
            except OpenEnvError as error:
                meter.fail(error)
                is_over = not isinstance(error, InvalidAction)
            else:
                meter.call(began_ns)
                meter.step(result)
                is_over = result.done
            if is_over and env.is_open:
                with contextlib.suppress(OpenEnvError):
                    await env.reset(seed=self._seed + place)
                meter.reset()

    async def batched(self, count: int, seconds: float) -> Speed:
        """Step all sessions of a batch together."""
        async with GenericEnv.batch(self._url, size=count, **self._options) as envs:
            await envs.reset(seeds=self._seed)
            meter = _Meter("batched", count, seconds)
            sources = [self._from(place) for place in range(count)]
            while not meter.is_over:
                actions = [next(source) for source in sources]
                began_ns = perf_counter_ns()
                results = await envs.step(actions)
                meter.call(began_ns)
                over = [
                    place
                    for place, result in enumerate(results)
                    if _is_over(result, meter)
                ]
                if over:
                    meter.reset(len(over))
                    await envs.reset(indices=over)
            return meter.speed()


def _is_over(result: BatchResult[Any], meter: _Meter) -> bool:
    """Count a result; returns whether its session needs a reset."""
    if isinstance(result, Failure):
        meter.fail(result.error)
        return not isinstance(result.error, InvalidAction)
    meter.step(result)
    return result.done
