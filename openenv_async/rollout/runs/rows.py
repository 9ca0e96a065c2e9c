"""Episodes as rows of a table, the same in both formats, and back.

What differs from environment to environment - actions, observations, extras - is JSON
text in columns of strings. So all files of all runs have the same columns and types,
which is what lets tools read many of them as one table, whatever the first rows hold.
Bytes and arrays are not in the text: `{"$array": 3}` stands for the fourth entry of the
row's column `arrays`, `{"$bytes": 3}` the same for plain bytes. `{"$float": "nan"}` is
a number that JSON does not have, and `{"$escaped": {...}}` a map that looked like one
of these by itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final, cast

import msgspec

from ...arrays import Array, encodable
from ...client import GenericObservation
from ...errors import LocalProtocolError, RunDamaged
from ..episodes import (
    Attempt,
    EnvironmentFailure,
    Episode,
    EpisodeStep,
    EpisodeTiming,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    StepTiming,
    Task,
    Terminated,
    Truncated,
)

__all__ = [
    "PACKING_ERRORS",
    "ArrayRow",
    "FailureRow",
    "JsonRow",
    "Packed",
    "ParquetRow",
    "PastRow",
    "PlacedArrayRow",
    "Row",
    "StepRow",
    "StoredArrayRow",
    "Summary",
    "attempts_of",
    "check_writable",
    "pack",
    "unpack",
]

_ALIGNMENT: Final = 8
"""Arrays begin at multiples of this, so that a view of the file is an aligned array."""


class FailureRow(msgspec.Struct, frozen=True):
    """Why an episode failed; empty for one that did not.

    Never null, because readers that infer types want to see a struct in every row.
    """

    name: str = ""
    """The exception's class, or the code of an infrastructure failure."""
    message: str = ""
    traceback: str = ""
    executed: str = ""
    retryable: bool = False


class StepRow(msgspec.Struct, frozen=True):
    """A step."""

    action: str
    observation: str
    reward: float | None
    terminated: bool
    truncated: bool
    extras: str
    prompt_token_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None
    timing: StepTiming


_TYPED: Final[dict[str, type]] = {
    "prompt_token_ids": int,
    "token_ids": int,
    "logprobs": float,
}
"""Extras of steps that have columns of their own, if they are lists of that type."""


class ArrayRow(msgspec.Struct, frozen=True):
    """What an array is like."""

    dtype: str
    """NumPy's type string; empty for plain bytes."""
    shape: list[int]


class PlacedArrayRow(ArrayRow, frozen=True):
    """An array in a file beside."""

    file: str
    offset: int
    nbytes: int
    crc32: int | None = None
    """Of the bytes; None in runs that were begun before there was one."""


class StoredArrayRow(ArrayRow, frozen=True):
    """An array in the row itself."""

    data: bytes


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """An episode without its steps: cheap to read, whatever its size."""

    id: str
    # First of all columns, so that a line of JSON begins with it.
    environment: str
    task: str
    group: str
    group_index: int
    group_size: int
    seed: int
    status: str
    reason: str
    failure: FailureRow
    return_: float | None = msgspec.field(name="return")
    length: int
    attempt: int
    started: float
    session: str
    timing: EpisodeTiming
    nonfinite: str

    @property
    def label(self) -> str:
        """The status, with what it was about."""
        about = self.reason or self.failure.name
        return f"{self.status}: {about}" if about else self.status

    @property
    def is_not_finite(self) -> bool:
        """Whether it has a return that is no number, and counts as none."""
        return '"return"' in self.nonfinite


class PastRow(Summary, frozen=True, kw_only=True):
    """An episode without its steps, and what failed before it."""

    earlier_attempts: str


class Row(Summary, frozen=True, kw_only=True):
    """An episode, but for its arrays."""

    task_spec: str
    earlier_attempts: str
    extras: str
    metadata: str
    initial_observation: str
    steps: list[StepRow]

    @property
    def is_typical(self) -> bool:
        """Whether it has something in every column that may be empty or null."""
        return self.return_ is not None and bool(self.steps)


class JsonRow(Row, frozen=True, kw_only=True):
    """A line of JSON."""

    arrays: list[PlacedArrayRow]


class ParquetRow(Row, frozen=True, kw_only=True):
    """A row of a Parquet file."""

    arrays: list[StoredArrayRow]


