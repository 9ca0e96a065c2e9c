"""How many servers are needed: the most that were, in a window of time."""

from __future__ import annotations

from collections import deque
from typing import final

__all__ = ["DemandWindow"]


@final
class DemandWindow:
    """The maximum of a number over the last seconds.

    Growing is immediate, and giving up waits until the need has been low for the whole
    window: a need that comes and goes does not stop and start servers.

    Args:
        length: Seconds.
    """

    def __init__(self, length: float) -> None:
        self._length = length
        # Values that may yet become the maximum, each with the last moment at which it
        # held. They fall from left to right; the last is the current one.
        self._values: deque[tuple[int, float]] = deque()

    def note(self, value: int, now: float) -> int:
        """Say what is needed from now on; returns the maximum of the window."""
        values = self._values
        if values:
            # The one before held until now.
            before, _ = values.pop()
            values.append((before, now))
        while values and values[-1][0] <= value:
            values.pop()
        values.append((value, now))
        while len(values) > 1 and now >= values[0][1] + self._length:
            values.popleft()
        return values[0][0]

    def changes_at(self) -> float | None:
        """When the maximum falls if nothing is noted before; None if it does not."""
        if len(self._values) < 2:
            return None
        return self._values[0][1] + self._length
