"""The exceptions: their texts, their attributes, and the codes that stand for them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from openenv_async import errors
from openenv_async.errors import (
    EnvironmentFailed,
    OpenEnvError,
    ProviderError,
    RequestRejected,
    StepInterrupted,
    error_from_code,
)
from openenv_async.messages import CODES

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, OpenEnvError)
]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def arrived(code: str, **attributes: object) -> OpenEnvError:
    """The exception for an error that arrived on the wire."""
    row = CODES.get(code)
    options: dict[str, object] = {
        "executed": row.executed if row else "unknown",
        "retryable": row.retryable if row else False,
        "fault": row.fault if row else "caller",
        "detail": None,
        **attributes,
    }
    return error_from_code(code, "it says", **options)  # type: ignore[arg-type]  # of the right types


# The tree


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The module's docstring draws every class below its base."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").partition("```\n")[2].splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        if found is None:
            break
        depth = len(found[1]) // 4
        path = [*path[:depth], found[2]]
        drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}


def test_every_error_is_public() -> None:
    """All of them are exported, and nothing else is missing."""
    assert {kind.__name__ for kind in KINDS} <= set(errors.__all__)


@by_kind
def test_an_error_says_what_a_caller_can_do(kind: type[OpenEnvError]) -> None:
    """Each class has its usual attributes, and each of them can be more precise."""
    usual = kind("text")
    assert usual.code == kind.default_code
    assert usual.executed == kind.default_executed
    assert usual.retryable is kind.default_retryable
    assert usual.fault == kind.default_fault
    assert usual.detail == {}
    precise = kind(
        "text",
        code="other",
        executed="yes",
        retryable=not kind.default_retryable,
        fault="environment",
        detail={"n": 1},
    )
    assert (precise.code, precise.executed, precise.fault) == (
        "other",
        "yes",
        "environment",
    )
    assert precise.retryable is not kind.default_retryable
    assert precise.detail == {"n": 1}


@by_kind
def test_an_error_can_be_pickled_and_copied(kind: type[OpenEnvError]) -> None:
    """It crosses process boundaries with all that it says."""
    error = kind("text", code="c", executed="yes", detail={"traceback": "T"})
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (str(again), again.__dict__) == (str(error), error.__dict__)


# Texts


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OpenEnvError("expected 1, got 2"), "expected 1, got 2"),
        (EnvironmentFailed("it raised"), "it raised"),
        (
            EnvironmentFailed("it raised", detail={"traceback": "Traceback\n  x\n"}),
            "it raised\n\nTraceback\n  x",
        ),
        (ProviderError("it died"), "it died"),
        (ProviderError("it died", detail={"log": "line\n\n"}), "it died\n\nline"),
    ],
)
def test_texts(error: OpenEnvError, text: str) -> None:
    """What is printed: the message, and below it what belongs to it."""
    assert str(error) == text
    assert error.message == text.partition("\n")[0]


def test_a_failure_of_the_environment_has_its_exception() -> None:
    """Name and traceback are attributes; without them they are empty."""
    error = EnvironmentFailed("", detail={"exception": "KeyError", "traceback": "T"})
    assert (error.exception, error.traceback) == ("KeyError", "T")
    assert (EnvironmentFailed("").exception, EnvironmentFailed("").traceback) == (
        "",
        "",
    )


def test_a_provider_s_error_has_its_log() -> None:
    """The last lines of what it wrote."""
    assert ProviderError("", detail={"log": "why"}).log == "why"
    assert ProviderError("").log == ""


def test_an_interrupted_step_has_a_result_only_if_there_was_one() -> None:
    """The default is none."""
    assert StepInterrupted("").result is None


# Codes


CLASSES = {
    "invalid_frame": "RemoteProtocolError",
    "protocol_error": "RemoteProtocolError",
    "version_mismatch": "VersionMismatch",
    "unauthorized": "Unauthorized",
    "unknown_environment": "UnknownEnvironment",
    "unknown_session": "SessionLost",
    "at_capacity": "AtCapacity",
    "busy": "SessionBusy",
    "bad_sequence": "RemoteProtocolError",
    "too_large": "RequestRejected",
    "invalid_action": "InvalidAction",
    "reset_required": "ResetRequired",
    "episode_done": "EpisodeDone",
    "episode_broken": "ResetRequired",
    "environment_failed": "EnvironmentFailed",
    "cancelled": "StepInterrupted",
    "deadline_exceeded": "DeadlineExceeded",
    "session_poisoned": "SessionLost",
    "worker_died": "EpisodeLost",
    "reply_lost": "ReplyLost",
    "lease_expired": "SessionLost",
    "taken_over": "TakenOver",
    "shutting_down": "SessionLost",
    "session_lost": "SessionLost",
    "session_closed": "SessionClosed",
}


def test_every_code_has_a_row() -> None:
    """No code of the wire is without an exception."""
    assert set(CLASSES) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_code_becomes_its_exception(code: str) -> None:
    """The class follows from the code; everything else from the message."""
    error = arrived(code, detail={"n": 1})
    assert type(error).__name__ == CLASSES[code]
    row = CODES[code]
    assert (error.code, error.message, error.detail) == (code, "it says", {"n": 1})
    assert (error.executed, error.retryable, error.fault) == (
        row.executed,
        row.retryable,
        row.fault,
    )


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("caller", RequestRejected),
        ("environment", EnvironmentFailed),
        ("infrastructure", OpenEnvError),
    ],
)
def test_a_code_of_a_later_version_is_sorted_by_fault(
    fault: str, kind: type[OpenEnvError]
) -> None:
    """An unknown code says at least who has to act."""
    error = arrived("something_new", fault=fault)
    assert type(error) is kind
    assert error.code == "something_new"
