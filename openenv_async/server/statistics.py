"""What a server counts about itself."""

from __future__ import annotations

from time import perf_counter

__all__ = ["ServerStatistics"]


class ServerStatistics:
    """Counters since the start."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self.requests = 0
        """Requests handed to environments."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started
