"""The append-only part of a run, read: frames of JSON lines, and arrays beside them.

`episodes-NNNNN.jsonl.zst` holds one zstd frame for every flush, each with a checksum;
`arrays-NNNNN.bin` holds the bytes of the arrays that its lines name by offset and
checksum. Arrays are made durable before the lines that name them, so that a line never
names what is not there. A frame that only lacks its end was never acknowledged, if it
is the last one; whatever else is no frame is damage.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ...errors import RunDamaged
from .extras import zstandard
from .rows import JsonRow

__all__ = [
    "SALVAGE",
    "ArrayFile",
    "Frame",
    "Head",
    "arrays_name",
    "check_arrays",
    "find_frame",
    "frame_heads",
    "frames_name",
    "parse_head",
    "parse_line",
    "read_frames",
    "whole_frames",
]

SALVAGE: Final = (
    "episodes that were acknowledged can't be read; resuming with `salvage` "
    "(--salvage) keeps the others, and a copy of the file, and plays the lost ones "
    "again"
)
"""What to do about damage."""

_CHUNK: Final = 1 << 20
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""What a zstd frame begins with."""


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


def read_frames(file: BinaryIO, start: int = 0) -> Iterator[Frame]:
    """Yield the frames up to the end, or to the first one that is not whole.

    Compare the last one's `end` with the file's size to tell them apart.

    Args:
        file: Where they are.
        start: Where the first one begins.
    """
    decompressor = zstandard().ZstdDecompressor()
    file.seek(start)
    rest = b""
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
        growing: Whether somebody may be writing at its end, or was interrupted there:
            then the last frame may lack its end.

    Raises:
        RunDamaged: There is something else in it.
    """
    end = 0
    with path.open("rb") as file:
        while True:
            for frame in read_frames(file, end):
                yield frame
                end = frame.end
            # Looked at before the rest: of what is in it now, all but a last frame
            # was written as a whole.
            size = os.fstat(file.fileno()).st_size
            if end >= size:
                return
            if growing and next(read_frames(file, end), None) is not None:
                continue  # Somebody has written it meanwhile.
            if growing and _is_unfinished(file, end, size):
                return
            raise RunDamaged(
                f"expected whole frames in {str(path)!r}, got something else at byte "
                f"{end} of {size}: {SALVAGE}",
                detail={"file": str(path), "offset": end},
            )


def _is_unfinished(file: BinaryIO, start: int, size: int) -> bool:
    """Whether the rest of a file is a write that was interrupted, and nothing else.

    That is a frame without its end, as a process leaves it that was killed; or zeros,
    in place of all or of the last of it, as file systems leave them without power.
    """
    stop = _end_of_content(file, start, size)
    file.seek(start)
    frame = zstandard().ZstdDecompressor().decompressobj()
    try:
        while (left := stop - file.tell()) > 0:
            if not (chunk := file.read(min(_CHUNK, left))):
                break  # Its writer has cut it off.
            frame.decompress(chunk)
            if frame.eof:
                return False
    except zstandard().ZstdError:
        return False
    # Damage can make a frame seem longer than the file.
    return find_frame(file, start + 1, size) is None


def _end_of_content(file: BinaryIO, start: int, size: int) -> int:
    """Where the zeros at the end of a file begin."""
    stop = position = start
    file.seek(start)
    while position < size and (chunk := file.read(min(_CHUNK, size - position))):
        if content := chunk.rstrip(b"\0"):
            stop = position + len(content)
        position += len(chunk)
    return stop


def find_frame(file: BinaryIO, start: int, size: int) -> int | None:
    """Where the next whole frame of episodes begins, behind what is none."""
    position, kept = start, b""
    while position < size:
        file.seek(position)
        chunk = kept + file.read(min(_CHUNK, size - position))
        found, base = -1, position - len(kept)
        while (found := chunk.find(_MAGIC, found + 1)) >= 0:
            frame = next(read_frames(file, base + found), None)
            if frame is not None and frame.end <= size and _has_episodes(frame):
                return base + found
        position = base + len(chunk)
        kept = chunk[1 - len(_MAGIC) :]
        if len(chunk) < len(_MAGIC):
            return None
    return None


def _has_episodes(frame: Frame) -> bool:
    try:
        return bool(frame_heads(frame))
    except msgspec.DecodeError:
        return False


class _Place(msgspec.Struct, frozen=True):
    file: str
    offset: int
    nbytes: int
    crc32: int | None = None


class Head(msgspec.Struct, frozen=True):
    """As much of a line as says which episode it is, and what it needs."""

    id: str
    status: str
    arrays: list[_Place]


_heads: msgspec.json.Decoder[Head] = msgspec.json.Decoder(Head)


def frame_heads(frame: Frame) -> list[Head]:
    """What a frame's lines begin with.

    Raises:
        msgspec.DecodeError: They are no episodes.
    """
    return [parse_head(line) for line in frame.lines()]


def parse_head(line: bytes) -> Head:
    """What a line begins with.

    Raises:
        msgspec.DecodeError: It is no episode.
    """
    return _heads.decode(line)


def check_arrays(arrays: ArrayFile, heads: Iterable[Head]) -> None:
    """Make sure that the arrays of episodes are what was written.

    Raises:
        RunDamaged: A file is not there, too short, or holds something else.
    """
    for head in heads:
        for place in head.arrays:
            arrays.bytes_at(place.file, place.offset, place.nbytes, place.crc32)


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
            f"expected an episode in every line of {str(path)!r}: {error}; {SALVAGE}",
            detail={"file": str(path)},
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

    def bytes_at(
        self, name: str, offset: int, nbytes: int, crc32: int | None
    ) -> memoryview:
        """The bytes of an array, where its row says that they are.

        Args:
            name: The file's.
            offset: Where they begin.
            nbytes: How many there are.
            crc32: Their checksum; None where none was kept.

        Raises:
            RunDamaged: The file is not there, too short, or holds something else.
        """
        end = offset + nbytes
        if name != self._name or end > len(self._view):
            # It grows while somebody writes to it.
            self._view, self._name = self._map(name, end), name
        if not 0 <= offset <= end <= len(self._view):
            raise self._damaged(name, end, str(len(self._view)))
        found = self._view[offset:end]
        if crc32 is not None and zlib.crc32(found) != crc32:
            raise _damaged_arrays(
                self._folder / name,
                f"expected an array with the checksum {crc32:08x} in "
                f"{str(self._folder / name)!r} at byte {offset}, got "
                f"{zlib.crc32(found):08x}",
            )
        return found

    def _map(self, name: str, least: int) -> memoryview:
        path = self._folder / name
        if path.name != name:
            raise RunDamaged(f"expected the name of a file, got {name!r}")
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return memoryview(b"")  # Which cannot be mapped.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            found = f"no such file ({error.strerror})"
            raise self._damaged(name, least, found) from error
        return memoryview(mapped)

    def _damaged(self, name: str, least: int, found: str) -> RunDamaged:
        path = self._folder / name
        return _damaged_arrays(
            path, f"expected {least} bytes or more in {str(path)!r}, got {found}"
        )


def _damaged_arrays(path: Path, message: str) -> RunDamaged:
    return RunDamaged(f"{message}: {SALVAGE}", detail={"file": str(path)})
