"""The validator agrees with msgspec, and says where a value is wrong."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from openenv_async import Array
from openenv_async.conformance.schemas import (
    faults_of_schema,
    faults_of_value,
    invalid_values,
)
from openenv_async.rollout.adapters.sampling import sampler_of


class _Leaf(msgspec.Struct, tag="leaf", forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=0, lt=10, multiple_of=2)]


class _Node(msgspec.Struct, tag="node", forbid_unknown_fields=True):
    left: _Leaf | _Node
    name: Annotated[str, Meta(min_length=1, max_length=4, pattern="^[a-z]+$")] = "a"


class _Everything(msgspec.Struct, forbid_unknown_fields=True):
    tree: _Leaf | _Node
    kind: Literal["a", 3]
    share: Annotated[float, Meta(gt=0, le=1)]
    pair: tuple[int, str]
    few: Annotated[list[bool], Meta(min_length=1, max_length=3)]
    by_name: dict[str, int]
    maybe: int | None
    data: bytes
    picture: Array
    day: datetime.date


_SCHEMA = msgspec.json.schema(_Everything)
_GOOD: dict[str, Any] = {
    "tree": {"type": "node", "left": {"type": "leaf", "size": 4}, "name": "abc"},
    "kind": 3,
    "share": 0.5,
    "pair": [1, "x"],
    "few": [True],
    "by_name": {"a": 1},
    "maybe": None,
    "data": b"123",
    "picture": Array("|u1", (2,), memoryview(b"12")),
    "day": "2000-01-01",
}


def test_a_value_that_fits_has_no_faults() -> None:
    """Nothing is found in a good value, arrays and bytes included."""
    assert faults_of_schema(_SCHEMA) == []
    assert faults_of_value(_SCHEMA, _GOOD) == []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("tree", {"type": "leaf", "size": 3}, r"$.tree.size: expected a multiple of 2"),
        ("tree", {"type": "leaf", "size": 10}, "$.tree.size: expected under 10"),
        ("tree", {"type": "leaf", "size": -2}, "$.tree.size: expected at least 0"),
        ("tree", {"type": "root"}, "$.tree"),
        ("tree", 7, "$.tree: expected object, got 7"),
        ("kind", "b", "$.kind: expected one of"),
        ("share", 0, "$.share: expected over 0"),
        ("share", 1.5, "$.share: expected at most 1"),
        ("share", "x", "$.share: expected number, got 'x'"),
        ("share", True, "$.share: expected number, got True"),
        ("pair", [1], "$.pair: expected items of at least 2, got 1"),
        ("pair", [1, 2], "$.pair[1]: expected string, got 2"),
        ("pair", [1, "x", 2], "$.pair: expected items of at most 2, got 3"),
        ("few", [], "$.few: expected items of at least 1"),
        ("few", [1], "$.few[0]: expected boolean, got 1"),
        ("by_name", {"a": "x"}, "$.by_name.a: expected integer"),
        ("by_name", [], "$.by_name: expected object"),
        ("maybe", 0.5, "$.maybe: expected integer"),
        ("data", 7, "$.data: expected string"),
        ("picture", {"kind": "array"}, "$.picture.dtype: expected a value, got none"),
        ("day", None, "$.day: expected string, got None"),
        ("more", 1, "$.more: expected no such entry, got 1"),
    ],
)
def test_a_fault_is_named_with_its_path(name: str, value: object, fault: str) -> None:
    """What is wrong is found where it is."""
    found = faults_of_value(_SCHEMA, {**_GOOD, name: value})
    assert any(each.startswith(fault) for each in found), found


def test_text_is_measured() -> None:
    """Length and pattern of a string are checked."""
    for name in ("", "abcde", "A"):
        tree = {"type": "node", "left": {"type": "leaf", "size": 2}, "name": name}
        assert faults_of_value(_SCHEMA, {**_GOOD, "tree": tree})


def test_a_missing_entry_is_named() -> None:
    """Required entries are asked for."""
    rest = {name: value for name, value in _GOOD.items() if name != "share"}
    assert faults_of_value(_SCHEMA, rest) == ["$.share: expected a value, got none"]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 1}, 2),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, 2),
        ({"type": ["integer", "null"]}, "x"),
        ({"oneOf": [{"type": "integer"}, False]}, "x"),
        ({"minProperties": 1}, {}),
        (False, 1),
    ],
)
def test_other_keywords_are_checked(schema: Any, value: object) -> None:
    """What msgspec does not write, but others do, is understood too."""
    assert faults_of_value({"items": schema}, [value])
    assert not faults_of_value({"items": True}, [value])


def test_nan_has_no_bounds() -> None:
    """NaN is a number that no bound is for."""
    assert not faults_of_value({"type": "number", "minimum": 0}, float("nan"))


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ([], "expected a schema that is a map"),
        ({"type": "int"}, "type of JSON at $, got 'int'"),
        ({"$ref": "#/$defs/Nothing"}, "at $, got '#/$defs/Nothing'"),
        ({"properties": {"a": {"type": ["x"]}}}, "at $.properties.a"),
        ({"anyOf": [{"type": "x"}]}, "at $.anyOf[0]"),
        ({"items": {"$ref": "#/x"}}, "at $.items"),
    ],
)
def test_an_unsound_schema_is_found(schema: object, fault: str) -> None:
    """Types that are none and references to nowhere are named with their place."""
    (found,) = faults_of_schema(schema)
    assert fault in found


def test_the_validator_agrees_with_msgspec() -> None:
    """Spoilt values are refused by msgspec, too; drawn ones by neither."""
    sampler = sampler_of(_Everything, seed=3)
    for _ in range(100):
        valid = sampler.sample()
        assert faults_of_value(_SCHEMA, valid) == []
        spoilt = invalid_values(_SCHEMA, valid)
        assert len(spoilt) > 30
        for value in spoilt:
            with pytest.raises(msgspec.ValidationError):
                msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=_Everything)
