"""What failed in a run and is played again, while its episode is not there.

`attempts.jsonl` has a line for each: its id, and what became of it. It is written
before the failed episodes are dropped, so that nothing forgets them.
"""

from __future__ import annotations

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

__all__ = ["Attempts", "find_failed", "read_attempts", "write_attempts"]

_NAME: Final = "attempts.jsonl"

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
    path = folder / _NAME
    try:
        lines = [_lines.decode(line) for line in path.read_bytes().splitlines()]
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise RunDamaged(
            f"expected earlier attempts in every line of {str(path)!r}: {error}; "
            "the run can go on without the file, and forgets them then",
            detail={"file": str(path)},
        ) from error
    return {line.id: line.attempts for line in lines}


def write_attempts(folder: Path, attempts: Attempts) -> None:
    """Write them; wholly or not at all, whenever it is interrupted."""
    temporary = folder / f"{_NAME}.tmp"
    encode = msgspec.json.encode
    with temporary.open("wb") as file:
        for id, past in attempts.items():
            file.write(encode(_Line(id, past)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _NAME)
    sync_folder(folder)
