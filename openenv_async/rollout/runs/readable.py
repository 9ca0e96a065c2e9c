"""Values as people read them, and the numbers in an array without NumPy."""

from __future__ import annotations

import struct
from typing import Any, Final, cast

import msgspec

from ...arrays import Array, encodable

__all__ = ["readable", "unpacked"]

_ITEMS: Final = 6
"""Numbers of an array that are shown."""
_CODES: Final = {
    **{"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "b1": "?"},
    **{"i8": "q", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}
"""`struct`'s codes for the kinds of numbers."""


def unpacked(
    dtype: str, data: bytes | memoryview, most: int | None = None
) -> tuple[Any, ...] | None:
    """The first numbers of an array; None if it holds something else.

    Args:
        dtype: NumPy's type string.
        data: The array's bytes.
        most: How many at most.
    """
    code = _CODES.get(dtype[1:])
    if code is None:
        return None
    size = struct.calcsize(code)
    count = len(data) // size if most is None else min(most, len(data) // size)
    order = ">" if dtype.startswith(">") else "<"
    return struct.unpack(f"{order}{count}{code}", data[: count * size])


def readable(value: object) -> str:
    """A value as JSON, with the type, shape and first numbers of each array."""
    return msgspec.json.encode(_shortened(value), enc_hook=encodable).decode()


def _shortened(value: object) -> object:
    if isinstance(value, Array):
        return _array(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        items = cast(dict[str, object], value).items()
        return {key: _shortened(item) for key, item in items}
    if isinstance(value, list):
        return [_shortened(item) for item in cast(list[object], value)]
    return value


def _array(array: Array) -> str:
    about = f"{array.dtype}{list(array.shape)}"
    numbers = unpacked(array.dtype, array.data, _ITEMS)
    if numbers is None:
        return about
    shown = " ".join(f"{number:.4g}" for number in numbers)
    size = struct.calcsize(_CODES[array.dtype[1:]])
    return f"{about} {shown}{' ...' if array.nbytes > len(numbers) * size else ''}"
