"""How `rollout` shows where it stands: a live table, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..rollout.episodes import Episode, Outcome, outcome_label
from ..rollout.timing import RunStatistics

__all__ = ["Seen", "Show", "shown", "table_of", "trouble"]

_TROUBLE_AFTER: Final = 0.5
"""Seconds that sessions have to be lost for before a line of its own says so."""
_RECENT: Final = 100
"""Episodes that the recent return looks at."""
_MESSAGE: Final = 300
"""Characters of a message."""
_LINE_EVERY: Final = 5.0
"""Seconds between lines where nobody watches a terminal."""


class Seen:
    """What was recorded so far."""

    def __init__(self) -> None:
        self.count = self.failed = self.resumed = self.steps = 0
        self.not_finite = 0
        """Episodes whose return is NaN or infinite, which counts as none."""
        self.outcomes: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        """What the first failure of each kind said, in one line."""
        self._returns = 0
        self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, episode: Episode[Any, Any]) -> None:
        """An episode is there to stay."""
        self.count += 1
        self.failed += episode.failed
        self.steps += episode.length
        label = outcome_label(episode.outcome)
        self.outcomes[label] += 1
        message = _said(episode.outcome)
        if message and label not in self.messages:
            self.messages[label] = _in_one_line(message)
        if episode.return_ is not None and not episode.has_return:
            self.not_finite += 1
        elif episode.return_ is not None:
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


def _said(outcome: Outcome) -> str:
    """What a failure said; if that was nothing, where its exception was raised."""
    if message := getattr(outcome, "message", ""):
        return str(message)
    lines = str(getattr(outcome, "traceback", "")).splitlines()
    places = [line.strip() for line in lines if line.startswith("  File ")]
    return f"(no message) {places[-1]}" if places else ""


def _in_one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MESSAGE else f"{line[: _MESSAGE - 3]}..."


Show = Callable[[RunStatistics, Seen], None]


@contextmanager
def shown() -> Generator[Show]:
    """A table where somebody watches a terminal, and plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        yield lambda state, seen: live.update(table_of(state, seen))


def trouble(state: RunStatistics) -> str:
    """What is wrong with the connections right now; empty if nothing is."""
    away = state.unreachable + state.lost
    if not away:
        return ""
    if state.silent_for:
        text = f"no answer from the server for {state.silent_for:.0f} s: "
        text += f"{away} sessions wait"
    else:
        what = "connection lost" if state.unreachable else "sessions lost"
        text = f"{what}: {away} sessions without a server, trying again"
    if state.unreachable_for:
        left = max(0.0, state.gives_up_after - state.unreachable_for)
        text += f" for {left:.0f} s more, then the run ends"
    return text


class _Lines:
    """A line every few seconds, and one when a connection is lost or back."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY
        self._trouble_since: float | None = None
        self._is_told = False

    def _tell_of_trouble(self, state: RunStatistics) -> None:
        text = trouble(state)
        if not text:
            if self._is_told:
                print("connected again", file=sys.stderr, flush=True)
            self._trouble_since, self._is_told = None, False
            return
        now = time.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        if not self._is_told and now - self._trouble_since >= _TROUBLE_AFTER:
            self._is_told = True
            print(text, file=sys.stderr, flush=True)

    def __call__(self, state: RunStatistics, seen: Seen) -> None:
        self._tell_of_trouble(state)
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
        if text := trouble(state):
            parts.append(text)
        elif state.bottleneck is not None:
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
        if label in seen.messages:
            table.add_row("", Text(seen.messages[label], style="dim"))
    if state.retries:
        table.add_row("retries", str(state.retries))
    if state.slowest:
        slow = state.slowest[0]
        table.add_row(
            "slowest", f"{slow.episode}: {slow.phase} for {slow.seconds:.1f} s"
        )
    if text := trouble(state):
        return Group(table, Text(text, style="bold red"))
    verdict = "" if state.bottleneck is None else state.bottleneck.text
    return Group(table, Text(verdict, style="yellow"))
