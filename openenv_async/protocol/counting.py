"""What the sessions of one environment did, counted where it happens.

A step pays nothing for this: requests are counted by the sequence numbers that there
are anyway, errors are off the hot path, and of small replies one a frame is measured.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

__all__ = ["Counts"]

_SAMPLES: Final = 1024
"""Requests whose times are kept until somebody takes them."""


class Counts:
    """One environment's numbers since the start."""

    __slots__ = ("ended", "errors", "times")

    def __init__(self) -> None:
        self.ended = 0
        """Requests of the sessions that are gone."""
        self.errors: Counter[str] = Counter()
        """Errors that were sent, by code."""
        self.times: deque[tuple[int, int]] = deque(maxlen=_SAMPLES)
        """Nanoseconds that requests waited and were in the environment, the latest."""

    def record(self, queue_ns: int, environment_ns: int) -> None:
        """Note what one request took."""
        self.times.append((queue_ns, environment_ns))

    def take_times(self) -> list[tuple[int, int]]:
        """Take what was measured since the last time: pairs of waiting and running."""
        taken = list(self.times)
        self.times.clear()
        return taken