# Values as JSON text


class _Packer:
    """Turns values into JSON texts, and collects their arrays.

    Args:
        file: Name of the file that the arrays will be in.
        offset: Where they will begin in it.
    """

    def __init__(self, file: str, offset: int) -> None:
        self._file = file
        self._offset = offset
        self.arrays: list[PlacedArrayRow] = []
        self.buffers: list[bytes | memoryview] = []
        """What to append to the file, padding included."""

    def text(self, value: object) -> str:
        """The JSON text of a value."""
        if not value and (empty := _EMPTY.get(type(value))):
            return empty
        builtins = msgspec.to_builtins(
            value,
            builtin_types=(bytes, bytearray, memoryview),
            str_keys=True,
            enc_hook=encodable,
        )
        return msgspec.json.encode(self._plain(builtins)).decode()

    def _plain(self, value: object) -> object:
        # By type and the most frequent first: this is most of the work of writing.
        kind = type(value)
        if kind is str or kind is int or kind is bool or value is None:
            return value
        if kind is float:
            number = cast(float, value)
            return number if isfinite(number) else {"$float": repr(number)}
        if kind is dict:
            return self._plain_map(cast(dict[str, object], value))
        if kind is list or kind is tuple:
            return [self._plain(item) for item in cast(list[object], value)]
        data = cast(bytes, value)
        return {"$bytes": self._add("", [len(data)], data)}

    def _plain_map(self, value: dict[str, object]) -> object:
        if "data" in value and value.keys() == _ARRAY_KEYS:
            data = value["data"]
            if isinstance(data, (memoryview, bytes)):
                dtype = cast(str, value["dtype"])
                shape = list(cast(Sequence[int], value["shape"]))
                return {"$array": self._add(dtype, shape, cast(bytes, data))}
        plain = {key: self._plain(item) for key, item in value.items()}
        if len(value) == 1 and next(iter(value)) in _MARKS:
            return {"$escaped": plain}
        return plain

    def _add(self, dtype: str, shape: list[int], data: bytes | memoryview) -> int:
        nbytes, crc32 = memoryview(data).nbytes, zlib.crc32(data)
        self.arrays.append(
            PlacedArrayRow(dtype, shape, self._file, self._offset, nbytes, crc32)
        )
        padding = -nbytes % _ALIGNMENT
        self.buffers.append(data)
        if padding:
            self.buffers.append(bytes(padding))
        self._offset += nbytes + padding
        return len(self.arrays) - 1


_EMPTY: Final[dict[type, str]] = {dict: "{}", list: "[]", type(None): "null"}
"""Most extras and metadata are empty."""
_ARRAY_KEYS: Final = {"kind", "dtype", "shape", "data"}
_MARKS: Final = {"$array", "$bytes", "$float", "$escaped"}

PACKING_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What is raised about a value that can't be written."""

Load = Callable[[int], memoryview | bytes]
"""Gives the bytes of an entry of the column `arrays`."""


class _Unpacker:
    """Turns JSON texts back into values.

    Args:
        arrays: Describes the row's arrays.
        load: Gives their bytes.
    """

    def __init__(self, arrays: Sequence[ArrayRow], load: Load) -> None:
        self._arrays = arrays
        self._load = load

    def value(self, text: str) -> object:
        """The value of a JSON text: plain, but for `Array` and bytes."""
        value: object = msgspec.json.decode(text)
        # Most texts have none, and then the decoder has done it all.
        return self._revived(value) if '"$' in text else value

    def map(self, text: str) -> dict[str, object]:
        """The same, for a text that is a map."""
        return cast(dict[str, object], self.value(text))

    def _revived(self, value: object) -> object:
        if isinstance(value, list):
            return [self._revived(item) for item in cast(list[object], value)]
        if not isinstance(value, dict):
            return value
        fields = cast(dict[str, object], value)
        if len(fields) == 1:
            ((mark, content),) = fields.items()
            match mark:
                case "$float":
                    return float(cast(str, content))
                case "$bytes":
                    return bytes(self._load(cast(int, content)))
                case "$array":
                    return self._array(cast(int, content))
                case "$escaped":
                    fields = cast(dict[str, object], content)
                case _:
                    pass
        return {key: self._revived(item) for key, item in fields.items()}

    def _array(self, index: int) -> Array:
        row = self._arrays[index]
        return Array(row.dtype, tuple(row.shape), memoryview(self._load(index)))


