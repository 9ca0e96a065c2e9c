"""What a server counts about itself."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

from ..protocol import SessionTable, Stage

if sys.platform != "win32":
    import resource

__all__ = ["BOUNDS_NS", "Histogram", "ServerStatistics", "memory_bytes"]

BOUNDS_NS: Final = tuple(round(1000 * 2 ** (step / 3)) for step in range(91))
"""Upper bounds of a histogram's buckets, three to an octave: 1 us to 18 minutes."""


class Histogram:
    """How times are spread: counts between bounds that grow by a constant factor."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        """The last one is of what is beyond all bounds."""

    def add(self, nanoseconds: int) -> None:
        """Count a time; a bucket holds its upper bound."""
        self.counts[bisect_left(BOUNDS_NS, nanoseconds)] += 1

    def describe(self) -> dict[str, object]:
        """Bounds and counts, for JSON."""
        return {"bounds_ns": list(BOUNDS_NS), "counts": list(self.counts)}


class ServerStatistics:
    """Counters since the start."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self.requests = 0
        """Requests handed to environments."""
        self.refused: Counter[str] = Counter()
        """HTTP requests and handshakes that were refused at the door, by code."""
        self._latency: dict[str, Histogram] = {}
        self._queue: dict[str, Histogram] = {}

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def gather(self, table: SessionTable) -> None:
        """Sort what was measured since the last call into histograms.

        Called once a second, and before numbers are shown.
        """
        table.measure()
        for name, counted in table.counts.items():
            if not counted.times:
                continue
            queue, latency = self._histograms(name)
            for waited, ran in counted.take_times():
                queue.add(waited)
                latency.add(ran)

    def _histograms(self, name: str) -> tuple[Histogram, Histogram]:
        return (
            self._queue.setdefault(name, Histogram()),
            self._latency.setdefault(name, Histogram()),
        )

    def describe(self, table: SessionTable) -> dict[str, object]:
        """The numbers of `/statistics` that are about sessions and requests (8.2)."""
        self.gather(table)
        sessions = dict.fromkeys(table.counts, 0)
        requests = {name: counts.ended for name, counts in table.counts.items()}
        stages: Counter[str] = Counter({stage.value: 0 for stage in Stage})
        watchers = taken_over = 0
        for session in table.by_id.values():
            sessions[session.environment] += 1
            stages[session.stage.value] += 1
            requests[session.environment] += sum(
                channel.seq for channel in session.channels()
            )
            watchers += len(session.watchers or ())
            taken_over += session.guest is not None
        errors = [counts.errors for counts in table.counts.values()]
        return {
            "sessions": {"total": len(table), **stages},
            "taken_over": taken_over,
            "watchers": watchers,
            "requests": sum(requests.values()),
            "errors": _sum([*errors, table.errors, self.refused]),
            "environments": {
                name: {
                    "sessions": sessions[name],
                    "requests": requests[name],
                    "errors": dict(counts.errors),
                    "latency": self._histograms(name)[1].describe(),
                    "queue": self._histograms(name)[0].describe(),
                }
                for name, counts in table.counts.items()
            },
            "uptime_seconds": round(self.uptime, 3),
            "cpu_seconds": round(process_time(), 3),
        }


def _sum(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(total)


def memory_bytes() -> int | None:
    """What this process has in memory, or had at most, where only that is known.

    Blocks for an instant. None where the system does not tell.
    """
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, LookupError):
        if sys.platform == "win32":
            return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
