"""What was posted on a batch, and what of it has arrived."""

from __future__ import annotations

import asyncio
from collections import deque

from ..errors import LocalProtocolError, SessionBusy

__all__ = ["Arrivals", "check_bounds"]


def check_bounds(least: int, most: int | None) -> None:
    """Make sure that so many results can be waited for.

    Raises:
        LocalProtocolError: They cannot.
    """
    if least < 1 or (most is not None and most < least):
        raise LocalProtocolError(
            f"expected 1 <= min <= max, got min={least} and max={most}"
        )


class Arrivals:
    """Posted requests without a result, and results that nobody took yet."""

    def __init__(self) -> None:
        self.posted: set[int] = set()
        """Places of the sessions whose result is still to come."""
        self._results: deque[tuple[int, object]] = deque()
        self._wanted = 0
        self._in_a_hurry = False
        """Whether fewer results than wanted will do."""
        self._wake: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self._results or self.posted)

    @property
    def untaken(self) -> int:
        """Results that nobody took, and those that are still to come."""
        return len(self._results) + len(self.posted)

    def post(self, index: int) -> None:
        """A request is in flight."""
        self.posted.add(index)

    def put(self, index: int, result: object) -> None:
        """A request has its result; one that was dropped meanwhile has none."""
        if index not in self.posted:
            return
        self.posted.remove(index)
        self._results.append((index, result))
        if len(self._results) >= self._wanted:
            self.notify()

    def clear(self) -> None:
        """Forget everything: whoever posted it is gone."""
        self.posted.clear()
        self._results.clear()

    def drop(self, index: int) -> None:
        """Forget what was posted for a session, and what has arrived of it."""
        self.posted.discard(index)
        if self._results:
            kept = [one for one in self._results if one[0] != index]
            self._results = deque(kept)
        # With one less to come, the others may be all that can.
        self.notify()

    def take(self, most: int | None) -> list[tuple[int, object]]:
        """Take what has arrived, the oldest first."""
        count = len(self._results)
        if most is not None and count > most:
            count = most
        return [self._results.popleft() for _ in range(count)]

    async def wait(self, least: int, timeout: float | None) -> None:
        """Wait for results, but for no more than can still come.

        Cancelling it loses nothing.

        Args:
            least: How many.
            timeout: Seconds after which one will do.

        Raises:
            SessionBusy: Somebody else waits.
        """
        if self._wake is not None:
            raise SessionBusy("expected one caller of `ready` at a time")
        loop = asyncio.get_running_loop()
        timer = None
        try:
            while True:
                arrived = len(self._results)
                possible = arrived + len(self.posted)
                self._wanted = min(1 if self._in_a_hurry else least, possible)
                if arrived >= self._wanted:
                    return
                if timer is None and timeout is not None:
                    timer = loop.call_later(timeout, self._hurry)
                self._wake = loop.create_future()
                await self._wake
        finally:
            self._wake = None
            self._in_a_hurry = False
            if timer is not None:
                timer.cancel()

    def _hurry(self) -> None:
        self._in_a_hurry = True
        self.notify()

    def notify(self) -> None:
        """Have whoever waits look again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