# Episodes as rows


class Packed(msgspec.Struct, frozen=True):
    """An episode, ready to be written."""

    id: str
    line: bytes
    """A `JsonRow`, encoded."""
    buffers: list[bytes | memoryview]
    """What its arrays append to the file of arrays."""
    is_typical: bool
    """Whether it has something in every column that may be empty or null."""


def pack(episode: Episode[object, object], *, file: str, offset: int) -> Packed:
    """Turn an episode into a row.

    Args:
        episode: Which.
        file: Name of the file that its arrays will be in.
        offset: Where they will begin in it: its length.

    Raises:
        LocalProtocolError: It holds something that can't be written.
    """
    packer = _Packer(file, offset)
    try:
        row = _row(episode, packer)
        line = msgspec.json.encode(row)
    except PACKING_ERRORS as error:
        raise LocalProtocolError(
            f"expected values that can be written in episode {episode.id!r}: {error}"
        ) from error
    return Packed(row.id, line, packer.buffers, row.is_typical)


def check_writable(value: object) -> None:
    """Make sure that a value can be in an episode.

    Raises:
        Exception: One of `PACKING_ERRORS`: it can't.
    """
    _Packer("", 0).text(value)


def _row(episode: Episode[object, object], packer: _Packer) -> JsonRow:
    task = episode.task
    reason, failure = _outcome_columns(episode.outcome)
    spec = {"seed": task.seed, "options": task.options, "metadata": task.metadata}
    return JsonRow(
        id=episode.id,
        environment=episode.environment,
        task=task.id,
        group=episode.group,
        group_index=episode.group_index,
        group_size=episode.group_size,
        seed=episode.seed,
        status=_STATUS[type(episode.outcome)],
        reason=reason,
        failure=failure,
        return_=_float(episode.return_),
        length=episode.length,
        attempt=episode.attempt,
        started=float(episode.started),
        session=episode.session,
        timing=episode.timing,
        nonfinite=_nonfinite(episode),
        task_spec=packer.text({**spec, "priority": task.priority}),
        earlier_attempts=packer.text(episode.earlier_attempts),
        extras=packer.text(episode.extras),
        metadata=packer.text(episode.metadata),
        initial_observation=packer.text(episode.initial_observation),
        steps=[_step_row(step, packer) for step in episode.steps],
        arrays=packer.arrays,
    )


def _step_row(step: EpisodeStep[object, object], packer: _Packer) -> StepRow:
    rest = step.extras
    typed: dict[str, list[object]] = {}
    if rest:
        for name, of in _TYPED.items():
            if (value := _typed(rest.get(name), of)) is not None:
                typed[name] = value
        rest = {name: value for name, value in rest.items() if name not in typed}
    return StepRow(
        packer.text(step.action),
        packer.text(step.observation),
        _float(step.reward),
        step.terminated,
        step.truncated,
        packer.text(rest) if rest else "{}",
        cast("list[int] | None", typed.get("prompt_token_ids")),
        cast("list[int] | None", typed.get("token_ids")),
        cast("list[float] | None", typed.get("logprobs")),
        step.timing,
    )


def _typed(value: object, of: type) -> list[object] | None:
    """The value, if its column can hold it as it is."""
    if not isinstance(value, list):
        return None
    items = cast(list[object], value)
    # Exactly the type, so that reading gives back what was written.
    if not {of}.issuperset(map(type, items)):
        return None
    fits = _is_int64 if of is int else isfinite
    return items if all(map(cast(Callable[[object], bool], fits), items)) else None


def _is_int64(value: int) -> bool:
    return -(2**63) <= value < 2**63


