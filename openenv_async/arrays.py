"""Arrays on the wire: dtype, shape and raw bytes, decoded without a copy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Array", "encodable"]


class Array(msgspec.Struct, frozen=True, tag_field="kind", tag="array", eq=False):
    """An n-dimensional array: raw bytes in C order, with dtype and shape.

    In msgpack the data travel as binary and are decoded to a view of the received
    frame; in JSON they are base64. Building one needs no NumPy; `numpy()` does.

    The view keeps its whole frame alive: copy what you keep for long.
    """

    dtype: str
    """NumPy's array-interface type string, such as `<f4` or `|u1`."""
    shape: tuple[int, ...]
    """Length of each dimension; `()` is a scalar."""
    data: memoryview
    """`prod(shape) * itemsize` bytes, C order."""

    @classmethod
    def of(cls, value: object) -> Array:
        """Wrap anything that `numpy.asarray` takes; copies only to make it contiguous.

        Raises:
            TypeError: The dtype is not a plain number, boolean or fixed-width string.
        """
        import numpy as np  # noqa: PLC0415 (NumPy is an optional extra)

        array = np.asarray(value)
        if array.dtype.hasobject or array.dtype.fields is not None:
            raise TypeError(
                f"expected an array of plain values, got dtype {array.dtype!r}"
            )
        contiguous = np.ascontiguousarray(array)
        # A view as bytes, because memoryview cannot cast zero-sized shapes.
        data = contiguous.reshape(-1).view(np.uint8).data
        return cls(dtype=array.dtype.str, shape=array.shape, data=data)

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return self.data.nbytes

    def numpy(self) -> NDArray[Any]:
        """View the data as a read-only NumPy array, without a copy.

        Raises:
            ValueError: The data do not fit dtype and shape.
        """
        import numpy as np  # noqa: PLC0415 (NumPy is an optional extra)

        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise ValueError(
                f"expected a NumPy type string, got {self.dtype!r}"
            ) from error
        if dtype.hasobject:
            raise ValueError(f"expected a plain dtype, got {self.dtype!r}")
        expected = math.prod(self.shape) * dtype.itemsize
        if min(self.shape, default=0) < 0 or self.data.nbytes != expected:
            raise ValueError(
                f"expected {expected} bytes for dtype {self.dtype!r} and shape "
                f"{self.shape!r}, got {self.data.nbytes}"
            )
        array: NDArray[Any] = np.frombuffer(self.data, dtype=dtype).reshape(self.shape)
        array.flags.writeable = False
        return array

    def __array__(
        self,
        dtype: np.dtype[Any] | None = None,
        copy: bool | None = None,  # noqa: FBT001 (NumPy's array protocol)
    ) -> NDArray[Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(
                    f"expected dtype {array.dtype!r} without a copy, got {dtype!r}"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return (self.dtype, self.shape, self.data) == (
            other.dtype,
            other.shape,
            other.data,
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, bytes(self.data)))

    def __repr__(self) -> str:
        return f"Array(dtype={self.dtype!r}, shape={self.shape!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.dtype, self.shape, bytes(self.data)))


def _rebuild(dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    return Array(dtype=dtype, shape=shape, data=memoryview(data))


def encodable(value: object) -> object:
    """Turn what NumPy has into what encodes: scalars to numbers, arrays to `Array`.

    Raises:
        TypeError: It is nothing of NumPy's.
    """
    if not (hasattr(value, "dtype") and hasattr(value, "ndim")):
        raise TypeError(
            f"objects of type {type(value).__qualname__!r} have no encoding"
        )
    array = Array.of(value)
    return array.numpy().item() if array.shape == () else array
