"""What a container uses, as the engine counts it."""

from __future__ import annotations

import dataclasses
from typing import cast

__all__ = ["ContainerStatistics", "statistics_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerStatistics:
    """What a container has used so far, and uses now.

    Args:
        cpu_seconds: Processor time of all its processes since it started.
        throttled_seconds: Time in which it waited because of its `cpus`.
        memory_bytes: Memory in use, without files that are only cached.
        memory_limit_bytes: The most that it may use.
        pids: Processes and threads.
        pids_limit: The most that it may have; None without a limit.
        received_bytes: Received from networks; a Unix socket is none.
        sent_bytes: Sent to networks.
    """

    cpu_seconds: float
    throttled_seconds: float
    memory_bytes: int
    memory_limit_bytes: int
    pids: int
    pids_limit: int | None
    received_bytes: int
    sent_bytes: int


def statistics_of(sample: object) -> ContainerStatistics:
    """Read a sample of the engine; what has ended has no numbers, which are 0 then."""
    networks = _found(sample, "networks")
    names = list(cast("dict[str, object]", networks)) if networks else []
    return ContainerStatistics(
        cpu_seconds=_number(sample, "cpu_stats", "cpu_usage", "total_usage") / 1e9,
        throttled_seconds=_number(
            sample, "cpu_stats", "throttling_data", "throttled_time"
        )
        / 1e9,
        memory_bytes=_number(sample, "memory_stats", "usage") - _cached(sample),
        memory_limit_bytes=_number(sample, "memory_stats", "limit"),
        pids=_number(sample, "pids_stats", "current"),
        pids_limit=_number(sample, "pids_stats", "limit") or None,
        received_bytes=sum(
            _number(sample, "networks", name, "rx_bytes") for name in names
        ),
        sent_bytes=sum(_number(sample, "networks", name, "tx_bytes") for name in names),
    )


def _cached(sample: object) -> int:
    """Cached files that can be dropped, as the `docker` command leaves them out."""
    for name in ("total_inactive_file", "inactive_file"):  # cgroups of version 1 and 2
        if _found(sample, "memory_stats", "stats", name) is not None:
            return _number(sample, "memory_stats", "stats", name)
    return 0


def _number(sample: object, *path: str) -> int:
    value = _found(sample, *path)
    return value if isinstance(value, int) else 0


def _found(sample: object, *path: str) -> object:
    for name in path:
        if not isinstance(sample, dict):
            return None
        sample = cast("dict[str, object]", sample).get(name)
    return sample
