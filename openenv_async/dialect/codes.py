"""OpenEnv's error codes beside ours: a table for both directions.

OpenEnv has seven codes, and one of them stands for whatever an environment did. So our
server adds its own code to an error frame, which OpenEnv's clients ignore; and what an
OpenEnv server leaves open stays open: `executed` is "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast, get_args

import msgspec

from ..errors import Executed, Fault, OpenEnvError, error_from_code
from ..messages import CODES
from .frames import ErrorData

__all__ = ["DIALECT_CODES", "DialectCode", "dialect_code", "error_from_dialect"]

DialectCode = Literal[
    "INVALID_JSON",
    "UNKNOWN_TYPE",
    "VALIDATION_ERROR",
    "EXECUTION_ERROR",
    "CAPACITY_REACHED",
    "FACTORY_ERROR",
    "SESSION_ERROR",
]
"""What OpenEnv's servers send."""


class _Row(msgspec.Struct, frozen=True):
    """What one of OpenEnv's codes says."""

    code: str
    """Ours."""
    executed: Executed
    fault: Fault
    is_last: bool = False
    """Whether the server closes the connection afterwards."""


DIALECT_CODES: Final[dict[DialectCode, _Row]] = {
    "INVALID_JSON": _Row("protocol_error", "no", "caller"),
    "UNKNOWN_TYPE": _Row("protocol_error", "no", "caller"),
    "VALIDATION_ERROR": _Row("invalid_action", "no", "caller"),
    # Raised before, in or after the environment's method: nobody knows.
    "EXECUTION_ERROR": _Row("environment_failed", "unknown", "environment"),
    "CAPACITY_REACHED": _Row("at_capacity", "no", "infrastructure", is_last=True),
    "FACTORY_ERROR": _Row("environment_failed", "no", "environment", is_last=True),
    "SESSION_ERROR": _Row("session_lost", "unknown", "infrastructure", is_last=True),
}
"""What OpenEnv's codes say in our terms."""

_OURS: Final[dict[str, DialectCode]] = {
    "invalid_action": "VALIDATION_ERROR",
    "at_capacity": "CAPACITY_REACHED",
    "protocol_error": "VALIDATION_ERROR",
    "too_large": "EXECUTION_ERROR",
    "unknown_session": "SESSION_ERROR",
    "unknown_environment": "SESSION_ERROR",
    "session_closed": "SESSION_ERROR",
    "session_lost": "SESSION_ERROR",
    "session_poisoned": "SESSION_ERROR",
    "lease_expired": "SESSION_ERROR",
    "shutting_down": "SESSION_ERROR",
}


def dialect_code(code: str) -> DialectCode:
    """OpenEnv's code for one of ours; `EXECUTION_ERROR` where it has none."""
    return _OURS.get(code, "EXECUTION_ERROR")


def error_from_dialect(data: ErrorData) -> OpenEnvError:
    """Build the exception for an error frame of any OpenEnv server, also of ours."""
    row = DIALECT_CODES.get(cast(DialectCode, data.code))
    if row is None:
        row = _Row("environment_failed", "unknown", "infrastructure")
    code, executed, fault = row.code, row.executed, row.fault
    retryable = code == "at_capacity"
    if data.error_code in CODES:
        known = CODES[data.error_code]
        code, fault, retryable = data.error_code, known.fault, known.retryable
    if data.executed in get_args(Executed):
        executed = cast(Executed, data.executed)
    return error_from_code(
        code,
        data.message,
        executed=executed,
        retryable=retryable,
        fault=fault,
        detail=_detail(data),
    )


def _detail(data: ErrorData) -> Mapping[str, object]:
    named: dict[str, object] = {
        "dialect_code": data.code,
        "errors": data.errors,
        "sessions": data.active_sessions,
        "max_sessions": data.max_sessions,
        "factory": data.factory_name,
    }
    return {name: value for name, value in named.items() if value is not None}
