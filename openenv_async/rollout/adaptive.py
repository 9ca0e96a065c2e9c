"""How many episodes to play at a time: additive increase, multiplicative decrease."""

from __future__ import annotations

from typing import final

from .options import AdaptiveConcurrency

__all__ = ["Adapter"]


@final
class Adapter:
    """Decides from what one interval was like; has no clock of its own.

    Args:
        settings: When and how much to change.
        most: Episodes at a time at most.
    """

    def __init__(self, settings: AdaptiveConcurrency, most: int) -> None:
        self._settings = settings
        self._most = most
        self.interval = settings.interval
        self._least = min(settings.min, most)
        self.limit = max(self._least, min(settings.start, most))

    def decide(
        self, *, queue: float | None, policy: float | None, saturated: bool
    ) -> int:
        """Return the new limit.

        Args:
            queue: Mean seconds that a step waited on the server; None without steps.
            policy: Mean seconds from an observation to its action.
            saturated: Whether the limit was in the way at all: a limit that nothing
                has tested says nothing, and is not raised.
        """
        settings = self._settings
        if _above(queue, settings.queue_target) or _above(
            policy, settings.policy_target
        ):
            self.limit = max(self._least, int(self.limit * settings.decrease))
        elif saturated and queue is not None:
            self.limit = min(self._most, self.limit + settings.increase)
        return self.limit


def _above(value: float | None, target: float | None) -> bool:
    return value is not None and target is not None and value > target
