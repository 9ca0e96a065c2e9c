"""Play 256 CartPole episodes over one WebSocket and show where the time goes.

What `openenv-async rollout` does for anybody, done by hand: it starts a server of its
own on a Unix socket, steps whichever sessions are ready with a hand-written policy, and
records every episode as one line of JSON under runs/. `examples/show_episode.py` shows
one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter_ns
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gymnasium_env import GymnasiumAction, GymnasiumEnv, GymnasiumObservation
from openenv_async import Array, Failure, LocalProvider, OpenEnvError, StepResult

__all__: list[str] = []

TARGET = "gymnasium_env?id=CartPole-v1"
MAX_STEPS = 500
"""CartPole's own time limit."""

PHASES = {
    "environment": "in CartPole's code",
    "queue": "on the server, behind other sessions",
    "wire": "encoding, sockets, both event loops",
    "policy": "choosing actions",
    "client": "recording, and waiting for enough sessions",
}
"""Where a session's time goes."""

LEFT, RIGHT = (GymnasiumAction(action=action) for action in (0, 1))

Result = StepResult[GymnasiumObservation] | Failure


class Policy:
    """Pushes the cart to where the pole falls, but not always.

    Without noise every episode would last until its time is up.
    """

    weights = np.array([0.1, 0.3, 1.5, 1.0])
    """For position, velocity, angle and angular velocity."""

    def __init__(self, seed: int, noise: float = 0.5) -> None:
        self._random = np.random.default_rng(seed)
        self._noise = noise

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.int8]:
        noise = self._noise * self._random.standard_normal(len(observations))
        chosen: NDArray[np.int8] = (observations @ self.weights + noise > 0).astype("b")
        return chosen


