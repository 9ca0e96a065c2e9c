"""Sealed parts of a run: Parquet files, made of frames, and read row by row.

A part is converted as a whole under another name, made durable, and renamed; only then
its frames are removed. Whenever that is interrupted, the part is there once. Nearly
all of it happens in Arrow's own code, without the interpreter's lock.
"""

from __future__ import annotations

import os
import types
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, Union, get_args, get_origin

import msgspec

from ...errors import RunDamaged
from .extras import arrow_json, parquet, pyarrow
from .frames import (
    SALVAGE,
    ArrayFile,
    Frame,
    arrays_name,
    frames_name,
    whole_frames,
)
from .manifest import FORMAT_VERSION, sync_folder
from .rows import JsonRow, ParquetRow, PastRow, Summary

__all__ = [
    "drop_parquet_rows",
    "find_parquet_row",
    "open_parquet",
    "parquet_entries",
    "parquet_name",
    "read_parquet_past",
    "read_parquet_rows",
    "read_parquet_summaries",
    "readable_groups",
    "remove_frames",
    "rewrite_parquet",
    "row_schema",
    "seal_part",
]

_GROUP_BYTES: Final = 8 << 20
"""Bytes of a row group in memory: what a reader holds at least."""
_BATCH: Final = 16
"""Episodes that are turned into Python objects at a time."""


def parquet_name(number: int) -> str:
    """Name of a sealed part."""
    return f"episodes-{number:05}.parquet"


# Columns


def _schema(row: type[msgspec.Struct]) -> Any:
    """The Arrow schema of a kind of rows."""
    arrow = pyarrow()
    return arrow.schema(
        [_field(arrow, field) for field in msgspec.structs.fields(row)],
        metadata={"openenv_async.format_version": str(FORMAT_VERSION)},
    )


def row_schema() -> Any:
    """The Arrow schema of the episodes in a file."""
    return _schema(ParquetRow)


def _field(arrow: Any, field: msgspec.structs.FieldInfo) -> Any:
    kind = field.type
    if get_origin(kind) in (Union, types.UnionType):
        kind, _ = get_args(kind)  # The other one is None: every column is nullable.
    return arrow.field(field.encode_name, _type(arrow, kind))


def _type(arrow: Any, kind: Any) -> Any:
    if get_origin(kind) is list:
        return arrow.list_(_type(arrow, get_args(kind)[0]))
    if issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        return arrow.struct([_field(arrow, field) for field in fields])
    plain: dict[type, Any] = {
        bool: arrow.bool_(),
        int: arrow.int64(),
        float: arrow.float64(),
        str: arrow.string(),
        # Large, because the arrays of one episode may be more than 2 GiB.
        bytes: arrow.large_binary(),
    }
    return plain[kind]


# Sealing


def open_parquet(path: Path) -> Any:
    """Open a file whose pages are checked as they are read.

    Its footer has no checksum, but says twice how many rows there are, and what the
    columns are is known.

    Raises:
        RunDamaged: The footer is damaged.
    """
    file = parquet().ParquetFile(path, page_checksum_verification=True)
    rows = file.metadata.num_rows
    groups = [
        file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
    ]
    if not rows or rows != sum(groups):
        file.close()
        raise _unreadable(path, ValueError(f"{rows} rows, in groups of {groups}"))
    schema = file.schema_arrow
    for field in row_schema():
        if schema.get_field_index(field.name) < 0 or schema.field(field.name) != field:
            file.close()
            raise _unreadable(path, ValueError(f"no column like {field}"))
    return file


def _writer(sink: BinaryIO, schema: Any) -> Any:
    return parquet().ParquetWriter(
        sink, schema, compression="zstd", write_page_checksum=True
    )


