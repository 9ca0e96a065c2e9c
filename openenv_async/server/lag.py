"""Notices a blocked event loop, and names the environment that blocks it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from time import perf_counter
from typing import Final

from .inline import InlineBackend

__all__ = ["LagMonitor"]

_logger = logging.getLogger("openenv_async.server")

_INTERVAL: Final = 0.1
"""Seconds between two signs of life of the loop."""
_BLOCKED: Final = 0.25
"""Seconds without one after which somebody is to blame."""


class LagMonitor:
    """Watches the loop from a thread, because the loop cannot watch itself.

    Args:
        backend: Whose `current` host is named when the loop is blocked.
    """

    def __init__(self, backend: InlineBackend) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.loop_thread = 0
        self.lag = 0.0
        """Seconds by which the loop was late at its last sign of life."""
        self.blocked = 0
        """How often the loop was found blocked."""
        self.culprit = ""
        """Label of the session that blocked it last."""
        self._backend = backend
        self._beat = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()
        self._beat = perf_counter()
        self._handle = self.loop.call_later(_INTERVAL, self._sign_of_life)
        self._thread = threading.Thread(
            target=self._watch, name="openenv-async-lag", daemon=True
        )
        self._thread.start()

    def _sign_of_life(self) -> None:
        assert self.loop is not None
        now = perf_counter()
        self.lag = max(0.0, now - self._beat - _INTERVAL)
        self._beat = now
        self._handle = self.loop.call_later(_INTERVAL, self._sign_of_life)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stop.wait(_INTERVAL):
            beat = self._beat
            silence = perf_counter() - beat
            if silence < _INTERVAL + _BLOCKED or beat == reported:
                continue
            reported = beat
            self.blocked += 1
            host = self._backend.current
            frame = sys._current_frames().get(self.loop_thread)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 (the documented way to another thread's stack)
            stack = "".join(traceback.format_stack(frame)[-6:]) if frame else ""
            if host is None:
                _logger.warning(
                    "the event loop is blocked for %.2f s, by no environment\n%s",
                    silence,
                    stack,
                )
                continue
            self.culprit = host.label
            _logger.warning(
                "the event loop is blocked for %.2f s by %s: every other session "
                "waits; run this environment with execution='thread' or 'process'\n%s",
                silence,
                host.label,
                stack,
            )

    def stop(self) -> None:
        """Stop watching; idempotent."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(1.0)
