"""The append-only part of a run, written: flush by flush, and whole after each.

See `frames` for what is in the files.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ...errors import LocalProtocolError, RunDamaged
from ..episodes import Episode
from .extras import zstandard
from .frames import (
    SALVAGE,
    ArrayFile,
    Frame,
    arrays_name,
    check_arrays,
    frame_heads,
    frames_name,
    whole_frames,
)
from .manifest import sync_folder
from .rows import Packed, pack
from .unwritable import unwritable

__all__ = ["Entry", "FramesFile", "read_entries"]

Entry = tuple[str, str]
"""An episode's id, and its status."""

_LEVEL: Final = 3
"""zstd's default: about 400 MB/s, and within a tenth of what twice the time gets."""
_FRAME_BYTES: Final = 16 << 20
"""Lines and arrays of a frame, about: what a reader holds at a time."""
_MOST_BUFFERS: Final = 512
"""Buffers that one `writev` takes; systems allow 1,024."""


def read_entries(path: Path, frame: Frame, arrays: ArrayFile) -> list[Entry]:
    """Which episodes a frame has, once it is sure that their arrays are whole.

    Raises:
        RunDamaged: They are none, or not all arrays are.
    """
    try:
        heads = frame_heads(frame)
    except msgspec.DecodeError as error:
        # With a checksum that fits: nobody was interrupted here.
        raise RunDamaged(
            f"expected lines of episodes in {str(path)!r} at byte {frame.start}, got "
            f"something else: {error}; {SALVAGE}",
            detail={"file": str(path), "offset": frame.start},
        ) from error
    check_arrays(arrays, heads)
    return [(head.id, head.status) for head in heads]


class FramesFile:
    """One part, open for appending.

    Opening it cuts off a last frame that was never acknowledged, because it lacks its
    end.

    Args:
        folder: The run's.
        number: The part's.
        durable: Whether what is appended outlives a loss of power.

    Raises:
        RunDamaged: There is anything else that can't be read.
    """

    def __init__(self, folder: Path, number: int, *, durable: bool = True) -> None:
        self.number = number
        self.path = folder / frames_name(number)
        self._durable = durable
        self._compressor = zstandard().ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._arrays_path = folder / arrays_name(number)
        self._arrays: io.FileIO | None = None
        self._arrays_size = 0
        self.entries: list[Entry] = []
        """Of the episodes that were there when it was opened."""
        self.count = 0
        """Episodes that are there."""
        # Not buffered: what was written has left this process.
        self._file = self.path.open("ab+", buffering=0)
        try:
            self.torn = self._recover()
            """How many bytes were cut off."""
            if self._arrays_path.exists():
                self._open_arrays()
            self._sync_folder()
        except BaseException:
            self.close()
            raise

    @property
    def nbytes(self) -> int:
        """Size of both files."""
        return self._size + self._arrays_size

    def _recover(self) -> int:
        self._size = 0
        arrays = ArrayFile(self.path.parent)
        for frame in whole_frames(self.path, growing=True):
            self.entries += read_entries(self.path, frame, arrays)
            self._size = frame.end
        self.count = len(self.entries)
        torn = os.fstat(self._file.fileno()).st_size - self._size
        if torn:
            self._file.truncate(self._size)
            self._sync(self._file)
        return torn

    def _open_arrays(self) -> io.FileIO:
        if self._arrays is None:
            self._arrays = io.FileIO(self._arrays_path, "ab")
            self._sync_folder()
            # Bytes that no line names are left: they do no harm.
            self._arrays_size = os.fstat(self._arrays.fileno()).st_size
        return self._arrays

    def append(
        self, episodes: Sequence[Episode[object, object]]
    ) -> list[LocalProtocolError | None]:
        """Write episodes; when it returns, they stay.

        Returns:
            For each, why it could not be written; the others are.

        Raises:
            OSError: They could not be written. None of them is there.
        """
        packed: list[Packed | LocalProtocolError] = []
        name, offset = self._arrays_path.name, self._aligned_size()
        padding = offset - self._arrays_size
        for episode in episodes:
            try:
                done = pack(episode, file=name, offset=offset)
            except LocalProtocolError as error:
                packed.append(unwritable(episode, error))
            else:
                packed.append(done)
                # Lets go of the interpreter's lock, which the event loop waits for.
                time.sleep(0)
                offset += sum(map(_nbytes, done.buffers))
        written = [entry for entry in packed if isinstance(entry, Packed)]
        if written:
            buffers = [buffer for entry in written for buffer in entry.buffers]
            # Readers that look at the first rows only should see all types there.
            written.sort(key=lambda entry: not entry.is_typical)
            self._write([bytes(padding), *buffers] if buffers else [], _split(written))
            self.count += len(written)
        return [entry if isinstance(entry, Exception) else None for entry in packed]

    def _aligned_size(self) -> int:
        return self._arrays_size + -self._arrays_size % 8

    def _write(
        self, buffers: list[bytes | memoryview], contents: Iterable[bytes]
    ) -> None:
        before = self._size, self._arrays_size
        try:
            if buffers:
                arrays = self._open_arrays()
                self._arrays_size += _write_all(arrays, buffers)
                self._sync(arrays)
            frames = [self._compressor.compress(content) for content in contents]
            self._size += _write_all(self._file, frames)
            self._sync(self._file)
        except BaseException:
            self._size, self._arrays_size = before
            self._undo()
            raise

    def _undo(self) -> None:
        """Cut off what a failed write left, as far as the disk lets us."""
        for file, size in (
            (self._file, self._size),
            (self._arrays, self._arrays_size),
        ):
            if file is not None:
                try:
                    os.ftruncate(file.fileno(), size)
                except OSError:
                    # The next opening does it.
                    return

    def _sync(self, file: io.FileIO | BinaryIO) -> None:
        if self._durable:
            os.fsync(file.fileno())

    def _sync_folder(self) -> None:
        if self._durable:
            sync_folder(self.path.parent)

    def finish(self) -> None:
        """Close a part that is followed by another one: it has to be whole."""
        if not self._file.closed:
            for file in (self._arrays, self._file):
                if file is not None:
                    os.fsync(file.fileno())
        self.close()

    def close(self) -> None:
        """Close the files; idempotent."""
        self._file.close()
        if self._arrays is not None:
            self._arrays.close()


def _split(packed: Iterable[Packed]) -> Iterator[bytes]:
    """The contents of frames, each of a size that a reader can hold."""
    lines: list[bytes] = []
    size = 0
    for entry in packed:
        lines += entry.line, b"\n"
        size += len(entry.line) + sum(map(_nbytes, entry.buffers))
        if size >= _FRAME_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
    if lines:
        yield b"".join(lines)


def _nbytes(buffer: bytes | memoryview) -> int:
    return memoryview(buffer).nbytes


def _write_all(
    file: io.FileIO | BinaryIO, buffers: Sequence[bytes | memoryview]
) -> int:
    """Write buffers one after the other; returns how many bytes that was."""
    left = deque(memoryview(buffer).cast("B") for buffer in buffers if _nbytes(buffer))
    total = sum(buffer.nbytes for buffer in left)
    while left:
        written = os.writev(file.fileno(), list(islice(left, _MOST_BUFFERS)))
        while left and written >= left[0].nbytes:
            written -= left.popleft().nbytes
        if written:
            left[0] = left[0][written:]
    return total
