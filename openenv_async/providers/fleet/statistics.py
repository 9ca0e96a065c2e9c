"""What a fleet says about itself, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

__all__ = ["FleetStatistics", "Percentiles", "ReplicaStatistics"]


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took lately, in seconds; all 0 if it never happened."""

    count: int = 0
    """How many of the latest are looked at."""
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, samples: Iterable[float]) -> Percentiles:
        """Summarise samples; each value is one that was measured."""
        ordered = sorted(samples)
        if not ordered:
            return cls()

        def at(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(
            count=len(ordered),
            p50=at(0.5),
            p90=at(0.9),
            p99=at(0.99),
            longest=ordered[-1],
        )


class ReplicaStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a fleet."""

    id: int
    url: str
    """Empty while it starts."""
    state: str
    sessions: int
    """Sessions that the fleet placed on it."""
    foreign: int
    """Sessions beyond those that its last health check told of."""
    failed_checks: int
    """Health checks that failed since the last good one."""
    age: float
    """Seconds since its start began."""


class FleetStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet at one moment; what counts events counts since it was opened."""

    replicas: dict[str, int]
    """Servers by state: `starting`, `spare`, `serving`, `draining`, `stopping`."""
    overdue_stops: int
    """Of those stopping: how many take longer than they should."""
    least: int
    """Fewest servers that should serve."""
    most: int
    """Most servers that may serve; spares are not counted."""
    target: int
    """Servers that should serve now."""
    warm: int
    """Spares that should be there."""
    sessions: int
    """Sessions that are placed."""
    places: int
    """Sessions that fit on the servers that serve."""
    waiting_calls: int
    """Calls of `place` that wait."""
    waiting_sessions: int
    """Sessions that they wait for."""
    placed: int
    """Sessions that were ever placed."""
    refused: int
    """Calls of `place` that ended in an error."""
    starts: int
    """Starts that were tried."""
    start_failures: int
    stop_failures: int
    """Servers that could not be stopped."""
    deaths: dict[str, int]
    """Servers that ended unasked after they had started, by cause."""
    restarts: int
    """Servers that answered as another incarnation at the same address."""
    drained: int
    """Servers that were given up: drained, shrunk or stopped by the caller."""
    breaker: str
    """`closed`, `open` or `half_open`."""
    failures_in_a_row: int
    """Failed starts since the last good one."""
    retry_after: float
    """Seconds until a start is tried again while the breaker is open; otherwise 0."""
    start_seconds: Percentiles
    """From a start to the first good health check."""
    place_seconds: Percentiles
    """From a call of `place` to its places."""
    servers: tuple[ReplicaStatistics, ...]
