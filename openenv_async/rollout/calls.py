"""Calls of a policy: whether it is one, whether it was cancelled, whether it ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, final

from ..errors import LocalProtocolError
from .episodes import PolicyFailure
from .live import LiveEpisode

if TYPE_CHECKING:
    from .run import Run

__all__ = ["Call", "PolicyMisuse", "check_awaitable", "is_foreign_cancellation"]

_logger = logging.getLogger("openenv_async.rollout")

_GRACE: Final = 1.0
"""Seconds after its timeout in which a cancelled call of the policy has to end."""


class PolicyMisuse(LocalProtocolError):
    """The policy is none; ends the run."""


def check_awaitable(found: Any, method: str) -> Awaitable[Any]:
    """What a policy's method returned, if it can be awaited.

    Raises:
        PolicyMisuse: It is a plain method. That is no failure of an episode: it would
            be one of every episode.
    """
    if not inspect.isawaitable(found):
        raise PolicyMisuse(
            f"expected `async def {method}`, got a policy whose `{method}` returns "
            f"{type(found).__name__} at once"
        )
    return found


def is_foreign_cancellation() -> bool:
    """Whether a `CancelledError` came out of the policy, and nobody cancels us."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


@final
class Call:
    """A call of the policy, which is abandoned if it does not end when it has to.

    Nothing can end a task that swallows its cancellation; its episodes are over all
    the same, and whatever it returns one day is of no use.

    Args:
        run: Whose.
        lives: The episodes that it is for.
        began_ns: Now.
        abandoned: Called when it is.
    """

    __slots__ = ("_abandoned", "_lives", "_run", "_timer", "began_ns", "is_over")

    def __init__(
        self,
        run: Run,
        lives: list[LiveEpisode],
        began_ns: int,
        abandoned: Callable[[], None] | None = None,
    ) -> None:
        self._run = run
        self._lives = lives
        self._abandoned = abandoned
        self.began_ns = began_ns
        self.is_over = False
        self._timer: asyncio.TimerHandle | None = None
        run.meter.policy_began(began_ns, len(lives))
        if (timeout := run.options.policy_timeout) is not None:
            self._timer = run.loop.call_later(timeout + _GRACE, self._give_up, timeout)

    def end(self, ended_ns: int) -> None:
        """The call is over; idempotent."""
        if self.is_over:
            return
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._run.meter.policy_ended(self.began_ns, ended_ns)

    def _give_up(self, timeout: float) -> None:
        ended_ns = perf_counter_ns()
        self.end(ended_ns)
        text = f"expected an answer within {timeout:g} s, and the end of a call that "
        text += "is cancelled then, got neither"
        self._run.abandoned_calls += 1
        # Once: a policy that does so once mostly does so in every episode.
        level = logging.WARNING if self._run.abandoned_calls == 1 else logging.DEBUG
        _logger.log(level, "a call of the policy is abandoned: %s", text)
        if self._abandoned is not None:
            self._abandoned()
        failure = PolicyFailure(exception="TimeoutError", message=text)
        for live in self._lives:
            live.last_ns = ended_ns
            self._run.finish(live, failure)
