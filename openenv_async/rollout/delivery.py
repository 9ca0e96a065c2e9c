"""Finished episodes on their way to the consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, final

from ..errors import SessionBusy
from .episodes import Episode

__all__ = ["Delivery"]


@final
class Delivery:
    """A queue that never refuses, but says when it has enough.

    Nothing new starts while it is full; what runs then may still end, so that it holds
    its size and the concurrency at most.

    Args:
        size: Episodes that make it full.
        drained: Called when it is not full any more.
    """

    def __init__(self, size: int, drained: Callable[[], None]) -> None:
        self._size = size
        self._drained = drained
        self._episodes: deque[Episode[Any, Any]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.ended = False

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def full(self) -> bool:
        """Whether the consumer has to catch up first."""
        return len(self._episodes) >= self._size

    def put(self, episodes: Iterable[Episode[Any, Any]]) -> None:
        """Add episodes."""
        self._episodes.extend(episodes)
        self._notify()

    def end(self) -> None:
        """Nothing more will come."""
        self.ended = True
        self._notify()

    def fail(self, error: BaseException) -> None:
        """Raise an error behind the last episode; the first error counts."""
        if self._error is None:
            self._error = error
        self.end()

    async def take(self) -> Episode[Any, Any] | None:
        """Take the oldest episode; None at the end. Cancelling it loses nothing.

        Raises:
            SessionBusy: Somebody else waits.
        """
        if self._wake is not None:
            raise SessionBusy("expected one consumer of episodes at a time")
        while not self._episodes:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self.ended:
                return None
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        episode = self._episodes.popleft()
        if len(self._episodes) == self._size - 1:
            self._drained()
        return episode

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
