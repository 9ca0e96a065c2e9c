"""Who has a batch to himself, such as a collector, and whether he is giving it back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, final

from .._aio import Tasks
from ..errors import SessionBusy

__all__ = ["Loan"]

_tidied: ContextVar[Loan | None] = ContextVar("openenv_async_loan", default=None)
"""What the running task gives back."""


@final
class Loan:
    """Lends a batch to one borrower at a time.

    A borrower that is done may still have to tidy up, which takes the server's help.
    Meanwhile others wait instead of meeting sessions that are busy.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._returned: asyncio.Event | None = None
        """Set when it is back; None while nobody is giving it back."""
        self._tasks = Tasks()

    async def take(self) -> None:
        """Borrow it, as soon as nobody is giving it back.

        Raises:
            SessionBusy: Somebody else has it, and goes on using it.
        """
        await self.wait()
        if self._is_taken:
            raise SessionBusy("expected a batch that no other collector uses")
        self._is_taken = True

    def begin_return(self) -> None:
        """Have others wait from now on; idempotent."""
        if self._returned is None:
            self._returned = asyncio.Event()

    async def returned(self, tidying: Coroutine[Any, Any, None]) -> None:
        """Give it back behind what has to be done first, in a task of its own.

        That may use the batch, whatever others wait for.
        """
        _tidied.set(self)
        self.begin_return()
        try:
            await tidying
        finally:
            self.give_back()

    def return_later(self, tidying: Coroutine[Any, Any, None]) -> None:
        """The same from where nothing can be awaited."""
        self.begin_return()
        self._tasks.spawn(self.returned(tidying), "openenv-async-return")

    def give_back(self) -> None:
        """Let others use it; idempotent."""
        self._is_taken = False
        returned, self._returned = self._returned, None
        if returned is not None:
            returned.set()

    def check(self) -> None:
        """Make sure that nobody is giving it back.

        Raises:
            SessionBusy: Somebody is.
        """
        if self._returned is not None and _tidied.get() is not self:
            raise SessionBusy(
                "expected a batch that is free, but a collector is still giving it "
                "back: close the collector, or await a call of the batch first"
            )

    async def wait(self) -> None:
        """Wait while somebody is giving it back. Cancelling it changes nothing."""
        while self._returned is not None and _tidied.get() is not self:
            await self._returned.wait()
