"""Which sessions of a run have a server, and for how long none has had one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from time import perf_counter_ns
from typing import Any, final

from ..client import EnvBatch
from ..errors import ConnectFailed, OpenEnvError
from .live import LiveEpisode
from .timing import Meter

__all__ = ["Reach"]


@final
class Reach:
    """Watches the connections of a run's sessions.

    A server that answers no ping may be frozen, or out of reach: for whoever waits
    that is the same as a lost connection, and it began with the last sign of life.

    Connections that are tried again, and sessions that are being replaced, count as
    one trouble: the one must not begin to count when the other has ended.

    Args:
        batch: The sessions.
        meter: Told how much of the time they are without a server.
        timeout: Seconds without any reachable session after which the run fails.
    """

    def __init__(
        self, batch: EnvBatch[Any, Any, Any], meter: Meter, timeout: float
    ) -> None:
        self._batch = batch
        self._meter = meter
        self._since_ns: int | None = None
        self.timeout = timeout
        self.unreachable = 0
        """Sessions whose connection is lost, while it is tried again, or silent."""
        self.silent_for = 0.0
        """Seconds for which a server has said nothing, though it was asked."""

    def look(self, lives: Iterable[LiveEpisode], lost: Collection[int]) -> None:
        """See how things stand.

        Args:
            lives: The episodes that are being played.
            lost: Places of sessions that are replaced, or have to be.
        """
        silences = self._batch.silences
        unreachable = {*self._batch.unreachable, *silences}
        self.unreachable = len(unreachable)
        away = unreachable.union(lost)
        for live in lives:
            live.is_away = live.place in away
        now_ns = perf_counter_ns()
        since_ns = now_ns
        if silences and not self.silent_for:
            # It shows late that nobody was there any more.
            since_ns -= int(min(silences.values()) * 1e9)
        self.silent_for = max(silences.values(), default=0.0)
        self._meter.away(len(away) / len(self._batch), since_ns)
        if len(away) < len(self._batch):
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = since_ns

    @property
    def dead_for(self) -> float:
        """Seconds since no session has been reachable; 0 while one is."""
        if self._since_ns is None:
            return 0.0
        return (perf_counter_ns() - self._since_ns) / 1e9

    def check(self, problem: OpenEnvError | None = None) -> None:
        """Fail if no session has been reachable for too long.

        Args:
            problem: Why the latest try to replace one failed.

        Raises:
            OpenEnvError: That, if there is one.
            ConnectFailed: Otherwise.
        """
        if self.dead_for <= self.timeout:
            return
        if problem is not None:
            raise problem
        urls = sorted({server.url for server in self._batch.servers})
        raise ConnectFailed(
            f"expected to reach {', '.join(map(repr, urls))} again within "
            f"{self.timeout:g} s, got no answer; the episodes that waited for it can "
            "be played again"
        )
