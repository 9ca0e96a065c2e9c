"""Episodes with values that can't be written: which these are, and what is left.

A policy may put anything into its extras, and an action of Python's own types is
refused only here. One such episode must not end a run: it is recorded as a failure that
names the value, without what can't be written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

from ...errors import LocalProtocolError
from ..episodes import EnvironmentFailure, Episode, Outcome, PolicyFailure
from .rows import PACKING_ERRORS, check_writable

__all__ = ["Unwritable", "as_failure", "unwritable"]

_DEPTH: Final = 20
"""How deep into a value to look; one that holds itself has no end."""


class Unwritable(LocalProtocolError):
    """An episode has a value that can't be written.

    Args:
        message: Names the episode, the value and the reason.
        path: Where the value is, such as `steps[0].extras['x']`.
        kind: Class of the exception that refused it.
    """

    def __init__(self, message: str, *, path: str, kind: str) -> None:
        super().__init__(message, detail={"path": path})
        self.path = path
        self.kind = kind


def unwritable(
    episode: Episode[Any, Any], error: LocalProtocolError
) -> LocalProtocolError:
    """What `pack` raised, with the place of the value; the same if it is not found."""
    for path, part in _parts(episode):
        cause = _refusal(part)
        if cause is not None:
            path, value, cause = _innermost(path, part, cause)
            return Unwritable(
                f"expected values that can be written in episode {episode.id!r}, got "
                f"one of type {type(value).__qualname__!r} at {path}: {cause}",
                path=path,
                kind=type(cause).__name__,
            )
    return error


def as_failure(
    episode: Episode[Any, Any], error: Unwritable
) -> Episode[Any, Any] | None:
    """The episode as one that failed for it, with everything that can be written.

    Returns:
        It ends before the first step whose action or observation can't be written, and
        lacks extras that can't. None where the value is the caller's: in the task, or
        in the metadata of all episodes.
    """
    if error.path.startswith(("task", "metadata")):
        return None
    steps: list[Any] = []
    for step in episode.steps:
        if _refusal([step.action, step.observation]) is not None:
            break
        steps.append(msgspec.structs.replace(step, extras=_writable(step.extras)))
    first = episode.initial_observation
    return msgspec.structs.replace(
        episode,
        initial_observation=first if _refusal(first) is None else None,
        steps=steps,
        outcome=_outcome(error),
        return_=None,
        extras=_writable(episode.extras),
    )


def _outcome(error: Unwritable) -> Outcome:
    if "observation" in error.path.partition("[")[0] or "].observation" in error.path:
        return EnvironmentFailure(
            exception=error.kind, message=error.message, executed="yes"
        )
    return PolicyFailure(exception=error.kind, message=error.message)


def _writable(extras: dict[str, object]) -> dict[str, object]:
    return {
        name: value for name, value in extras.items() if _refusal({name: value}) is None
    }


def _parts(episode: Episode[Any, Any]) -> Iterator[tuple[str, object]]:
    yield "task.options", episode.task.options
    yield "task.metadata", episode.task.metadata
    yield "metadata", episode.metadata
    yield "initial_observation", episode.initial_observation
    for number, step in enumerate(episode.steps):
        yield f"steps[{number}].action", step.action
        yield f"steps[{number}].observation", step.observation
        yield f"steps[{number}].extras", step.extras
    yield "extras", episode.extras


def _refusal(value: object) -> Exception | None:
    """Why a value can't be written; None if it can."""
    try:
        check_writable(value)
    except PACKING_ERRORS as error:
        return error
    return None


def _innermost(
    path: str, value: object, cause: Exception
) -> tuple[str, object, Exception]:
    """Where exactly the first value is that can't be written."""
    for _ in range(_DEPTH):
        for key, item in _items(value):
            inner = _refusal(item)
            if inner is not None:
                path, value, cause = f"{path}[{key!r}]", item, inner
                break
        else:
            break
    return path, value, cause


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        yield from cast(dict[object, object], value).items()
    elif isinstance(value, list | tuple):
        yield from enumerate(cast(list[object], value))
