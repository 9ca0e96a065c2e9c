"""Mends files that are damaged: what can be read stays, and a copy of what was there.

It is done only when asked for. Whenever it is interrupted, there is the damaged file or
the mended one, and doing it again changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ...errors import RunDamaged
from .appending import read_entries
from .attempts import ATTEMPTS_NAME, read_attempts, readable_attempts, write_attempts
from .frames import (
    ArrayFile,
    Frame,
    check_arrays,
    find_frame,
    parse_head,
    parse_line,
    read_frames,
    whole_frames,
)
from .manifest import sync_folder
from .parquet import read_parquet_rows, readable_groups, rewrite_parquet, row_schema
from .parts import Part, list_parts
from .rewriting import replace_frames

__all__ = ["Salvaged", "salvage_run"]


class Salvaged(msgspec.Struct, frozen=True):
    """A file that was damaged, and is mended."""

    path: Path
    copy: Path
    """The file as it was found."""
    kept: int
    """Episodes that could be read, or what else it holds."""
    content: str = "episodes"
    """What it holds."""

    def __str__(self) -> str:
        return (
            f"{self.path} was damaged: kept {self.kept} {self.content} that can be "
            f"read, and the file as it was at {self.copy}"
        )


def salvage_run(folder: Path) -> list[Salvaged]:
    """Mend the files of a run that are damaged; returns which.

    Raises:
        OSError: Something could not be written. That file is as it was.
    """
    parts = list_parts(folder)
    mended = [
        _mend(part) for part in parts if _is_damaged(part, growing=part is parts[-1])
    ]
    return [*mended, *_mend_attempts(folder)]


def _mend_attempts(folder: Path) -> Iterator[Salvaged]:
    try:
        read_attempts(folder)
    except RunDamaged:
        path = folder / ATTEMPTS_NAME
        copy = _keep(path)
        attempts = readable_attempts(copy)
        write_attempts(folder, attempts)
        yield Salvaged(path, copy, len(attempts), "earlier attempts")


def _is_damaged(part: Part, *, growing: bool) -> bool:
    try:
        if part.is_sealed:
            for _ in read_parquet_rows(part.path):
                pass
        else:
            arrays = ArrayFile(part.path.parent)
            for frame in whole_frames(part.path, growing=growing):
                read_entries(part.path, frame, arrays)
                for line in frame.lines():
                    parse_line(line, part.path)
    except RunDamaged:
        return True
    return False


def _mend(part: Part) -> Salvaged:
    copy = _keep(part.path)
    if part.is_sealed:
        kept = rewrite_parquet(part.path, row_schema(), readable_groups(copy))
    else:
        kept = replace_frames(part.path, _readable_lines(copy))
    return Salvaged(part.path, copy, kept)


def _keep(path: Path) -> Path:
    """Another name for a file as it is; the file itself may be replaced then."""
    number = 0
    copy = path.with_name(f"{path.name}.damaged")
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.name}.damaged-{number}")
    try:
        copy.hardlink_to(path)
    except OSError:
        # Not every file system has links.
        shutil.copyfile(path, copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(path.parent)
    return copy


def _readable_lines(path: Path) -> Iterator[list[bytes]]:
    """The episodes of a file that can be read, frame by frame."""
    arrays = ArrayFile(path.parent)
    for frame in _readable_frames(path):
        lines: list[bytes] = []
        for line in frame.lines():
            with contextlib.suppress(RunDamaged, msgspec.DecodeError):
                parse_line(line, path)
                check_arrays(arrays, [parse_head(line)])
                lines.append(line)
        if lines:
            yield lines


def _readable_frames(path: Path) -> Iterator[Frame]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start: int | None = 0
        while start is not None:
            end = start
            for frame in read_frames(file, start):
                yield frame
                end = frame.end
            start = find_frame(file, end + 1, size)
