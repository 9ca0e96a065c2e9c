"""The append-only part of a run: frames of JSON lines, and the arrays beside them.

`episodes-NNNNN.jsonl.zst` holds one zstd frame for every flush, each with a checksum;
`arrays-NNNNN.bin` holds the bytes of the arrays that its lines name by offset. Arrays
are made durable before the lines that name them, so that a line never names what is
not there. What is behind the last whole frame was never acknowledged.
"""

from __future__ import annotations

import io
import mmap
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
from .manifest import sync_folder
from .rows import JsonRow, Packed, pack

__all__ = [
    "ArrayFile",
    "Frame",
    "FramesFile",
    "arrays_name",
    "episode_ids",
    "frames_name",
    "parse_line",
    "read_frames",
    "whole_frames",
]

_CHUNK: Final = 1 << 20
_LEVEL: Final = 3
"""zstd's default: about 400 MB/s, and within a tenth of what twice the time gets."""
_FRAME_BYTES: Final = 16 << 20
"""Lines and arrays of a frame, about: what a reader holds at a time."""
_MOST_BUFFERS: Final = 512
"""Buffers that one `writev` takes; systems allow 1,024."""


def frames_name(number: int) -> str:
    """Name of a part's file of lines."""
    return f"episodes-{number:05}.jsonl.zst"


def arrays_name(number: int) -> str:
    """Name of a part's file of arrays."""
    return f"arrays-{number:05}.bin"


# Reading


class Frame(msgspec.Struct, frozen=True):
    """What one flush wrote."""

    content: bytes
    """Whole lines."""
    start: int
    """Where it begins in the file."""
    end: int
    """Where the next one begins."""

    def lines(self) -> list[bytes]:
        """Its lines, without the ends of lines."""
        return self.content.splitlines()


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Yield the frames up to the end, or to the first one that is not whole.

    Compare the last one's `end` with the file's size to tell them apart.
    """
    decompressor = zstandard().ZstdDecompressor()
    start, rest = 0, b""
    while chunk := rest or file.read(_CHUNK):
        frame = decompressor.decompressobj()
        parts: list[bytes] = []
        end = start
        try:
            while not frame.eof:
                parts.append(frame.decompress(chunk))
                end += len(chunk)
                if not frame.eof and not (chunk := file.read(_CHUNK)):
                    return  # The end of the file comes before that of the frame.
        except zstandard().ZstdError:
            return
        rest = frame.unused_data
        end -= len(rest)
        yield Frame(b"".join(parts), start, end)
        start = end


def whole_frames(path: Path, *, growing: bool = False) -> Iterator[Frame]:
    """Yield the frames of a file.

    Args:
        path: The file.
        growing: Whether somebody may be writing at its end, or was interrupted there.

    Raises:
        RunDamaged: There is something else in it.
    """
    end = 0
    with path.open("rb") as file:
        for frame in read_frames(file):
            yield frame
            end = frame.end
        size = os.fstat(file.fileno()).st_size
    if end < size and not growing:
        raise RunDamaged(
            f"expected whole frames in {str(path)!r}, got something else at byte {end} "
            f"of {size}"
        )


def episode_ids(frame: Frame) -> list[str]:
    """The ids of a frame's episodes."""
    # A line begins with the id, so the rest is skipped and not parsed.
    return [_decode_id(line).id for line in frame.lines()]


class _Id(msgspec.Struct):
    id: str


def _decode_id(line: bytes) -> _Id:
    return msgspec.json.decode(line, type=_Id)


_rows: msgspec.json.Decoder[JsonRow] = msgspec.json.Decoder(JsonRow)


def parse_line(line: bytes, path: Path) -> JsonRow:
    """Decode a line.

    Raises:
        RunDamaged: It is no episode.
    """
    try:
        return _rows.decode(line)
    except msgspec.DecodeError as error:
        raise RunDamaged(
            f"expected an episode in every line of {str(path)!r}: {error}"
        ) from error


class ArrayFile:
    """Views of a file of arrays; the file stays mapped as long as one is alive.

    Args:
        folder: Where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = ""
        self._view = memoryview(b"")

    def bytes_at(self, name: str, offset: int, nbytes: int) -> memoryview:
        """The bytes of an array, where its row says that they are.

        Raises:
            RunDamaged: The file is not there, or too short.
        """
        end = offset + nbytes
        if name != self._name or end > len(self._view):
            # It grows while somebody writes to it.
            self._view, self._name = self._map(name), name
        if not 0 <= offset <= end <= len(self._view):
            raise RunDamaged(
                f"expected {end} bytes or more in {str(self._folder / name)!r}, "
                f"got {len(self._view)}"
            )
        return self._view[offset:end]

    def _map(self, name: str) -> memoryview:
        path = self._folder / name
        if path.name != name:
            raise RunDamaged(f"expected the name of a file, got {name!r}")
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return memoryview(b"")  # Which cannot be mapped.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise RunDamaged(
                f"expected arrays in {str(path)!r}, got no such file: {error}"
            ) from error
        return memoryview(mapped)


# Writing


class FramesFile:
    """One part, open for appending.

    Opening it cuts off what was never acknowledged.

    Args:
        folder: The run's.
        number: The part's.
        durable: Whether what is appended outlives a loss of power.
    """

    def __init__(self, folder: Path, number: int, *, durable: bool = True) -> None:
        self.number = number
        self.path = folder / frames_name(number)
        self._durable = durable
        self._compressor = zstandard().ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._arrays_path = folder / arrays_name(number)
        self._arrays: io.FileIO | None = None
        self._arrays_size = 0
        self.ids: list[str] = []
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
        with self.path.open("rb") as file:
            for frame in read_frames(file):
                try:
                    self.ids += episode_ids(frame)
                except msgspec.DecodeError as error:
                    # With a checksum that fits: nobody was interrupted here.
                    raise RunDamaged(
                        f"expected lines of episodes in {str(self.path)!r} at byte "
                        f"{frame.start}, got something else: {error}"
                    ) from error
                self._size = frame.end
        self.count = len(self.ids)
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
                packed.append(error)
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
