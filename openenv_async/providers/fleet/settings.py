"""How a fleet behaves, in numbers that are checked once."""

from __future__ import annotations

import dataclasses
from typing import final

from ...errors import LocalProtocolError

__all__ = ["FleetSettings", "FleetSize"]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """What seldom needs another value; all times are seconds.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    concurrent_starts: int = 4
    """Servers that may be starting at a time, so that a ramp is no stampede."""
    start_timeout: float = 90.0
    """From the start of a server to its first good health check."""
    stop_timeout: float = 30.0
    """After which a server that is being stopped is reported, and left at the end."""
    ramp_timeout: float = 30.0
    """How long opening waits for all servers, once at least one serves."""
    health_interval: float = 5.0
    """Between two checks of a server."""
    health_timeout: float = 2.0
    """For the answer to one check."""
    health_failures: int = 3
    """Failed checks in a row after which a server counts as dead."""
    freshness: float = 0.1
    """Age of the last good check above which a server is checked before a hand-out;
    with 0, each call of `place` has it checked."""
    replacement_rate: float = 0.5
    """Replacements of dead servers a second, in the long run."""
    replacement_burst: int | None = None
    """Replacements at once; None allows all servers of the fleet, but at least four."""
    breaker_failures: int = 3
    """Failed starts in a row after which no more are tried for a while."""
    breaker_pause: float = 1.0
    """The first such while; it doubles each time."""
    breaker_longest_pause: float = 60.0
    """The bound of the doubling."""
    shrink_after: float = 60.0
    """How long the demand must have been low before servers are given up."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_count = field.name in _COUNTS
            if value is None and field.name == "replacement_burst":
                continue
            least = 1 if is_count else 0
            if is_count:
                _check_whole(field.name, value)
            # "Not a number" is not less than one either.
            if not isinstance(value, int | float) or not value >= least:
                raise LocalProtocolError(
                    f"expected {field.name} of at least {least}, got {value!r}"
                )
        if not self.replacement_rate:
            raise LocalProtocolError("expected a replacement_rate above 0, got 0")


_COUNTS = (
    "concurrent_starts",
    "health_failures",
    "replacement_burst",
    "breaker_failures",
)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSize:
    """How many servers, and how many sessions on each.

    Raises:
        LocalProtocolError: A value is out of its range.
    """

    least: int
    most: int
    sessions: int
    """On each server."""
    warm: int = 0
    """Spare servers beside those that serve."""

    def __post_init__(self) -> None:
        _check_whole("min_replicas", self.least)
        _check_whole("max_replicas", self.most)
        _check_whole("sessions_per_replica", self.sessions)
        _check_whole("warm", self.warm)
        if self.least < 0 or self.most < max(1, self.least):
            raise LocalProtocolError(
                "expected 0 <= min_replicas <= max_replicas and max_replicas >= 1, got "
                f"{self.least} and {self.most}"
            )
        if self.sessions < 1:
            raise LocalProtocolError(
                f"expected sessions_per_replica of at least 1, got {self.sessions}"
            )
        if self.warm < 0:
            raise LocalProtocolError(f"expected warm of at least 0, got {self.warm}")

    @classmethod
    def of(
        cls,
        replicas: int | None,
        least: int | None,
        most: int | None,
        *,
        sessions: int,
        warm: int,
    ) -> FleetSize:
        """Read a fixed number, or a pair of bounds; neither means one server."""
        if replicas is not None:
            _check_whole("replicas", replicas)
            if least is not None or most is not None:
                raise LocalProtocolError(
                    "expected replicas, or min_replicas and max_replicas, got both"
                )
            if replicas < 1:
                raise LocalProtocolError(
                    f"expected at least one replica, got {replicas}"
                )
            least = most = replicas
        elif most is None:
            _check_whole("min_replicas", least or 0)
            most = max(1, least or 0)
        if least is None:
            _check_whole("max_replicas", most)
            least = min(1, most)
        return cls(least=least, most=most, sessions=sessions, warm=warm)


def _check_whole(name: str, value: object) -> None:
    if type(value) is not int:
        raise LocalProtocolError(f"expected {name} to be a whole number, got {value!r}")
