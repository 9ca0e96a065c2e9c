"""Rewrites a file of frames as a whole: to drop episodes, or to begin with a good one.

The file is replaced when the new one is durable: whenever that is interrupted, there is
the old one or the new one. The arrays beside it stay as they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from .extras import zstandard
from .frames import read_frames, whole_frames
from .manifest import sync_folder

__all__ = ["drop_lines", "put_typical_first", "replace_frames"]


class _Shape(msgspec.Struct):
    """As much of a line as is needed here."""

    status: str
    steps: list[msgspec.Raw]
    return_: float | None = msgspec.field(name="return")

    @property
    def is_typical(self) -> bool:
        return self.return_ is not None and bool(self.steps)


_SHAPES: Final = msgspec.json.Decoder(_Shape)


def put_typical_first(path: Path) -> None:
    """Move a frame with a typical episode to the front, unless there is one already.

    Tools that read JSON lines infer types from the first rows. Where these have no
    return and no steps, because a run began with failures, later ones would not fit.
    The order of episodes in a file has no meaning.

    Raises:
        OSError: It could not be written. The file is as it was.
    """
    with path.open("rb") as file:
        for frame in read_frames(file):
            lines = frame.lines()
            good = (line for line in lines if _SHAPES.decode(line).is_typical)
            typical = next(good, None)
            if typical is not None:
                break
        else:
            return
        if frame.start == 0 and lines[0] is typical:
            return
        lines.remove(typical)
        with _Replacement(path) as target:
            target.write(_frame([typical, *lines]))
            _copy(file, target, 0, frame.start)
            _copy(file, target, frame.end, None)


def drop_lines(path: Path, statuses: Collection[str], *, growing: bool) -> None:
    """Drop the episodes that ended so; a file without any others goes.

    Args:
        path: The file.
        statuses: How they ended.
        growing: Whether somebody may have been interrupted at its end.

    Raises:
        OSError: It could not be written. The file is as it was.
        RunDamaged: It has more than whole frames.
    """
    kept = 0
    with _Replacement(path) as target:
        dropped = 0
        for frame in whole_frames(path, growing=growing):
            lines = frame.lines()
            left = [
                line for line in lines if _SHAPES.decode(line).status not in statuses
            ]
            kept += len(left)
            dropped += len(lines) - len(left)
            if left:
                target.write(_frame(left))
        if not dropped:
            target.abandon()
    if dropped and not kept:
        path.unlink()


def replace_frames(path: Path, frames: Iterable[Sequence[bytes]]) -> int:
    """Put these lines in the place of a file's, frame by frame; returns how many.

    Raises:
        OSError: It could not be written. The file is as it was.
    """
    kept = 0
    with _Replacement(path) as target:
        for lines in frames:
            target.write(_frame(lines))
            kept += len(lines)
    if not kept:
        path.unlink()
        sync_folder(path.parent)
    return kept


class _Replacement:
    """A new file that takes the place of another one, once it is durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.tmp")
        self._is_abandoned = False

    def __enter__(self) -> _Replacement:
        self.file: BinaryIO = self._temporary.open("wb")
        return self

    def write(self, content: bytes) -> None:
        """Append to it."""
        self.file.write(content)

    def abandon(self) -> None:
        """Leave the other one as it is."""
        self._is_abandoned = True

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            with self.file:
                if kind is None and not self._is_abandoned:
                    self.file.flush()
                    os.fsync(self.file.fileno())
            if kind is None and not self._is_abandoned:
                self._temporary.replace(self._path)
                sync_folder(self._path.parent)
        finally:
            self._temporary.unlink(missing_ok=True)


def _frame(lines: Iterable[bytes]) -> bytes:
    compressor = zstandard().ZstdCompressor(write_checksum=True)
    compressed: bytes = compressor.compress(b"".join(line + b"\n" for line in lines))
    return compressed


def _copy(source: BinaryIO, target: _Replacement, start: int, end: int | None) -> None:
    source.seek(start)
    if end is None:
        shutil.copyfileobj(source, target.file)
        return
    while (left := end - source.tell()) > 0:
        target.write(source.read(min(left, 1 << 20)))
