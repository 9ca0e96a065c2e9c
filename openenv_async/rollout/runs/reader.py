"""`open_run`: reads the episodes of a run, also while somebody writes to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar, final

import msgspec

from ...errors import RunDamaged, RunError
from ..episodes import Episode
from .frames import ArrayFile, Head, check_arrays, parse_line, whole_frames
from .manifest import Manifest, read_manifest
from .parquet import (
    find_parquet_row,
    parquet_name,
    read_parquet_rows,
    read_parquet_summaries,
)
from .parts import list_parts
from .rows import JsonRow, ParquetRow, Summary, unpack

__all__ = ["Run", "open_run"]


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run for reading; nothing is locked and nothing changed.

    Raises:
        RunError: There is no run, or it was written by a newer version.
        RunDamaged: Its manifest can't be read.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest is None:
        raise RunError(
            f"expected a run with a manifest at {str(path)!r}, got none",
            fault="caller",
        )
    return Run(path, manifest)


@final
class Run:
    """A run on disk; made by `open_run`.

    Whatever it reads, it holds one frame or one row group at a time. It blocks: from
    async code call it in a thread.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __iter__(self) -> Iterator[Episode[Any, Any]]:
        return self.episodes()

    def episodes(self) -> Iterator[Episode[Any, Any]]:
        """Yield the episodes in the order in which they were written, about.

        Actions are plain values and observations `GenericObservation`, with `Array`
        and bytes where they were.

        Raises:
            RunDamaged: What was acknowledged can't be read any more.
        """
        arrays = ArrayFile(self.folder)
        yield from self._rows(
            lambda line, path: _of_json(parse_line(line, path), arrays),
            lambda path, done: map(
                _of_parquet, islice(read_parquet_rows(path), done, None)
            ),
        )

    def summaries(self, *, verify: bool = False) -> Iterator[Summary]:
        """Yield the episodes without their steps: much cheaper.

        Args:
            verify: Whether to check all that is not needed for it, too: the arrays of
                JSON lines, and the other columns of Parquet. Otherwise damage there
                shows when an episode is read.

        Raises:
            RunDamaged: What was acknowledged can't be read any more.
        """
        arrays = ArrayFile(self.folder)

        def of_line(line: bytes, path: Path) -> Summary:
            if verify:
                check_arrays(arrays, [_parsed(_HEADS, line, path)])
            return _parsed(_SUMMARIES, line, path)

        yield from self._rows(
            of_line,
            lambda path, done: islice(
                read_parquet_summaries(path, verify=verify), done, None
            ),
        )

    def episode(self, id: str) -> Episode[Any, Any]:
        """Read one episode by its id, `TASK/INDEX`.

        From Parquet it reads the ids and one row group; JSON lines it has to
        decompress, but parses only that one.

        Raises:
            RunError: There is none.
            RunDamaged: What was acknowledged can't be read any more.
        """
        # What every line begins with; the id is its first column.
        start = b'{"id":' + msgspec.json.encode(id) + b","
        arrays = ArrayFile(self.folder)

        def of_line(line: bytes, path: Path) -> Episode[Any, Any] | None:
            if line.startswith(start):
                return _of_json(parse_line(line, path), arrays)
            return None

        def of_sealed(path: Path, _done: int) -> Iterator[Episode[Any, Any] | None]:
            row = find_parquet_row(path, id)
            yield None if row is None else _of_parquet(row)

        for found in self._rows(of_line, of_sealed):
            if found is not None:
                return found
        raise RunError(
            f"expected an episode of {str(self.folder)!r}, got {id!r}", fault="caller"
        )

    def _rows(
        self,
        of_line: Callable[[bytes, Path], RowT],
        of_sealed: Callable[[Path, int], Iterator[RowT]],
    ) -> Iterator[RowT]:
        """Read all parts in order, each as what it is: frames, or a Parquet file.

        Args:
            of_line: What to make of a line of a file.
            of_sealed: What to make of a Parquet file, whose first episodes, so many,
                were lines when they were read.
        """
        parts = list_parts(self.folder)
        for part in parts:
            done = 0
            try:
                if not part.is_sealed:
                    growing = part is parts[-1]
                    for frame in whole_frames(part.path, growing=growing):
                        for line in frame.lines():
                            yield of_line(line, part.path)
                            done += 1
                    continue
            except (FileNotFoundError, RunDamaged) as error:
                # A writer may have sealed it meanwhile, and removed frames and arrays.
                if not (self.folder / parquet_name(part.number)).exists():
                    raise _damaged(part.path, error) from error
            sealed = self.folder / parquet_name(part.number)
            # Its rows are in the order of the lines.
            yield from of_sealed(sealed, done)


RowT = TypeVar("RowT")


def _damaged(path: Path, error: Exception) -> RunDamaged:
    if isinstance(error, RunDamaged):
        return error
    return RunDamaged(f"expected episodes in {str(path)!r}: {error}")


_HEADS: Final = msgspec.json.Decoder(Head)
_SUMMARIES: Final = msgspec.json.Decoder(Summary)


def _parsed(decoder: msgspec.json.Decoder[RowT], line: bytes, path: Path) -> RowT:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise RunDamaged(
            f"expected an episode in every line of {str(path)!r}: {error}"
        ) from error


def _of_parquet(row: ParquetRow) -> Episode[Any, Any]:
    return unpack(row, row.arrays, lambda index: row.arrays[index].data)


def _of_json(row: JsonRow, arrays: ArrayFile) -> Episode[Any, Any]:
    def load(index: int) -> memoryview:
        place = row.arrays[index]
        return arrays.bytes_at(place.file, place.offset, place.nbytes, place.crc32)

    return unpack(row, row.arrays, load)
