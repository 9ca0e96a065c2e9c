"""OpenEnv's error codes and ours, both ways."""

from __future__ import annotations

from typing import get_args

import pytest

from openenv_async import (
    AtCapacity,
    EnvironmentFailed,
    EpisodeDone,
    InvalidAction,
    OpenEnvError,
    RemoteProtocolError,
    SessionLost,
)
from openenv_async.dialect import (
    DIALECT_CODES,
    DialectCode,
    ErrorData,
    dialect_code,
    error_from_dialect,
)
from openenv_async.messages import CODES


def test_every_code_has_a_row() -> None:
    """The table is complete, and names codes that exist."""
    assert set(DIALECT_CODES) == set(get_args(DialectCode))
    assert {row.code for row in DIALECT_CODES.values()} <= set(CODES)


def test_every_code_of_ours_becomes_one_of_theirs() -> None:
    """OpenEnv's clients never see a code that they do not know."""
    assert {dialect_code(code) for code in CODES} <= set(DIALECT_CODES)
    assert dialect_code("at_capacity") == "CAPACITY_REACHED"
    assert dialect_code("episode_done") == "EXECUTION_ERROR"


@pytest.mark.parametrize(
    ("code", "kind", "executed"),
    [
        ("INVALID_JSON", RemoteProtocolError, "no"),
        ("UNKNOWN_TYPE", RemoteProtocolError, "no"),
        ("VALIDATION_ERROR", InvalidAction, "no"),
        ("EXECUTION_ERROR", EnvironmentFailed, "unknown"),
        ("CAPACITY_REACHED", AtCapacity, "no"),
        ("FACTORY_ERROR", EnvironmentFailed, "no"),
        ("SESSION_ERROR", SessionLost, "unknown"),
        ("SOMETHING_NEW", EnvironmentFailed, "unknown"),
    ],
)
def test_error_of_theirs_is_one_of_ours(
    code: str, kind: type[OpenEnvError], executed: str
) -> None:
    """What OpenEnv leaves open stays open."""
    error = error_from_dialect(ErrorData(message="text", code=code))
    assert type(error) is kind
    assert (error.message, error.executed) == ("text", executed)
    assert error.detail["dialect_code"] == code


def test_capacity_tells_its_numbers_and_may_be_tried_again() -> None:
    """The numbers have the names that ours have."""
    data = ErrorData(
        message="full", code="CAPACITY_REACHED", active_sessions=2, max_sessions=3
    )
    error = error_from_dialect(data)
    assert (error.detail["sessions"], error.detail["max_sessions"]) == (2, 3)
    assert error.retryable


def test_what_our_own_server_adds_is_believed() -> None:
    """Its code and its knowledge of the execution reach the client."""
    data = ErrorData(
        message="over",
        code="EXECUTION_ERROR",
        error_code="episode_done",
        executed="no",
    )
    error = error_from_dialect(data)
    assert type(error) is EpisodeDone
    assert error.executed == "no"


def test_nonsense_in_our_additions_is_ignored() -> None:
    """Another server may use the same names for something else."""
    data = ErrorData(
        message="x", code="EXECUTION_ERROR", error_code="E42", executed="maybe"
    )
    error = error_from_dialect(data)
    assert (error.code, error.executed) == ("environment_failed", "unknown")
