"""Where two values differ first."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import msgspec

from ..arrays import Array

__all__ = ["first_difference"]


def first_difference(
    first: object, second: object, *, ignore: Collection[str] = (), at: str = "$"
) -> str | None:
    """Say where two values differ first, as `$.path: 1 and 2`; None if they do not.

    Numbers are compared exactly, but that NaN equals itself and 1 equals 1.0.

    Args:
        first: One value: what JSON and msgpack have, structs, arrays.
        second: The other one.
        ignore: Paths below which nothing is compared, such as `$.metadata`.
        at: The path of the values themselves.
    """
    if at in ignore:
        return None
    one, other = _plain(first), _plain(second)
    maps = _as_map(one), _as_map(other)
    if maps[0] is not None and maps[1] is not None:
        return _of_maps(maps[0], maps[1], ignore, at)
    lists = _as_list(one), _as_list(other)
    if lists[0] is not None and lists[1] is not None:
        return _of_lists(lists[0], lists[1], ignore, at)
    is_same_kind = isinstance(one, bool) is isinstance(other, bool)
    if is_same_kind and (one == other or (_is_nan(one) and _is_nan(other))):
        return None
    return f"{at}: {_short(one)} and {_short(other)}"


def _as_map(value: object) -> Mapping[object, object] | None:
    return cast(Any, value) if isinstance(value, Mapping) else None


def _as_list(value: object) -> Sequence[object] | None:
    return cast(Any, value) if isinstance(value, list | tuple) else None


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _plain(value: object) -> object:
    if isinstance(value, Array):
        # Shape and type tell more than bytes do, so they are compared before.
        fields = {"dtype": value.dtype, "shape": value.shape}
        return {**fields, "data": bytes(value.data)}
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, memoryview | bytearray):
        return bytes(value)  # pyright: ignore[reportUnknownArgumentType]  # of bytes or not
    return value


def _of_maps(
    first: Mapping[object, object],
    second: Mapping[object, object],
    ignore: Collection[str],
    at: str,
) -> str | None:
    for name in [*first, *(name for name in second if name not in first)]:
        path = f"{at}.{name}"
        if path in ignore:
            continue
        if name not in first or name not in second:
            one, other = (
                _short(value[name]) if name in value else "nothing"
                for value in (first, second)
            )
            return f"{path}: {one} and {other}"
        found = first_difference(first[name], second[name], ignore=ignore, at=path)
        if found is not None:
            return found
    return None


def _of_lists(
    first: Sequence[object],
    second: Sequence[object],
    ignore: Collection[str],
    at: str,
) -> str | None:
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        found = first_difference(one, other, ignore=ignore, at=f"{at}[{place}]")
        if found is not None:
            return found
    if len(first) != len(second):
        return f"{at}: {len(first)} and {len(second)} items"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
