"""The floors of rollouts: `python -m benchmarks.rollout --help`.

- What the collector costs per step on top of the SDK's own batch, in one run.
- Whether memory stays flat over many episodes.
- What share of the time a policy is kept busy when environments have a long tail, and
  what share by a loop that waits for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from benchmarks import results
from benchmarks.meter import resident_bytes
from benchmarks.rollout_environment import (
    QuickEnv,
    TailedEnv,
    WalkAction,
    WalkObservation,
)
from openenv_async import Failure, LocalProvider
from openenv_async.client import EnvBatch
from openenv_async.rollout import Batching, Collector, CollectorOptions, Task

_SERVED = tuple(
    f"benchmarks.rollout_environment:{name}"
    for name in ("QuickEnvironment", "TailedEnvironment")
)
_ACTION = WalkAction(move=1)
_LENGTH = 100
"""Steps of an episode where the cost of a step is measured."""
_BATCH = 64
_THINKING = 0.02
"""Seconds that the policy takes for a batch."""
_MEGABYTE = 1 << 20


class NoOpPolicy:
    """Answers at once, always the same."""

    async def act_batch(
        self, observations: Sequence[WalkObservation]
    ) -> list[WalkAction]:
        """Move on."""
        return [_ACTION] * len(observations)


class SlowPolicy(NoOpPolicy):
    """Takes as long as a model does, and counts that time."""

    def __init__(self) -> None:
        self.busy = 0.0
        self.served = 0
        self.calls = 0

    async def act_batch(
        self, observations: Sequence[WalkObservation]
    ) -> list[WalkAction]:
        """Think, then move on."""
        begin = time.perf_counter()
        await asyncio.sleep(_THINKING)
        self.busy += time.perf_counter() - begin
        self.served += len(observations)
        self.calls += 1
        return await super().act_batch(observations)


# What a step costs


async def overhead(provider: LocalProvider, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the batch alone and the collector on it, alternately."""
    alone: list[_Cost] = []
    collected: list[_Cost] = []
    async with QuickEnv.batch(provider=provider, size=args.concurrency) as batch:
        for _ in range(args.rounds):
            alone.append(await _alone(batch, args.steps))
            collected.append(await _collected(batch, args.steps))
    return {
        "concurrency": args.concurrency,
        "steps": args.steps,
        "rounds": args.rounds,
        # Of CPU, because the wall clock also shows what else the machine does.
        "sdk_us": statistics.median(cost.cpu_us for cost in alone),
        "collector_us": statistics.median(cost.cpu_us for cost in collected),
        "overhead_us": statistics.median(
            whole.cpu_us - plain.cpu_us
            for plain, whole in zip(alone, collected, strict=True)
        ),
        "sdk_wall_us": statistics.median(cost.wall_us for cost in alone),
        "collector_wall_us": statistics.median(cost.wall_us for cost in collected),
        "overhead_wall_us": statistics.median(
            whole.wall_us - plain.wall_us
            for plain, whole in zip(alone, collected, strict=True)
        ),
    }


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Microseconds of this process per step."""

    cpu_us: float
    wall_us: float


class _Stopwatch:
    def __init__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def cost(self, steps: int) -> _Cost:
        wall, cpu = self._begin
        return _Cost(
            cpu_us=(time.process_time() - cpu) / steps * 1e6,
            wall_us=(time.perf_counter() - wall) / steps * 1e6,
        )


async def _alone(batch: EnvBatch[Any, Any, Any], steps: int) -> _Cost:
    """What a loop costs that does the same with the batch alone."""
    options = {"length": _LENGTH}
    await batch.reset(options=options)
    policy = NoOpPolicy()
    watch = _Stopwatch()
    batch.send(range(len(batch)), [_ACTION] * len(batch))
    done = 0
    async for ready in batch.ready():
        ended, going, seen = [], [], []
        for place, result in zip(ready.indices, ready.results, strict=True):
            assert not isinstance(result, Failure), result.error
            done += not result.is_reset and 1
            if result.observation.terminated:
                ended.append(place)
            else:
                going.append(place)
                seen.append(result.observation)
        if done >= steps:
            continue
        if ended:
            batch.send_reset(ended, options=options)
        if going:
            batch.send(going, await policy.act_batch(seen))
    return watch.cost(done)


async def _collected(batch: EnvBatch[Any, Any, Any], steps: int) -> _Cost:
    """What the collector costs."""
    tasks = (
        Task(id=str(number), options={"length": _LENGTH})
        for number in range(steps // _LENGTH)
    )
    done = 0
    watch = _Stopwatch()
    async with Collector(
        batch, NoOpPolicy(), tasks, CollectorOptions(batching=Batching(max=None))
    ) as collector:
        async for episode in collector:
            assert not episode.failed, episode.outcome
            done += episode.length
    return watch.cost(done)


# Memory


async def memory(provider: LocalProvider, args: argparse.Namespace) -> dict[str, Any]:
    """Collect many short episodes, and look at this process's memory on the way."""
    length, samples = 5, []
    tasks = (
        Task(id=str(number), options={"length": length})
        for number in range(args.episodes)
    )
    count = 0
    begin = time.perf_counter()
    async with Collector(
        QuickEnv.batch(provider=provider, size=args.concurrency), NoOpPolicy(), tasks
    ) as collector:
        async for episode in collector:
            assert episode.length == length
            count += 1
            if count % max(1, args.episodes // 10) == 0:
                gc.collect()
                samples.append(resident_bytes(os.getpid()) / _MEGABYTE)
    return {
        "episodes": count,
        "seconds": time.perf_counter() - begin,
        "resident_mb": [round(sample, 1) for sample in samples],
        "growth_mb": samples[-1] - samples[0],
    }


# How busy the policy is kept


async def busy(provider: LocalProvider, args: argparse.Namespace) -> dict[str, Any]:
    """Compare the collector with a loop that waits for all environments."""
    found: dict[str, Any] = {"sessions": args.tailed, "seconds": args.seconds}
    async with TailedEnv.batch(provider=provider, size=args.tailed) as batch:
        found["collector"] = await _collector_busy(batch, args.seconds)
        found["lock_step"] = await _lock_step_busy(batch, args.seconds)
    return found


async def _collector_busy(
    batch: EnvBatch[Any, Any, Any], seconds: float
) -> dict[str, float]:
    policy = SlowPolicy()
    tasks = (Task(id=str(number), options={"length": 20}) for number in range(10**9))
    async with Collector(
        batch, policy, tasks, CollectorOptions(batching=Batching(max=_BATCH))
    ) as collector:
        begin = time.perf_counter()
        async for _ in collector:
            if time.perf_counter() - begin > seconds:
                break
        found = _share(policy, time.perf_counter() - begin)
        found["reported_busy"] = collector.statistics().policy_busy
        return found


async def _lock_step_busy(
    batch: EnvBatch[Any, Any, Any], seconds: float
) -> dict[str, float]:
    """Step all environments together, as a vector environment does."""
    policy = SlowPolicy()
    results_ = await batch.reset(seeds=0)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        actions: list[WalkAction] = []
        for first in range(0, len(results_), _BATCH):
            part = [
                result.observation
                for result in results_[first : first + _BATCH]
                if not isinstance(result, Failure)
            ]
            actions += await policy.act_batch(part)
        results_ = await batch.step(actions)
    return _share(policy, time.perf_counter() - begin)


def _share(policy: SlowPolicy, elapsed: float) -> dict[str, float]:
    return {
        "idle_share": 1 - policy.busy / elapsed,
        "steps_per_s": policy.served / elapsed,
        "mean_batch": policy.served / max(1, policy.calls),
    }


# Command line

_LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
_PARTS = {"overhead": overhead, "memory": memory, "busy": busy}


async def _run(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        "commit": await results.commit(),
        "machine": await results.machine(None),
        "started": results.now(),
    }
    provider = LocalProvider(*_SERVED, max_sessions=8192)
    for name, part in _PARTS.items():
        if args.only in (None, name):
            found[name] = await part(provider, args)
    return found


def _table(found: dict[str, Any]) -> str:
    rows = [("what", "value", "floor")]
    if part := found.get("overhead"):
        rows += [
            ("batch alone, CPU us per step", f"{part['sdk_us']:.2f}", ""),
            ("collector on it, CPU us per step", f"{part['collector_us']:.2f}", ""),
            ("overhead, CPU us per step", f"{part['overhead_us']:.2f}", "< 15"),
            ("overhead, wall us per step", f"{part['overhead_wall_us']:.2f}", "< 15"),
        ]
    if part := found.get("memory"):
        rows.append(
            (
                f"memory growth over the last 90 % of {part['episodes']:,} episodes",
                f"{part['growth_mb']:.1f} MB",
                "flat",
            )
        )
    if part := found.get("busy"):
        rows += [
            (
                "policy idle, collector",
                f"{part['collector']['idle_share']:.1%}",
                "< 10 %",
            ),
            (
                "policy idle, lock-step loop",
                f"{part['lock_step']['idle_share']:.1%}",
                "> 50 %",
            ),
        ]
    return "\n".join(
        f"{what:<60} {value:>10} {floor:>8}" for what, value, floor in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout")
    parser.add_argument("--only", choices=tuple(_PARTS))
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200_000, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--tailed", type=int, default=512, help="sessions with a tail")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each loop")
    parser.add_argument("--loop", choices=tuple(_LOOPS), default="uvloop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print JSON and a table."""
    args = _parser().parse_args(argv)
    with asyncio.Runner(loop_factory=_LOOPS[args.loop]) as runner:
        found = runner.run(_run(args))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    sys.stderr.write(_table(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
