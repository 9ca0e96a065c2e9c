"""What failed in a run and is played again, while its episode is not there.

`attempts.jsonl` has a line for each: its id, and what became of it. It is written
before the failed episodes are dropped, so that nothing forgets them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...errors import RunDamaged
from ..episodes import Attempt
from .frames import whole_frames
from .manifest import sync_folder
from .parquet import read_parquet_past
from .parts import Part
from .rows import PastRow, attempts_of

__all__ = [
    "ATTEMPTS_NAME",
    "Attempts",
    "find_failed",
    "read_attempts",
    "readable_attempts",
    "write_attempts",
]

ATTEMPTS_NAME: Final = "attempts.jsonl"

Attempts = dict[str, list[Attempt]]
"""By the id of the episode, the oldest first."""


class _Line(msgspec.Struct):
    id: str
    attempts: list[Attempt]


_lines: Final = msgspec.json.Decoder(_Line)
_past: Final = msgspec.json.Decoder(PastRow)


def find_failed(parts: Iterable[Part], statuses: Collection[str]) -> Attempts:
    """What became of the episodes that ended so.

    Raises:
        RunDamaged: They can't be read.
    """
    listed = list(parts)
    return {
        row.id: attempts_of(row)
        for part in listed
        for row in _rows(part, growing=part is listed[-1])
        if row.status in statuses
    }


def _rows(part: Part, *, growing: bool) -> Iterator[PastRow]:
    if part.is_sealed:
        yield from read_parquet_past(part.path)
        return
    for frame in whole_frames(part.path, growing=growing):
        yield from map(_past.decode, frame.lines())


def read_attempts(folder: Path) -> Attempts:
    """Read what is to be played again; nothing if there is no file.

    Raises:
        RunDamaged: It can't be read.
    """
    path = folder / ATTEMPTS_NAME
    try:
        lines = [_lines.decode(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunDamaged(
            f"expected earlier attempts in every line of {str(path)!r}: {error}; "
            "resuming with `salvage` (--salvage) keeps the lines that can be read, and "
            "a copy of the file",
            detail={"file": str(path)},
        ) from error
    return {line.id: line.attempts for line in lines}


def readable_attempts(path: Path) -> Attempts:
    """Read the lines that can be read, of a file that is damaged."""
    found: Attempts = {}
    for text in path.read_bytes().splitlines():
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            line = _lines.decode(text)
            found[line.id] = line.attempts
    return found


def write_attempts(folder: Path, attempts: Attempts) -> None:
    """Write them; wholly or not at all, whenever it is interrupted."""
    temporary = folder / f"{ATTEMPTS_NAME}.tmp"
    encode = msgspec.json.encode
    with temporary.open("wb") as file:
        for id, past in attempts.items():
            file.write(encode(_Line(id, past)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / ATTEMPTS_NAME)
    sync_folder(folder)
