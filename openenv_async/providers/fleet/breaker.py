"""What holds back starts: a circuit breaker and a token bucket, without a clock."""

from __future__ import annotations

import enum
import math
from typing import final

from ...errors import ProviderError

__all__ = ["Breaker", "BreakerState", "TokenBucket"]


@final
class BreakerState(enum.StrEnum):
    """Whether servers may be started."""

    CLOSED = "closed"
    """They may."""
    OPEN = "open"
    """Too many starts failed in a row: none is tried until the pause is over."""
    HALF_OPEN = "half_open"
    """The pause is over: one is tried, and decides."""


@final
class Breaker:
    """Stops starting servers when starts keep failing, in growing pauses.

    Args:
        failures: In a row, until it opens.
        pause: Seconds that it stays open the first time.
        longest_pause: Bound for the doubling.
    """

    def __init__(self, failures: int, pause: float, longest_pause: float) -> None:
        self._threshold = failures
        self._first_pause = self._pause = pause
        self._longest_pause = longest_pause
        self._is_closed = True
        self._trial: int | None = None
        """The start that decides."""
        self.until = -math.inf
        """When the pause ends, or ended."""
        self.failures = 0
        """Starts that failed since the last that did not."""
        self.cause: ProviderError | None = None
        """Why the last of them failed."""

    def state(self, now: float) -> BreakerState:
        """Where it stands."""
        if self._is_closed:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.until else BreakerState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a server may be started now."""
        return self._is_closed or (now >= self.until and self._trial is None)

    def began(self, start: int) -> None:
        """A start that it allowed has begun."""
        if not self._is_closed:
            self._trial = start

    def forget(self, start: int) -> None:
        """A start ended without telling anything about the next one."""
        if self._trial == start:
            self._trial = None

    def succeeded(self) -> None:
        """A server serves: all is well."""
        self._is_closed = True
        self._trial = None
        self.until = -math.inf
        self._pause = self._first_pause
        self.failures = 0
        self.cause = None

    def failed(self, start: int, cause: ProviderError, now: float) -> None:
        """A start failed."""
        self.failures += 1
        self.cause = cause
        if self._trial == start:
            self._trial = None
            self._pause = min(2 * self._pause, self._longest_pause)
        elif not self._is_closed or self.failures < self._threshold:
            # Those that were under way when it opened prove nothing new.
            return
        self._is_closed = False
        self.until = now + self._pause


@final
class TokenBucket:
    """Bounds how often something may be done: a burst, then a steady rate.

    Args:
        rate: Tokens that come back a second.
        burst: Tokens that it holds; it starts full.
        now: The time.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        gained = max(0.0, now - self._at) * self._rate
        self._tokens = min(self._burst, self._tokens + gained)
        self._at = now
        # What a wait until `ready_at` gains may fall short of one by a rounding.
        if self._tokens < 1.0 - _ROUNDING:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def ready_at(self) -> float:
        """When there will be a token, if none is taken before."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._rate


_ROUNDING = 1e-6
