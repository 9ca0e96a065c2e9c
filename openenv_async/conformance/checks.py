"""Checks of what every environment has to keep, as functions with typed results.

A check plays the environment through a client, as its users do. It raises nothing: what
it could not do is a failure, with the reason in its detail.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final, TypeAlias, cast

import msgspec

from ..errors import OpenEnvError
from .behaviour import (
    check_actions,
    check_invalid_action,
    check_schema,
    check_state,
    check_step_after_done,
    check_step_before_reset,
)
from .ending import check_clean_close, check_no_leak
from .repeating import (
    check_concurrency,
    check_determinism,
    check_reset_twice,
    check_state_changes_nothing,
)
from .subject import Subject
from .verdicts import Broken, Unchecked

__all__ = ["CHECKS", "Check", "run_check", "run_checks"]

_logger = logging.getLogger("openenv_async.conformance")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one check."""

    name: str
    passed: bool
    skipped: bool = False
    """Whether it could not be made, which counts as passed; the detail says why."""
    detail: str = ""
    """What was expected and what was found."""
    seconds: float = 0.0


Body: TypeAlias = Callable[[Subject], Awaitable[str]]
"""Makes a check; returns what there is to say.

It raises `Broken` for a fault and `Unchecked` where there is nothing to check.
"""

CHECKS: Final[dict[str, Body]] = {
    "schema": check_schema,
    "actions": check_actions,
    "state": check_state,
    "invalid action": check_invalid_action,
    "step before reset": check_step_before_reset,
    "step after the end": check_step_after_done,
    "reset twice": check_reset_twice,
    "determinism by seed": check_determinism,
    "state changes nothing": check_state_changes_nothing,
    "concurrency": check_concurrency,
    "clean close": check_clean_close,
    "no leak": check_no_leak,
}
"""Every check by name, in the order in which they make sense."""


async def run_check(name: str, subject: Subject) -> Check:
    """Make one check of `CHECKS`."""
    began = perf_counter()
    passed, skipped, detail = True, False, ""
    try:
        detail = await CHECKS[name](subject)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the verdict)
        passed, skipped, detail = _verdict(name, _cause(error))
    seconds = round(perf_counter() - began, 6)
    return Check(
        name=name, passed=passed, skipped=skipped, detail=detail, seconds=seconds
    )


def _verdict(name: str, error: Exception) -> tuple[bool, bool, str]:
    """Whether a check passed and was skipped, and what it said."""
    match error:
        case Unchecked():
            return True, True, str(error)
        case Broken():
            return False, False, str(error)
        case OpenEnvError():
            return False, False, f"{type(error).__name__}: {error.message}"
        case _:
            _logger.error("check %r failed", name, exc_info=error)
            return False, False, repr(error)


def _cause(error: Exception) -> Exception:
    """The first of the errors that a task group joined."""
    found = error
    while isinstance(found, ExceptionGroup):
        found = cast(ExceptionGroup[Exception], found).exceptions[0]
    return found


async def run_checks(
    subject: Subject, names: Sequence[str] | None = None
) -> AsyncIterator[Check]:
    """Make checks one after the other.

    Args:
        subject: What to check.
        names: Which of `CHECKS`; None makes all.
    """
    for name in CHECKS if names is None else names:
        yield await run_check(name, subject)
