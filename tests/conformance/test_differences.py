"""The first difference of two values is found, and named with its path."""

from __future__ import annotations

import math
from typing import Any

import pytest

from openenv_async import Array, State
from openenv_async.conformance import first_difference


def _array(data: bytes, shape: tuple[int, ...] = (2,), dtype: str = "|u1") -> Array:
    return Array(dtype, shape, memoryview(data))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        math.nan,
        "text",
        b"data",
        [1, [2, {"a": math.nan}]],
        {"a": {"b": [1]}},
        _array(b"12"),
        State(step_count=3),
    ],
)
def test_a_value_equals_itself(value: object) -> None:
    """Nothing differs, NaN included."""
    assert first_difference(value, value) is None


def test_kinds_of_the_same_thing_are_equal() -> None:
    """Tuples are lists, integers are floats, views are bytes."""
    assert first_difference((1, 2), [1.0, 2]) is None
    assert first_difference(memoryview(b"1"), b"1") is None
    assert first_difference(State(step_count=1), State(step_count=1)) is None


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (1, 2, "$: 1 and 2"),
        (1, True, "$: 1 and True"),
        (math.nan, 1.0, "$: nan and 1.0"),
        ([1, 2], [1, 3], "$[1]: 2 and 3"),
        ([1, 2], [1], "$: 2 and 1 items"),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "$.b: 2 and 3"),
        ({"a": 1}, {}, "$.a: 1 and nothing"),
        ({}, {"a": 1}, "$.a: nothing and 1"),
        ({"a": [{"b": 0}]}, {"a": [{"b": 1}]}, "$.a[0].b: 0 and 1"),
        ([], {}, "$: [] and {}"),
        (_array(b"12"), _array(b"13"), r"$.data: b'12' and b'13'"),
        (_array(b"12"), _array(b"12", (1, 2)), "$.shape[0]: 2 and 1"),
        (_array(b"12"), _array(b"12", dtype="|i1"), "$.dtype: '|u1' and '|i1'"),
        (State(step_count=1), State(step_count=2), "$.step_count: 1 and 2"),
    ],
)
def test_the_first_difference_is_named(first: Any, second: Any, found: str) -> None:
    """Path and both values are told."""
    assert first_difference(first, second) == found


def test_ignored_paths_are_not_compared() -> None:
    """What lies below an ignored path may differ, the rest may not."""
    first, second = {"a": {"t": 1, "x": 1}}, {"a": {"t": 2, "x": 1}}
    assert first_difference(first, second, ignore={"$.a.t"}) is None
    assert first_difference(first, second, ignore={"$.a"}) is None
    assert first_difference(first, {}, ignore={"$.a"}) is None
    assert first_difference(first, second, ignore={"$.t"}) == "$.a.t: 1 and 2"


def test_long_values_are_cut() -> None:
    """A text stays readable whatever it is about."""
    found = first_difference("x" * 500, "y")
    assert found is not None
    assert len(found) < 120
