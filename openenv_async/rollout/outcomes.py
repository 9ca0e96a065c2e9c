"""Which outcome an exception gives an episode: by who has to act about it."""

from __future__ import annotations

import traceback

from ..errors import (
    DeadlineExceeded,
    EnvironmentFailed,
    InvalidAction,
    LocalProtocolError,
    OpenEnvError,
    SessionBusy,
)
from .episodes import (
    EnvironmentFailure,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
)

__all__ = ["outcome_of_error", "outcome_of_policy_error"]


def outcome_of_error(error: OpenEnvError, *, in_reset: bool) -> Outcome:
    """What a failed call makes of an episode.

    An action that does not fit is the policy's; options that do not fit are put down
    to the environment that refuses them, as no policy was asked yet.

    Args:
        error: What came in the result's place.
        in_reset: Whether the call was the reset.
    """
    is_bad_value = isinstance(error, InvalidAction) or (
        isinstance(error, LocalProtocolError) and not isinstance(error, SessionBusy)
    )
    if is_bad_value and not in_reset:
        return PolicyFailure(exception=type(error).__name__, message=error.message)
    if isinstance(error, EnvironmentFailed):
        return EnvironmentFailure(
            exception=error.exception or type(error).__name__,
            message=error.message,
            traceback=error.traceback,
            executed=error.executed,
        )
    if is_bad_value or isinstance(error, DeadlineExceeded):
        return EnvironmentFailure(
            exception=type(error).__name__,
            message=error.message,
            executed=error.executed,
        )
    return InfrastructureFailure(
        kind=error.code,
        executed=error.executed,
        retryable=error.retryable,
        message=str(error),
    )


def outcome_of_policy_error(error: BaseException) -> PolicyFailure:
    """What an exception of the policy makes of an episode."""
    try:
        message = _printable(str(error))
    except Exception:  # noqa: BLE001 (the author's `__str__`; its failure says nothing new)
        message = "(no message: __str__ failed)"
    return PolicyFailure(
        exception=type(error).__name__,
        message=message,
        traceback=_printable("".join(traceback.format_exception(error))),
    )


def _printable(text: str) -> str:
    """Text without halves of surrogate pairs, which no encoding has bytes for."""
    return text.encode(errors="backslashreplace").decode()
