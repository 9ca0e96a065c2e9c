"""Who has a batch to himself, such as a collector, and whether he is giving it back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, Token
from typing import Any, final

from .._aio import Tasks
from ..errors import SessionBusy
from .arrivals import Arrivals

__all__ = ["Loan"]

_used: ContextVar[Loan | None] = ContextVar("openenv_async_loan", default=None)
"""Whose batch the running code may use, as the borrower."""


@final
class _Use:
    """A block in which a batch is used as the borrower."""

    __slots__ = ("_loan", "_token")

    def __init__(self, loan: Loan) -> None:
        self._loan = loan
        self._token: Token[Loan | None]

    def __enter__(self) -> None:
        self._token = _used.set(self._loan)

    def __exit__(self, *_: object) -> None:
        _used.reset(self._token)


@final
class Loan:
    """Lends a batch to one borrower at a time.

    A borrower that is done may still have to tidy up, which takes the server's help.
    Meanwhile others wait instead of meeting sessions that are busy. While he has it,
    they are refused: what they post would reach him, and his results them.

    Args:
        arrivals: What was posted on the batch: of the borrower's nothing stays.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._is_taken = False
        self._returned: asyncio.Event | None = None
        """Set when it is back; None while nobody is giving it back."""
        self._tasks = Tasks()

    async def take(self, *, is_open: bool) -> None:
        """Borrow it, as soon as nobody is giving it back.

        Args:
            is_open: Whether it is, so that somebody may still want its results.

        Raises:
            SessionBusy: Somebody else has it, and goes on using it; or there are
                results that he would take for his own.
        """
        await self.wait()
        if self._is_taken:
            raise SessionBusy("expected a batch that no other collector uses")
        if is_open and self._arrivals:
            raise SessionBusy(
                "expected a batch of which nobody awaits results, got "
                f"{self._arrivals.untaken}: take them with `ready` first"
            )
        self._is_taken = True

    def use(self) -> None:
        """Have the running task use it as the borrower, to its end."""
        _used.set(self)

    def used(self) -> _Use:
        """Make a block in which the running code uses it as the borrower."""
        return _Use(self)

    def begin_return(self) -> None:
        """Have others wait from now on; idempotent."""
        if self._returned is None:
            self._returned = asyncio.Event()

    async def returned(self, tidying: Coroutine[Any, Any, None]) -> None:
        """Give it back behind what has to be done first, in a task of its own.

        That may use the batch, whatever others wait for.
        """
        _used.set(self)
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
        if self._is_taken:
            self._is_taken = False
            self._arrivals.clear()
        returned, self._returned = self._returned, None
        if returned is not None:
            returned.set()

    def check(self) -> None:
        """Make sure that nobody else has it.

        Raises:
            SessionBusy: Somebody has, or is giving it back.
        """
        if not self._is_taken or _used.get() is self:
            return
        if self._returned is not None:
            raise SessionBusy(
                "expected a batch that is free, but a collector is still giving it "
                "back: close the collector, or await a call of the batch first"
            )
        raise SessionBusy(
            "expected a batch that is free, but a collector plays on it: close the "
            "collector first"
        )

    async def wait(self) -> None:
        """Wait while somebody is giving it back. Cancelling it changes nothing."""
        while self._returned is not None and _used.get() is not self:
            await self._returned.wait()
