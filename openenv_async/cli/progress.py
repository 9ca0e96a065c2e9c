"""How `rollout` shows where it stands: a live table, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..rollout.episodes import Episode
from ..rollout.timing import RunStatistics

__all__ = ["Seen", "Show", "shown", "table_of"]

_RECENT: Final = 100
"""Episodes that the recent return looks at."""
_LINE_EVERY: Final = 5.0
"""Seconds between lines where nobody watches a terminal."""


class Seen:
    """What was recorded so far."""

    def __init__(self) -> None:
        self.count = self.failed = self.resumed = 0
        self._returns = 0
        self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, episode: Episode[Any, Any]) -> None:
        """An episode is there to stay."""
        self.count += 1
        self.failed += episode.failed
        if episode.return_ is not None:
            self._returns += 1
            self._sum += episode.return_
            self._recent.append(episode.return_)

    @property
    def mean_return(self) -> float | None:
        """Of the episodes that have one; None without any."""
        return self._sum / self._returns if self._returns else None

    @property
    def recent_return(self) -> float | None:
        """The same for the latest hundred."""
        return sum(self._recent) / len(self._recent) if self._recent else None


Show = Callable[[RunStatistics, Seen], None]


@contextmanager
def shown() -> Generator[Show]:
    """A table where somebody watches a terminal, and plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        yield lambda state, seen: live.update(table_of(state, seen))


class _Lines:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY

    def __call__(self, state: RunStatistics, seen: Seen) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_EVERY
        parts = [
            f"{seen.count} episodes",
            f"{state.steps} steps",
            f"{state.steps_per_second:.0f} steps/s",
            f"{seen.failed} failed",
        ]
        if seen.recent_return is not None:
            parts.append(f"return {seen.recent_return:.4g}")
        if state.bottleneck is not None:
            parts.append(state.bottleneck.text)
        print(", ".join(parts), file=sys.stderr, flush=True)


def table_of(state: RunStatistics, seen: Seen) -> Group:
    """Where a rollout stands, for a terminal."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    before = f" (and {seen.resumed} from before)" if seen.resumed else ""
    table.add_row("episodes", f"{seen.count} recorded{before}, {state.live} running")
    table.add_row(
        "speed",
        f"{state.steps_per_second:.0f} steps/s, "
        f"{state.episodes_per_second:.1f} episodes/s, {state.elapsed:.0f} s",
    )
    if seen.mean_return is not None and seen.recent_return is not None:
        table.add_row(
            "return",
            f"{seen.mean_return:.4g}, latest {_RECENT}: {seen.recent_return:.4g}",
        )
    step, policy = state.step_latency, state.policy_latency
    table.add_row(
        "latency",
        f"step {step.p50 * 1e3:.1f} ms, p99 {step.p99 * 1e3:.1f}; "
        f"policy {policy.p50 * 1e3:.1f}, p99 {policy.p99 * 1e3:.1f}",
    )
    for label, count in state.outcomes.items():
        failed = label.partition(":")[0].endswith("_failed")
        table.add_row("", Text(f"{count} {label}", style="red" if failed else ""))
    if state.retries:
        table.add_row("retries", str(state.retries))
    if state.slowest:
        slow = state.slowest[0]
        table.add_row(
            "slowest", f"{slow.episode}: {slow.phase} for {slow.seconds:.1f} s"
        )
    verdict = "" if state.bottleneck is None else state.bottleneck.text
    return Group(table, Text(verdict, style="yellow"))
