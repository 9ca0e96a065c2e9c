"""Spaces whose elements are arrays: Box, MultiDiscrete and MultiBinary."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Annotated, Any, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from openenv_async import Array

from ..models import Value
from .codec import SpaceCodec, UnsupportedSpace

__all__ = ["array_codec"]

_FITTING: Final = {"b": "?", "i": "?bhiqBHIQ", "u": "?bhiqBHIQ", "f": "efd?bhiqBHIQ"}
"""NumPy's letters of the dtypes that an action may have, by the kind of the space's."""

_ITEMS: Final[dict[str, type]] = {"b": bool, "i": int, "u": int, "f": float}
"""What nested lists hold, by the kind of the space's dtype."""

_MAX_BOUNDS: Final = 1024
"""Bounds that differ are spelled out in the schema for arrays of at most this size."""

_Bound = NDArray[Any] | int


def array_codec(
    path: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    low: _Bound,
    high: _Bound,
    description: str,
) -> SpaceCodec:
    """Describe a space of arrays.

    Args:
        path: Where it is: names its types.
        dtype: Of its elements.
        shape: Of its elements.
        low: Least value, of all or of each item.
        high: Greatest value, of all or of each item.
        description: For humans who read the schema.

    Raises:
        UnsupportedSpace: The dtype is no boolean, integer or float.
    """
    if dtype.kind not in _FITTING:
        raise UnsupportedSpace(
            f"expected booleans, integers or floats, got {description}"
        )
    cast, names = _casting(dtype, shape)

    def encode(value: object) -> Value:
        array = np.asarray(value)
        if array.dtype != dtype or array.shape != shape:
            array = cast(array)
        return Array.of(array)

    def decode(value: object) -> NDArray[Any]:
        if isinstance(value, Array):
            array = value.numpy()
        else:
            array = np.asarray(value)
            if array.size == 0:
                # A list that holds nothing has no dtype of its own.
                array = array.astype(dtype)
        return cast(array)

    bounds = _bounds("low", low, shape) | _bounds("high", high, shape)
    describe = partial(_array_type, path, shape, bounds=bounds, description=description)
    return SpaceCodec(
        observed=describe({"const": dtype.str}),
        accepted=describe({"enum": names})
        | _list_type(dtype, shape, low=low, high=high),
        encode=encode,
        decode=decode,
    )


def _casting(
    dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], list[str]]:
    """A function that casts what fits, and the names of the dtypes that do."""
    fitting = frozenset(np.dtype(letter) for letter in _FITTING[dtype.kind]) | {dtype}

    def cast(array: NDArray[Any]) -> NDArray[Any]:
        """Copy an array into the dtype of its space, as Gymnasium's vectors do."""
        if array.shape != shape:
            raise ValueError(f"expected shape {shape}, got {array.shape}")
        if array.dtype not in fitting:
            raise ValueError(f"expected dtype {dtype}, got {array.dtype}")
        with np.errstate(over="raise"):
            copied = array.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(copied, array):
            raise ValueError(f"expected values that fit dtype {dtype}")
        return copied

    return cast, [dtype.str, *sorted(item.str for item in fitting - {dtype})]


def _array_type(
    path: str,
    shape: tuple[int, ...],
    dtype: dict[str, object],
    *,
    bounds: dict[str, object],
    description: str,
) -> Any:
    """An `Array` that knows its space.

    A subclass, because msgspec forgets what `Annotated` says of a struct in a union.
    """
    annotations = {
        "dtype": Annotated[str, Meta(extra_json_schema=dtype)],
        "shape": Annotated[
            tuple[int, ...], Meta(extra_json_schema={"const": list(shape)})
        ],
        "data": Annotated[memoryview, Meta(extra_json_schema=bounds)],
    }
    body = {"__annotations__": annotations, "__module__": __name__}
    metaclass: Any = type(Array)
    return metaclass(f"{path}Array", (Array,), {**body, "__doc__": description})


def _list_type(
    dtype: np.dtype[Any], shape: tuple[int, ...], *, low: _Bound, high: _Bound
) -> Any:
    """Nested lists of an array's shape, for those who write JSON by hand."""
    kind = _ITEMS[dtype.kind]
    schema: dict[str, object] = {}
    if kind is not bool:
        if (least := _uniform(low)) is not None and math.isfinite(least):
            schema["minimum"] = least
        if (greatest := _uniform(high)) is not None and math.isfinite(greatest):
            schema["maximum"] = greatest
    item: Any = Annotated[kind, Meta(extra_json_schema=schema)]

    def nest(inner: Any, length: int) -> Any:
        bounds = {"minItems": length, "maxItems": length}
        return Annotated[list[inner], Meta(extra_json_schema=bounds)]

    return reduce(nest, reversed(shape), item)


def _bounds(name: str, bound: _Bound, shape: tuple[int, ...]) -> dict[str, object]:
    """Keywords of a bound: one number where possible, null where there is none."""
    uniform = _uniform(bound)
    if uniform is not None:
        return {name: uniform if math.isfinite(uniform) else None}
    items = np.broadcast_to(np.asarray(bound), shape)
    if items.size > _MAX_BOUNDS:
        return {f"{name}_differs": True}
    plain = [item if math.isfinite(item) else None for item in items.ravel().tolist()]
    nested = np.array(plain, dtype=object).reshape(shape).tolist()
    return {name: nested}


def _uniform(bound: _Bound) -> float | int | None:
    items = np.asarray(bound)
    if items.size == 0:
        return None
    first: float | int = items.flat[0].item()
    return first if bool(np.all(items == first)) else None
