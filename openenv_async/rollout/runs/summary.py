"""What a run holds in numbers: returns, lengths, failures, times."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import final

import msgspec

from ..timing import TimeShares
from .rows import Summary

__all__ = ["Distribution", "RunSummary", "Tally", "summarise"]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How numbers are spread."""

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    """Standard deviation, of the population."""
    least: float = 0.0
    p10: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    most: float = 0.0

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Distribution:
        """Describe numbers; all 0 if there are none. NaN is left out."""
        ordered = sorted(number for number in numbers if not math.isnan(number))
        if not ordered:
            return cls()
        count = len(ordered)
        # Infinite or huge ones make them infinite or NaN, and raise nothing.
        mean = sum(ordered) / count
        differences = [number - mean for number in ordered]
        variance = sum(difference * difference for difference in differences) / count

        def at(share: float) -> float:
            return ordered[max(0, math.ceil(share * count) - 1)]

        return cls(
            count=count,
            mean=mean,
            deviation=math.sqrt(variance),
            least=ordered[0],
            p10=at(0.1),
            p50=at(0.5),
            p90=at(0.9),
            most=ordered[-1],
        )


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All episodes of a run in numbers."""

    episodes: int
    steps: int
    groups: int
    """Tasks with at least one episode."""
    failed: int
    """Episodes without a return, because something broke."""
    not_finite: int
    """Episodes whose return is NaN or infinite, which counts as none."""
    tried_again: int
    """Episodes that failed before, and were run again."""
    outcomes: dict[str, int]
    """How many episodes ended how, the most frequent first."""
    returns: Distribution
    """Of the episodes that have one."""
    histogram: list[int]
    """How many returns there are in ten equal steps from the least to the most."""
    lengths: Distribution
    """Steps of the episodes that did not fail."""
    seconds: Distribution
    """From reset to end."""
    time: TimeShares
    """Where the time of all episodes went."""
    started: float | None
    """When the first one began, in seconds since the epoch."""
    ended: float | None
    """When the last one ended."""


_BARS = 10


@final
class Tally:
    """Counts episodes; holds a few numbers for each, and nothing else."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._returns = array("d")
        self._lengths = array("d")
        self._seconds = array("d")
        self._times = Counter[str]()
        self._groups: set[bytes] = set()
        self._failed = self._steps = self._tried_again = self._not_finite = 0
        self._started = math.inf
        self._ended = -math.inf

    def add(self, episode: Summary) -> None:
        """Count an episode."""
        self.outcomes[episode.label] += 1
        self._groups.add(episode.group.encode()[:64])
        self._steps += episode.length
        self._tried_again += episode.attempt > 1
        if episode.status.endswith("_failed"):
            self._failed += 1
        else:
            self._lengths.append(episode.length)
        self._not_finite += episode.is_not_finite
        if episode.return_ is not None:
            self._returns.append(episode.return_)
        timing = episode.timing
        for part in ("policy", "wire", "queue", "environment", "idle"):
            self._times[part] += getattr(timing, f"{part}_ns")
        if episode.started:
            seconds = timing.total_ns / 1e9
            self._seconds.append(seconds)
            self._started = min(self._started, episode.started)
            self._ended = max(self._ended, episode.started + seconds)

    def summary(self) -> RunSummary:
        """What was counted so far."""
        total = max(1, sum(self._times.values()))
        returns = Distribution.of(self._returns)
        return RunSummary(
            episodes=sum(self.outcomes.values()),
            steps=self._steps,
            groups=len(self._groups),
            failed=self._failed,
            not_finite=self._not_finite,
            tried_again=self._tried_again,
            outcomes=dict(self.outcomes.most_common()),
            returns=returns,
            histogram=_histogram(self._returns, returns),
            lengths=Distribution.of(self._lengths),
            seconds=Distribution.of(self._seconds),
            time=TimeShares(
                **{part: spent / total for part, spent in self._times.items()}
            ),
            started=self._started if self._seconds else None,
            ended=self._ended if self._seconds else None,
        )


def _histogram(returns: Iterable[float], spread: Distribution) -> list[int]:
    width = spread.most - spread.least
    if not spread.count or not math.isfinite(width):
        return []
    bars = [0] * _BARS
    for value in returns:
        if not math.isnan(value):
            place = (value - spread.least) / width * _BARS if width else 0
            bars[min(_BARS - 1, int(place))] += 1
    return bars


def summarise(episodes: Iterable[Summary]) -> RunSummary:
    """Count the episodes of a run, as `Run.summaries` yields them."""
    tally = Tally()
    for episode in episodes:
        tally.add(episode)
    return tally.summary()