class Episodes:
    """What happens in all sessions; every episode that ends is written at once.

    Args:
        seeds: One for each session.
        file: Takes a line for each episode.
    """

    def __init__(self, seeds: Sequence[int], file: BinaryIO) -> None:
        size = len(seeds)
        self.seeds = seeds
        self.file = file
        self.steps = np.zeros(size, np.int64)
        self.observations = np.zeros((size, MAX_STEPS + 1, 4), np.float32)
        self.actions = np.zeros((size, MAX_STEPS), np.int8)
        self.rewards = np.zeros((size, MAX_STEPS))
        self.phases = np.zeros((size, len(PHASES)), np.int64)
        self.sent = np.zeros(size, np.int64)
        self.round_trips = np.zeros((size, MAX_STEPS), np.int64)
        self.started = self.ended = perf_counter_ns()
        self.total_steps = 0
        self.total_reward = 0.0
        self.returns: list[float] = []
        self.ends: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    # What the policy sees and does

    def take(
        self, indices: Sequence[int], results: Sequence[Result]
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Record results; returns the sessions that go on and what they see."""
        good: list[tuple[int, StepResult[GymnasiumObservation]]] = []
        for index, result in zip(indices, results, strict=True):
            if isinstance(result, Failure):
                self._fail(index, result.error)
            else:
                good.append((index, result))
        if not good:
            return [], np.empty((0, 4), np.float32)
        places = np.array([index for index, _ in good])
        seen = stack([result for _, result in good])
        self.observations[places, self.steps[places]] = seen
        if good[0][1].is_reset:
            return places.tolist(), seen
        steps = self.steps[places] - 1
        rewards = np.array([result.observation.reward for _, result in good], float)
        self.rewards[places, steps] = rewards
        took = [
            (one.environment_ns, one.queue_ns, one.round_trip_ns) for _, one in good
        ]
        times = np.array(took)
        self.round_trips[places, steps] = times[:, 2]
        times[:, 2] = np.maximum(times[:, 2] - times[:, 0] - times[:, 1], 0)
        self.phases[places, :3] += times
        self.total_steps += len(good)
        self.total_reward += float(rewards.sum())
        going = np.array([not result.observation.done for _, result in good])
        for (index, result), goes_on in zip(good, going.tolist(), strict=True):
            if not goes_on:
                self._finish(index, result)
        return places[going].tolist(), seen[going]

    def send(self, indices: list[int], actions: NDArray[np.int8], policy: int) -> None:
        """Record actions, just before they are sent.

        `policy` is how many nanoseconds it took to choose them.
        """
        places = np.array(indices)
        now = perf_counter_ns()
        first = self.steps[places] == 0
        last = self.round_trips[places, self.steps[places] - 1]
        idle = np.where(first, policy, now - self.sent[places] - last)
        self.phases[places, 3] += policy
        self.phases[places, 4] += np.maximum(idle - policy, 0)
        self.actions[places, self.steps[places]] = actions
        self.steps[places] += 1
        self.sent[places] = now

    # The end of an episode

    def _finish(self, index: int, result: StepResult[GymnasiumObservation]) -> None:
        total = float(self.rewards[index, : self.steps[index]].sum())
        self.returns.append(total)
        self.ends["terminated" if result.terminated else "truncated"] += 1
        self._write(index, int(self.steps[index]), result=result, total=total)

    def _fail(self, index: int, error: OpenEnvError) -> None:
        """A failure is no reward: the episode has no return."""
        kind = f"{type(error).__name__} ({error.code})"
        self.failures[kind] += 1
        # The step that failed has an action but no reward.
        steps = max(0, int(self.steps[index]) - 1)
        self._write(index, steps, error=error)

    def _write(
        self,
        index: int,
        steps: int,
        *,
        result: StepResult[GymnasiumObservation] | None = None,
        total: float | None = None,
        error: OpenEnvError | None = None,
    ) -> None:
        self.ended = perf_counter_ns()
        names = ("code", "message", "executed")
        line = {
            "seed": self.seeds[index],
            "steps": steps,
            "return": total,
            "terminated": result is not None and result.terminated,
            "truncated": result is not None and result.truncated,
            "failure": error and {name: getattr(error, name) for name in names},
            "observations": self.observations[index, : steps + 1].tolist(),
            "actions": self.actions[index, : self.steps[index]].tolist(),
            "rewards": self.rewards[index, :steps].tolist(),
            "timing_ms": dict(
                zip(PHASES, (self.phases[index] / 1e6).round(3).tolist(), strict=True)
            ),
            "step_ms": (self.round_trips[index, :steps] / 1e6).round(3).tolist(),
        }
        self.file.write(msgspec.json.encode(line) + b"\n")

    # Numbers

    @property
    def finished(self) -> int:
        """Episodes that ended, well or not."""
        return sum(self.ends.values()) + sum(self.failures.values())

    def rate(self) -> float:
        """Steps a second since the first reset."""
        return self.total_steps / max(perf_counter_ns() - self.started, 1) * 1e9

    def latency(self) -> tuple[float, float]:
        """Median and 99th percentile of a step's round trip, in milliseconds."""
        times = self.round_trips[self.round_trips > 0]
        if not times.size:
            return 0.0, 0.0
        p50, p99 = np.percentile(times, [50, 99]) / 1e6
        return float(p50), float(p99)

    def shares(self) -> dict[str, float]:
        """Percentage of the sessions' time in each phase."""
        sums = self.phases.sum(axis=0)
        percent = 100 * sums / max(int(sums.sum()), 1)
        return dict(zip(PHASES, percent.tolist(), strict=True))


def stack(results: Sequence[StepResult[GymnasiumObservation]]) -> NDArray[np.float32]:
    """Put what several sessions see into one array, with one copy."""
    rows = [result.observation.observation for result in results]
    joined = b"".join([row.data for row in rows if isinstance(row, Array)])
    return np.frombuffer(joined, np.float32).reshape(len(rows), 4)


# What the terminal shows


class Display:
    """A live table in a terminal, a line a second elsewhere.

    Args:
        console: Where to.
        episodes: What to show.
    """

    def __init__(self, console: Console, episodes: Episodes) -> None:
        self._console = console
        self._episodes = episodes
        self._live: Live | None = None
        self._next = 0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Show the numbers, if it is time to."""
        now = perf_counter_ns()
        if now < self._next:
            return
        self._next = now + (1_000_000_000 if self._live is None else 125_000_000)
        shown = numbers(self._episodes)
        if self._live is None:
            for name, share in self._episodes.shares().items():
                shown[name] = f"{share:.0f} %"
            text = ", ".join(f"{name} {number}" for name, number in shown.items())
            self._console.print(text, highlight=False, soft_wrap=True)
        else:
            self._live.update(panel(self._episodes, shown), refresh=True)


def numbers(episodes: Episodes) -> dict[str, str]:
    """What both displays show."""
    p50, p99 = episodes.latency()
    return {
        "episodes done": f"{episodes.finished} of {len(episodes.seeds)}",
        "steps/s": f"{episodes.rate():,.0f}",
        "reward so far": f"{episodes.total_reward:,.0f}",
        "failures": str(sum(episodes.failures.values())),
        "latency of a step": f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
    }


def panel(episodes: Episodes, shown: dict[str, str]) -> Group:
    """The numbers as a table, with bars."""
    table = Table.grid(padding=(0, 2))
    for name, text in shown.items():
        table.add_row(name, Text(text, style="bold"))
    for name, share in episodes.shares().items():
        bar = ProgressBar(100, share, width=30)
        table.add_row(f"time: {name}", Columns([bar, f"{share:.0f} %"]))
    total = len(episodes.seeds)
    return Group(ProgressBar(total, episodes.finished, width=60), table)


def summary(episodes: Episodes) -> Table:
    """What came out in the end."""
    table = Table(title="CartPole-v1", show_header=False, title_justify="left")
    ends = sorted(episodes.ends.items())
    failed = episodes.failures.most_common()
    table.add_row("episodes", ", ".join(f"{count} {end}" for end, count in ends))
    table.add_row("failed", ", ".join(f"{n} {kind}" for kind, n in failed) or "none")
    missing = len(episodes.seeds) - episodes.finished
    if missing:
        table.add_row("unfinished", str(missing))
    if returns := episodes.returns:
        mean, middle = statistics.fmean(returns), statistics.median(returns)
        spread = f"from {min(returns):.0f} to {max(returns):.0f}"
        table.add_row("return", f"mean {mean:.1f}, median {middle:.0f}, {spread}")
    seconds = max(episodes.ended - episodes.started, 1) / 1e9
    rate = episodes.total_steps / seconds
    steps = f"{episodes.total_steps:,} in {seconds:.2f} s: {rate:,.0f} steps/s"
    table.add_row("steps", steps)
    p50, p99 = episodes.latency()
    table.add_row("latency of a step", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    for name, share in episodes.shares().items():
        table.add_row(f"time: {name}", f"{share:5.1f} %  {PHASES[name]}")
    busy = episodes.phases[:, 0].sum() / 1e9 / seconds
    table.add_row("CartPole itself", f"ran {100 * busy:.0f} % of the time, on one core")
    return table


# The run


async def play(url: str, sockets: int, episodes: Episodes, display: Display) -> None:
    """Play every session to the end of its episode."""
    policy = Policy(seed=0)
    size = len(episodes.seeds)
    async with GymnasiumEnv.batch(
        url, size=size, sockets=sockets, reconnect_timeout=5.0
    ) as envs:

        def act(indices: Sequence[int], results: Sequence[Result]) -> None:
            going, seen = episodes.take(indices, results)
            if going:
                before = perf_counter_ns()
                actions = policy(seen)
                episodes.send(going, actions, perf_counter_ns() - before)
                envs.send(going, [RIGHT if action else LEFT for action in actions])

        results = await envs.reset(seeds=episodes.seeds)
        episodes.started = perf_counter_ns()
        act(range(size), results)
        # Half of the sessions at a time: while the policy looks at these, the server
        # steps the others.
        async for ready in envs.ready(min=max(1, size // 2), timeout=0.005):
            act(ready.indices, ready.results)
            display.update()


async def run(console: Console, episodes: Episodes, sockets: int) -> None:
    """Serve, play and clean up."""
    provider = LocalProvider(TARGET, execution="inline")
    served = await provider.start()
    try:
        socket = shlex.quote(served.url.removeprefix("ws+unix://"))
        for path in ("health", "metadata"):
            command = f"curl --unix-socket {socket} http://localhost/{path}"
            console.print(command, style="dim", soft_wrap=True, highlight=False)
        with Display(console, episodes) as display:
            await play(served.url, sockets, episodes, display)
    finally:
        await provider.stop()


def main() -> int:
    """Play, and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--sockets", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the first session")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    chosen = parser.parse_args()
    console = Console()
    folder: Path = chosen.runs / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    path = folder / "episodes.jsonl"
    seeds = range(chosen.seed, chosen.seed + chosen.sessions)
    with path.open("wb") as file:
        episodes = Episodes(seeds, file)
        try:
            asyncio.run(run(console, episodes, chosen.sockets))
        except (KeyboardInterrupt, OpenEnvError) as error:
            why = str(error) or "interrupted"
            console.print(f"stopped early: {why}", style="bold red", markup=False)
    console.print(summary(episodes))
    console.print(f"episodes: {path}", soft_wrap=True)
    script = Path(__file__).with_name("show_episode.py")
    show = [sys.executable, str(script), str(path), str(chosen.seed)]
    console.print(f"look at one: {shlex.join(show)}", soft_wrap=True)
    return 0 if sum(episodes.ends.values()) == len(seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
