"""The end of a session that its client does not ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from .. import messages as m
from ..errors import Executed
from ..protocol import Outcome
from .hosts import Host

__all__ = ["Retirement"]

_logger = logging.getLogger("openenv_async.server")

_PATIENCE: Final = 10.0
"""Seconds that an environment has to close."""


class Retirement:
    """Takes a session's place as its host's sink, and closes the environment.

    What is in flight is stopped and its answer dropped; then `close()` runs, and
    `done` is called whatever it raises.

    Args:
        host: Whose environment to close.
        submit: Executes a request.
        done: Called once, when the environment is closed.
    """

    def __init__(
        self,
        host: Host,
        *,
        submit: Callable[[Host, m.Close], None],
        done: Callable[[], None],
    ) -> None:
        self.since_ns = perf_counter_ns()
        self.queue_ns = 0
        self._host = host
        self._submit = submit
        self._done = done
        self._closing = False

    def start(self) -> None:
        """Close the environment as soon as nothing runs in it."""
        self._host.sink = self
        self._host.plain_type = None
        if self._host.running is None:
            self._close()

    def _close(self) -> None:
        self._closing = True
        self.since_ns = perf_counter_ns()
        self._submit(self._host, m.Close(0, 0, _PATIENCE))

    def reply(
        self,
        payload: m.Payload,
        *,
        done: bool = False,
        reward: float | None = None,
        environment_ns: int = 0,
        encode_ns: int = 0,
    ) -> None:
        """What was in flight has ended, or the environment is closed."""
        self._next()

    def step_reply(self, observation: object, environment_ns: int) -> None:
        """What was in flight has ended."""
        self._next()

    def fail(
        self,
        code: str,
        message: str,
        *,
        outcome: Outcome = Outcome.UNCHANGED,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """Like `reply`; an error of `close()` is logged, because nobody is there."""
        if self._closing:
            _logger.warning("closing %s failed: %s", self._host.label, message)
        if outcome is Outcome.POISONED:
            self._finish()
        else:
            self._next()

    def progress(self, fraction: float | None, message: str) -> None:
        """Nobody is there to be told."""

    def _next(self) -> None:
        if self._closing:
            self._finish()
        else:
            self._host.running = None
            self._close()

    def _finish(self) -> None:
        done, self._done = self._done, lambda: None
        done()
