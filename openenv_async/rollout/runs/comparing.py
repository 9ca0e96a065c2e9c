"""Finds the first difference between what was recorded and what came this time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple, cast, final

import msgspec

from ...arrays import encodable
from .readable import unpacked

__all__ = ["Comparison", "Mismatch"]

_SHOWN: Final = 200
"""Characters of a value that a mismatch shows."""
_BINARY: Final = (bytes, bytearray, memoryview)


class Mismatch(NamedTuple):
    """Where two values differ first."""

    path: str
    """Such as `observation.board[3]`."""
    expected: str
    got: str


@final
class Comparison:
    """Compares values by what they hold, at any depth.

    Args:
        ignore: Paths that may differ, such as `observation.metadata.elapsed`; `*`
            stands for any characters. What is below an ignored path is ignored too.
        tolerance: How far numbers may be apart, relative to the larger one, and
            absolutely below 1.
    """

    def __init__(self, *, ignore: Iterable[str] = (), tolerance: float = 0.0) -> None:
        self._ignore = tuple(ignore)
        self._tolerance = tolerance

    def first(self, path: str, expected: object, got: object) -> Mismatch | None:
        """The first difference; None if there is none."""
        return self._first(path, _plain(expected), _plain(got))

    def _first(self, path: str, expected: object, got: object) -> Mismatch | None:
        if any(fnmatchcase(path, pattern) for pattern in self._ignore):
            return None
        kinds = _kind_of(expected), _kind_of(got)
        if kinds == ("map", "map"):
            return self._first_of_maps(
                path, cast(dict[str, object], expected), cast(dict[str, object], got)
            )
        if kinds == ("list", "list"):
            return self._first_of_lists(
                path, cast(Sequence[object], expected), cast(Sequence[object], got)
            )
        same = self._is_same(expected, got)
        return None if same else Mismatch(path, _shown(expected), _shown(got))

    def _first_of_maps(
        self, path: str, expected: dict[str, object], got: dict[str, object]
    ) -> Mismatch | None:
        if expected.keys() == got.keys() == _ARRAY_KEYS:
            return self._first_of_arrays(path, expected, got)
        for key in [*expected, *(key for key in got if key not in expected)]:
            below = f"{path}.{key}"
            found = self._first(
                below, expected.get(key, _MISSING), got.get(key, _MISSING)
            )
            if found is not None:
                return found
        return None

    def _first_of_lists(
        self, path: str, expected: Sequence[object], got: Sequence[object]
    ) -> Mismatch | None:
        for index, (one, other) in enumerate(zip(expected, got, strict=False)):
            found = self._first(f"{path}[{index}]", one, other)
            if found is not None:
                return found
        if len(expected) == len(got):
            return None
        lengths = f"{len(expected)} items", f"{len(got)} items"
        return Mismatch(path, *lengths)

    def _first_of_arrays(
        self, path: str, expected: dict[str, Any], got: dict[str, Any]
    ) -> Mismatch | None:
        if _kind(expected) != _kind(got):
            return Mismatch(path, _kind(expected), _kind(got))
        if bytes(expected["data"]) == bytes(got["data"]):
            return None
        number, one, other = self._differing_item(expected, got)
        if number is None:
            return None
        return Mismatch(f"{path}[{number}]", one, other)

    def _differing_item(
        self, expected: dict[str, Any], got: dict[str, Any]
    ) -> tuple[int | None, str, str]:
        """The first item that differs, counted in C order, and what it is in both."""
        before, now = bytes(expected["data"]), bytes(got["data"])
        size = max(1, len(before) // max(1, math.prod(expected["shape"])))
        for number in range(len(before) // size):
            place = slice(number * size, (number + 1) * size)
            if before[place] != now[place]:
                one = _item(expected["dtype"], before[place])
                other = _item(expected["dtype"], now[place])
                if not self._is_same(one, other):
                    return number, _shown(one), _shown(other)
        return None, "", ""

    def _is_same(self, expected: object, got: object) -> bool:
        if isinstance(expected, bool) or isinstance(got, bool):
            return expected is got
        if isinstance(expected, int | float) and isinstance(got, int | float):
            return expected == got or self._is_close(expected, got)
        kinds = _kind_of(expected), _kind_of(got)
        if kinds == ("bytes", "bytes"):
            return bytes(cast(bytes, expected)) == bytes(cast(bytes, got))
        return type(expected) is type(got) and expected == got

    def _is_close(self, expected: float, got: float) -> bool:
        if math.isnan(expected) or math.isnan(got):
            return math.isnan(expected) and math.isnan(got)
        if math.isinf(expected) or math.isinf(got):
            return expected == got
        return abs(expected - got) <= self._tolerance * max(
            1.0, abs(expected), abs(got)
        )


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING: Final = _Missing()
_ARRAY_KEYS: Final = {"kind", "dtype", "shape", "data"}


def _plain(value: object) -> object:
    return msgspec.to_builtins(
        value, builtin_types=_BINARY, str_keys=True, enc_hook=encodable
    )


def _kind_of(value: object) -> str:
    for kind, types in _KINDS.items():
        if isinstance(value, types):
            return kind
    return ""


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "map": (dict,),
    "list": (list, tuple),
    "bytes": _BINARY,
}


def _kind(array: dict[str, Any]) -> str:
    return f"array of {array['dtype']} {tuple(array['shape'])}"


def _item(dtype: str, data: bytes) -> object:
    """A number, where there is one; otherwise the bytes."""
    numbers = unpacked(dtype, data)
    return data if numbers is None else numbers[0]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
