"""`Array`: bytes with dtype and shape, as NumPy sees them."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from openenv_async import Array


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.arange(6, dtype=">i8").reshape(3, 2),
        np.zeros((0, 3), np.uint8),
        np.array(7, np.int16),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["ab", "c"]),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        [1, 2, 3],
        2.5,
    ],
    ids=lambda value: str(np.asarray(value).dtype) + str(np.shape(value)),
)
def test_values_come_back_as_they_were(value: Any) -> None:
    """Wrapping and viewing keep dtype, shape and every element."""
    expected = np.asarray(value)
    array = Array.of(value)
    assert array.shape == expected.shape
    assert array.nbytes == expected.nbytes
    seen = array.numpy()
    assert seen.dtype == expected.dtype
    assert_array_equal(seen, expected)


@pytest.mark.parametrize("module", [msgspec.msgpack, msgspec.json])
def test_both_encodings_carry_arrays(module: Any) -> None:
    """Binary in msgpack, base64 in JSON, the same array in both."""
    array = Array.of(np.arange(5, dtype="<u2"))
    assert module.decode(module.encode(array), type=Array) == array


def test_msgpack_decodes_to_a_view() -> None:
    """The data are a part of the received frame, not a copy of it."""
    frame = msgspec.msgpack.encode(Array.of(np.arange(1000, dtype=np.uint8)))
    array = msgspec.msgpack.decode(frame, type=Array)
    assert array.data.obj is frame
    seen = array.numpy()
    assert not seen.flags.owndata
    assert not seen.flags.writeable


def test_wrapping_copies_only_what_is_not_contiguous() -> None:
    """A contiguous array is shared with its wrapper."""
    contiguous = np.arange(4, dtype=np.uint8)
    array = Array.of(contiguous)
    contiguous[0] = 99
    assert array.numpy()[0] == 99


@pytest.mark.parametrize(
    "value",
    [[object()], np.array([None]), np.zeros(2, dtype=[("a", "<i4")])],
    ids=["object", "none", "fields"],
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    """Objects and structured dtypes cannot travel."""
    with pytest.raises(TypeError, match="plain values"):
        Array.of(value)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("<f4", (2,), 7),
        ("<f4", (2,), 9),
        ("<f4", (-1, -2), 8),
        ("<f4", (-1,), 4),
        ("nonsense", (1,), 1),
        ("|O", (1,), 8),
    ],
)
def test_data_that_do_not_fit_are_refused(
    dtype: str, shape: tuple[int, ...], size: int
) -> None:
    """Only NumPy is asked about a dtype, and never for objects."""
    array = Array(dtype, shape, memoryview(bytes(size)))
    with pytest.raises(ValueError, match="expected"):
        array.numpy()


def test_numpy_takes_arrays_directly() -> None:
    """`numpy.asarray` sees the data, and copies only when asked or needed."""
    array = Array.of(np.arange(3, dtype="<i4"))
    assert np.shares_memory(np.asarray(array), array.numpy())
    assert not np.shares_memory(np.array(array, copy=True), array.numpy())
    assert np.asarray(array, dtype="<f8").tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="without a copy"):
        array.__array__(np.dtype("<f8"), copy=False)


def test_arrays_are_compared_by_content() -> None:
    """Dtype, shape and bytes decide, and equal arrays have equal hashes."""
    one, same = Array.of([1, 2]), Array.of([1, 2])
    assert one == same
    assert hash(one) == hash(same)
    for other in ([2, 1], [[1, 2]], [1.0, 2.0]):
        assert one != Array.of(other)
    assert one != "array"
    assert repr(one) == "Array(dtype='<i8', shape=(2,))"


def test_arrays_survive_pickling() -> None:
    """A memoryview cannot be pickled, an `Array` can."""
    array = Array.of(np.arange(5, dtype="<f4"))
    copy = pickle.loads(pickle.dumps(array))
    assert copy == array
    assert_array_equal(copy.numpy(), array.numpy())
