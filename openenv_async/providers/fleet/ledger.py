"""What a fleet counts."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final, final

from ...errors import ServerDied

__all__ = ["Ledger", "cause_of"]

_SAMPLES: Final = 1024
"""Latest durations to keep."""


@final
class Ledger:
    """Counters and latest durations since a fleet was opened."""

    def __init__(self) -> None:
        self.starts = 0
        self.start_failures = 0
        self.stop_failures = 0
        self.deaths: Counter[str] = Counter()
        self.restarts = 0
        self.drained = 0
        self.placed = 0
        self.refused = 0
        self.start_seconds: deque[float] = deque(maxlen=_SAMPLES)
        self.place_seconds: deque[float] = deque(maxlen=_SAMPLES)


def cause_of(death: ServerDied) -> str:
    """A word or two by which deaths are counted."""
    cause = death.detail.get("cause")
    if isinstance(cause, str):
        return cause
    if death.oom_killed:
        return "out of memory"
    code = death.exit_code
    if code is None:
        return "unknown"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