def _float(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else float(value)


def _nonfinite(episode: Episode[object, object]) -> str:
    found: dict[str, str] = {
        str(index): repr(float(step.reward))
        for index, step in enumerate(episode.steps)
        if step.reward is not None and not isfinite(step.reward)
    }
    if episode.return_ is not None and not isfinite(episode.return_):
        found["return"] = repr(float(episode.return_))
    return msgspec.json.encode(found).decode() if found else ""


_STATUS: Final[dict[type, str]] = {
    kind: str(kind.__struct_config__.tag)
    for kind in (
        Terminated,
        Truncated,
        EnvironmentFailure,
        PolicyFailure,
        InfrastructureFailure,
    )
}


def _outcome_columns(outcome: Outcome) -> tuple[str, FailureRow]:
    match outcome:
        case Terminated():
            return "", FailureRow()
        case Truncated():
            return outcome.reason, FailureRow()
        case EnvironmentFailure() as failure:
            return "", FailureRow(
                failure.exception, failure.message, failure.traceback, failure.executed
            )
        case PolicyFailure() as failure:
            return "", FailureRow(failure.exception, failure.message, failure.traceback)
        case InfrastructureFailure() as failure:
            return "", FailureRow(
                failure.kind, failure.message, "", failure.executed, failure.retryable
            )


def _outcome(row: Summary) -> Outcome:
    failure = row.failure
    fields: dict[str, dict[str, object]] = {
        "terminated": {},
        "truncated": {"reason": row.reason},
        "environment_failed": {
            "exception": failure.name,
            "message": failure.message,
            "traceback": failure.traceback,
            "executed": failure.executed,
        },
        "policy_failed": {
            "exception": failure.name,
            "message": failure.message,
            "traceback": failure.traceback,
        },
        "infrastructure_failed": {
            "kind": failure.name,
            "message": failure.message,
            "executed": failure.executed,
            "retryable": failure.retryable,
        },
    }
    tagged = {"status": row.status, **fields[row.status]}
    outcome: Outcome = msgspec.convert(tagged, Outcome)
    return outcome


def attempts_of(row: PastRow) -> list[Attempt]:
    """An episode and what failed before it, as what failed before its next try."""
    earlier = msgspec.json.decode(row.earlier_attempts, type=list[Attempt])
    latest = Attempt(outcome=_outcome(row), length=row.length, timing=row.timing)
    return [*earlier, latest]


def unpack(row: Row, arrays: Sequence[ArrayRow], load: Load) -> Episode[Any, Any]:
    """Turn a row back into an episode.

    Actions are plain values and observations `GenericObservation`, with `Array` and
    bytes where they were.

    Args:
        row: Which.
        arrays: Its column `arrays`.
        load: Gives the bytes of an entry of that column.

    Raises:
        RunDamaged: It is no row that `pack` made.
    """
    try:
        return _episode(row, _Unpacker(arrays, load))
    except (LookupError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise RunDamaged(
            f"expected a readable episode {row.id!r}, got one that is not: {error!r}"
        ) from error


def _episode(row: Row, unpacker: _Unpacker) -> Episode[Any, Any]:
    exact: dict[str, str] = msgspec.json.decode(row.nonfinite or b"{}")
    attempts = unpacker.value(row.earlier_attempts)
    return Episode(
        id=row.id,
        environment=row.environment,
        task=msgspec.convert({"id": row.task, **unpacker.map(row.task_spec)}, Task),
        seed=row.seed,
        group=row.group,
        group_index=row.group_index,
        group_size=row.group_size,
        initial_observation=_observation(unpacker.value(row.initial_observation)),
        steps=[
            _step(step, unpacker, exact.get(str(index)))
            for index, step in enumerate(row.steps)
        ],
        outcome=_outcome(row),
        return_=float(exact["return"]) if "return" in exact else row.return_,
        earlier_attempts=msgspec.convert(attempts, list[Attempt]),
        started=row.started,
        timing=row.timing,
        session=row.session,
        extras=unpacker.map(row.extras),
        metadata=unpacker.map(row.metadata),
    )


def _step(
    row: StepRow, unpacker: _Unpacker, exact_reward: str | None
) -> EpisodeStep[Any, Any]:
    extras = unpacker.map(row.extras) if row.extras != "{}" else {}
    for name in _TYPED:
        if (value := getattr(row, name)) is not None:
            extras[name] = value
    return EpisodeStep(
        unpacker.value(row.action),
        _observation(unpacker.value(row.observation)),
        row.reward if exact_reward is None else float(exact_reward),
        row.terminated,
        row.truncated,
        extras,
        row.timing,
    )


def _observation(value: object) -> object:
    if isinstance(value, dict):
        return GenericObservation(cast(dict[str, Any], value))
    return value
