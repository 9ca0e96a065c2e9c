"""Signals that a blocked event loop does not take end the process all the same."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, final

__all__ = ["Interrupts", "enforced"]

_PATIENCE: Final = 5.0
"""Seconds that the loop has to take a signal."""
_ENOUGH: Final = 3
"""Signals that it has not taken after which nobody waits for it any longer."""
_POLL: Final = 0.05


@final
class Interrupts:
    """Counts signals that have come, and those that the event loop has taken."""

    def __init__(self) -> None:
        self._came = 0
        self._number = 0
        self._taken = 0
        # A handler may only write: what it interrupts could hold any lock.
        self._reader, self._writer = os.pipe()

    def taken(self) -> None:
        """The loop has taken whatever came so far."""
        self._taken = self._came

    def came(self, number: int, _frame: object = None) -> None:
        """A signal has come; called as its handler."""
        self._came += 1
        self._number = number
        os.write(self._writer, b"!")

    def watch(self) -> None:
        """End the process at a signal that is not taken; returns after `close`."""
        while os.read(self._reader, 1) == b"!":
            self._wait()
        os.close(self._reader)

    def close(self) -> None:
        """Watch no longer, whatever came last."""
        self.taken()
        os.close(self._writer)

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while (untaken := self._came - self._taken) > 0:
            if untaken >= _ENOUGH or time.monotonic() >= end:
                _end(self._number)
            time.sleep(_POLL)


def _end(number: int) -> None:
    print(
        "ended at once: the policy blocks the event loop, so that nothing can stop in "
        "order (expected `await` for whatever takes long, or a thread)",
        file=sys.stderr,
        flush=True,
    )
    # What the signal does by itself, from a thread that cannot restore its handler.
    os._exit(128 + number)


@contextmanager
def enforced(*numbers: signal.Signals) -> Generator[Interrupts]:
    """Watch signals for which the running loop has handlers already.

    Those go on to be called: asyncio learns of a signal whatever its handler is.
    """
    interrupts = Interrupts()
    threading.Thread(target=interrupts.watch, name="interrupts", daemon=True).start()
    before = {number: signal.signal(number, interrupts.came) for number in numbers}
    for number in numbers:
        signal.siginterrupt(number, False)  # noqa: FBT003 (takes no keywords)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interrupts.close()
