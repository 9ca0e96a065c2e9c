"""Tasks in files: one JSON object on each line."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from itertools import islice
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from ...errors import LocalProtocolError
from ..episodes import Task

__all__ = ["count_tasks", "read_tasks"]

_LINES: Final = 256
"""Lines to read at a time."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """What a line may hold: a `Task`, whose id may be missing or a number."""

    id: str | int | None = None
    seed: int | None = None
    options: dict[str, object] | None = None
    metadata: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    priority: int = 0


_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


async def read_tasks(path: str | os.PathLike[str]) -> AsyncGenerator[Task, None]:
    """Yield the tasks of a file of JSON lines, reading some at a time.

    A line has the fields of `Task`, each of which may be missing: without an id, the
    number of the line is it, from 0. Empty lines are skipped, and counted.

    Raises:
        LocalProtocolError: The file can't be read, or a line is no task.
    """
    try:
        file = await anyio.to_thread.run_sync(Path(path).open, "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    number = 0
    try:
        while lines := await anyio.to_thread.run_sync(list, islice(file, _LINES)):
            for line in lines:
                if line.strip():
                    yield _task(line, number, path)
                number += 1
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        file.close()


def count_tasks(path: str | os.PathLike[str]) -> int:
    """How many tasks a file has, each of which is checked; blocks.

    Raises:
        LocalProtocolError: The file can't be read, a line is no task, or two have the
            same id.
    """
    lines: dict[str, int] = {}
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file):
                if not line.strip():
                    continue
                id = _task(line, number, path).id
                first = lines.setdefault(id, number)
                if first != number:
                    raise LocalProtocolError(
                        f"expected an id of its own for each task, got {id!r} in lines "
                        f"{first + 1} and {number + 1} of {os.fspath(path)!r}"
                    )
    except OSError as error:
        raise _unreadable(path, error) from error
    return len(lines)


def _unreadable(path: str | os.PathLike[str], error: OSError) -> LocalProtocolError:
    return LocalProtocolError(
        f"expected a file of tasks at {os.fspath(path)!r}: {error}"
    )


def _task(line: bytes, number: int, path: str | os.PathLike[str]) -> Task:
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalProtocolError(
            f"expected a task in line {number + 1} of {os.fspath(path)!r}: {error}"
        ) from error
    return Task(
        id=str(number if found.id is None else found.id),
        seed=found.seed,
        options=found.options,
        metadata=found.metadata,
        priority=found.priority,
    )