def seal_part(folder: Path, number: int) -> None:
    """Turn a part's frames into a Parquet file; once it is there, they are removed.

    Raises:
        OSError: It could not be written. The frames are still there.
        RunDamaged: The frames are not whole.
    """
    frames = folder / frames_name(number)
    target = folder / parquet_name(number)
    temporary = target.with_suffix(".parquet.tmp")
    try:
        _convert(frames, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    remove_frames(folder, number)


def remove_frames(folder: Path, number: int) -> None:
    """Remove the frames of a part, the lines first: without them nobody misses rest."""
    (folder / frames_name(number)).unlink(missing_ok=True)
    (folder / arrays_name(number)).unlink(missing_ok=True)


def _convert(source: Path, target: Path) -> None:
    schema = row_schema()
    arrays = ArrayFile(source.parent)
    tables: list[Any] = []
    with target.open("wb") as sink:
        with _writer(sink, schema) as writer:
            size = 0
            for frame in whole_frames(source):
                table = _table(frame, source, arrays, schema)
                tables.append(table)
                size += table.nbytes
                if size >= _GROUP_BYTES:
                    _write_group(writer, tables)
                    size = 0
            if tables:
                _write_group(writer, tables)
        sink.flush()
        os.fsync(sink.fileno())


def _write_group(writer: Any, tables: list[Any]) -> None:
    table = pyarrow().concat_tables(tables)
    tables.clear()
    writer.write_table(table, row_group_size=max(1, table.num_rows))


def _table(frame: Frame, path: Path, arrays: ArrayFile, schema: Any) -> Any:
    """A frame as a table, with the arrays in it."""
    arrow = pyarrow()
    reader = arrow_json()
    try:
        table = reader.read_json(
            arrow.BufferReader(frame.content),
            # A line must fit into a block, and so the whole frame is one.
            read_options=reader.ReadOptions(
                use_threads=False, block_size=len(frame.content) + 1
            ),
            parse_options=reader.ParseOptions(
                explicit_schema=_schema(JsonRow), unexpected_field_behavior="error"
            ),
        )
    except arrow.ArrowInvalid as error:
        raise RunDamaged(
            f"expected lines of episodes in {str(path)!r} at byte {frame.start}: "
            f"{error}"
        ) from error
    columns = {name: table.column(name) for name in schema.names}
    column = columns["arrays"].combine_chunks()
    columns["arrays"] = _stored(column, arrays, schema.field("arrays").type)
    return arrow.Table.from_arrays(list(columns.values()), schema=schema)


def _stored(column: Any, arrays: ArrayFile, kind: Any) -> Any:
    """The column of arrays, with their bytes instead of where these are."""
    arrow = pyarrow()
    flat = column.flatten()
    # Whole columns at once, because this holds the interpreter's lock.
    places = (
        flat.field(name).to_pylist() for name in ("file", "offset", "nbytes", "crc32")
    )
    views = list(map(arrays.bytes_at, *places))
    data = arrow.array(views, arrow.large_binary())
    parts = [flat.field("dtype"), flat.field("shape"), data]
    item = kind.value_type
    structs = arrow.StructArray.from_arrays(
        parts, fields=[item.field(index) for index in range(item.num_fields)]
    )
    return arrow.ListArray.from_arrays(column.offsets, structs)


def drop_parquet_rows(path: Path, statuses: Collection[str]) -> None:
    """Drop the episodes that ended so; a file without any others goes.

    Raises:
        OSError: It could not be written. The file is as it was.
        RunDamaged: It can't be read.
    """
    if not any(summary.status in statuses for summary in read_parquet_summaries(path)):
        return
    try:
        with open_parquet(path) as file:
            groups = map(file.read_row_group, range(file.num_row_groups))
            rewrite_parquet(
                path,
                file.schema_arrow,
                (_without(table, statuses) for table in groups),
            )
    except pyarrow().ArrowException as error:
        raise _unreadable(path, error) from error


def _without(table: Any, statuses: Collection[str]) -> Any:
    ended = table.column("status").to_pylist()
    keep = [status not in statuses for status in ended]
    return table.filter(pyarrow().array(keep, pyarrow().bool_()))


def rewrite_parquet(path: Path, schema: Any, tables: Iterable[Any]) -> int:
    """Put these rows in the place of a file's; returns how many.

    Without any, the file goes.

    Raises:
        OSError: It could not be written. The file is as it was.
    """
    temporary = path.with_suffix(".parquet.tmp")
    kept = 0
    try:
        with temporary.open("wb") as sink:
            with _writer(sink, schema) as writer:
                for table in tables:
                    kept += table.num_rows
                    if table.num_rows:
                        _write_group(writer, [table])
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if not kept:
        path.unlink()
    sync_folder(path.parent)
    return kept


# Reading


def parquet_entries(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and status of a file's episodes, and check all of it on the way.

    Raises:
        RunDamaged: It can't be read, wherever that is.
    """
    for row in _records(path, ["id", "status"], size=_BATCH, verify=True):
        yield str(row["id"]), str(row["status"])


def read_parquet_summaries(path: Path, *, verify: bool = False) -> Iterator[Summary]:
    """Yield a file's episodes without their steps.

    Args:
        path: The file.
        verify: Whether to read the rest of it, too, for its checksums.

    Raises:
        RunDamaged: It can't be read.
    """
    names = [field.encode_name for field in msgspec.structs.fields(Summary)]
    for row in _records(path, names, size=_BATCH if verify else 1024, verify=verify):
        yield _converted(row, Summary, path)


def read_parquet_past(path: Path) -> Iterator[PastRow]:
    """Yield a file's episodes with what failed before them, but without their steps.

    Raises:
        RunDamaged: It can't be read.
    """
    names = [field.encode_name for field in msgspec.structs.fields(PastRow)]
    for row in _records(path, names, size=1024):
        yield _converted(row, PastRow, path)


def readable_groups(path: Path) -> Iterator[Any]:
    """Yield the row groups that can be read wholly, of a file that may be damaged."""
    arrow = pyarrow()
    try:
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                try:
                    table = file.read_row_group(group)
                    for row in table.to_pylist():
                        _converted(row, ParquetRow, path)
                except (arrow.ArrowException, OSError, RunDamaged):
                    continue
                yield table
    except (arrow.ArrowException, OSError):
        # Without its end, which says where everything is, nothing can be read.
        return


def read_parquet_rows(path: Path) -> Iterator[ParquetRow]:
    """Yield a file's episodes.

    Raises:
        RunDamaged: It can't be read.
    """
    for row in _records(path, None, size=_BATCH):
        yield _converted(row, ParquetRow, path)


def find_parquet_row(path: Path, id: str) -> ParquetRow | None:
    """Read one episode, with its row group alone; None if it is not there.

    Raises:
        RunDamaged: The file can't be read.
    """
    try:
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["id"]).column("id")
                index = ids.index(id).as_py()
                if index >= 0:
                    (row,) = file.read_row_group(group).slice(index, 1).to_pylist()
                    return _converted(row, ParquetRow, path)
    except (pyarrow().ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return None


RowT = TypeVar("RowT", bound=Summary)


def _records(
    path: Path, columns: list[str] | None, *, size: int, verify: bool = False
) -> Iterator[dict[str, object]]:
    """Yield these columns of a file's rows; all columns if there are none named.

    Args:
        path: The file.
        columns: Their names.
        size: Rows to read at a time.
        verify: Whether to read the other columns, too: every page has a checksum.
    """
    read = None if verify else columns
    try:
        with open_parquet(path) as file:
            left = file.metadata.num_rows
            for batch in file.iter_batches(size, columns=read, use_threads=False):
                wanted = batch if columns is None else batch.select(columns)
                yield from wanted.to_pylist()
                left -= batch.num_rows
            if left:
                raise _unreadable(path, ValueError(f"{left} rows less than it says"))
    except FileNotFoundError:
        raise
    except (pyarrow().ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _converted(row: dict[str, object], kind: type[RowT], path: Path) -> RowT:
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunDamaged:
    reason = " ".join(str(error).split())  # Arrow's are of several lines.
    return RunDamaged(
        f"expected a Parquet file of episodes at {str(path)!r}, got one that can't be "
        f"read: {reason}; {SALVAGE}",
        detail={"file": str(path)},
    )
