"""Random values fit their schema, repeat by seed, and reach what a schema allows."""

from __future__ import annotations

import datetime
import decimal
import random
import re
import uuid
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from openenv_async import Action, Array, LocalProtocolError
from openenv_async.rollout.adapters.patterns import sample_pattern
from openenv_async.rollout.adapters.sampling import Sampler, sampler_of


class _Tree(msgspec.Struct):
    value: int
    left: _Tree | None
    children: list[_Tree]


class _Go(Action, tag="go"):
    steps: Annotated[int, Meta(gt=2, lt=9, multiple_of=2)]


class _Say(Action, tag="say"):
    text: Annotated[str, Meta(min_length=2, max_length=5)]
    loud: bool = False


class _Box(msgspec.Struct):
    a: Annotated[float, Meta(ge=-1, le=1)]
    b: Annotated[float, Meta(gt=0, lt=0.5)]
    c: Annotated[float, Meta(ge=1e6)]
    d: Annotated[int, Meta(le=-5)]
    e: Annotated[float, Meta(multiple_of=0.25)]


class _Formats(msgspec.Struct):
    at: Annotated[datetime.datetime, Meta(tz=True)]
    time: Annotated[datetime.time, Meta(tz=True)]
    day: datetime.date
    span: datetime.timedelta
    id: uuid.UUID
    price: decimal.Decimal
    data: Annotated[bytes, Meta(min_length=4, max_length=8)]


class _Containers(msgspec.Struct):
    few: Annotated[list[int], Meta(min_length=2, max_length=3)]
    pair: tuple[int, str, bool]
    by_name: Annotated[dict[str, float], Meta(min_length=1)]
    unique: set[int]
    nested: list[list[Literal["x", "y"]]]
    array: Array
    anything: Any
    either: int | str | None


_TYPES: list[Any] = [_Tree, _Go | _Say, _Box, _Formats, _Containers, int, None, bool]


@pytest.mark.parametrize("type_", _TYPES, ids=str)
@pytest.mark.parametrize("optional", [0.0, 0.5, 1.0])
def test_values_are_accepted_by_their_type(type_: Any, optional: float) -> None:
    """msgspec decodes whatever is drawn from its schema, in msgpack."""
    sampler = sampler_of(type_, seed=1, optional=optional)
    for _ in range(300):
        encoded = msgspec.msgpack.encode(sampler.sample())
        msgspec.msgpack.decode(encoded, type=type_)


def test_the_same_seed_draws_the_same() -> None:
    """Two samplers with one seed agree, with another they do not."""
    one, same, other = (sampler_of(_Containers, seed=seed) for seed in (1, 1, 2))
    drawn = [one.sample() for _ in range(20)]
    assert drawn == [same.sample() for _ in range(20)]
    assert drawn != [other.sample() for _ in range(20)]


def test_every_alternative_is_drawn() -> None:
    """Unions, enumerations and small ranges are covered, ends included."""
    drawn = [sampler_of(_Go | _Say, seed=seed).sample() for seed in range(200)]
    assert {value["type"] for value in drawn} == {"go", "say"}
    assert {value["steps"] for value in drawn if "steps" in value} == {4, 6, 8}
    lengths = {len(value["text"]) for value in drawn if "text" in value}
    assert lengths == {2, 3, 4, 5}


def test_optional_entries_come_as_often_as_asked_for() -> None:
    """0 draws none of them, 1 draws all."""
    for optional in (0.0, 1.0):
        sampler = sampler_of(_Say, seed=0, optional=optional)
        values = [sampler.sample() for _ in range(50)]
        assert all(("loud" in value) is bool(optional) for value in values)


def test_trees_end() -> None:
    """A type that contains itself gives values of bounded depth."""

    def depth(value: Any) -> int:
        inner = [*value["children"], *([value["left"]] if value["left"] else [])]
        return 1 + max(map(depth, inner), default=0)

    sampler = sampler_of(_Tree, seed=0, optional=1.0)
    assert max(depth(sampler.sample()) for _ in range(100)) < 20


# Arrays


def _array_schema(dtype: str, shape: list[int], **data: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "kind": {"enum": ["array"]},
            "dtype": {"enum": [dtype, "<f8"]},
            "shape": {"const": shape},
            "data": {"type": "string", "contentEncoding": "base64", **data},
        },
        "required": ["kind", "dtype", "shape", "data"],
    }


@pytest.mark.parametrize(
    "dtype", ["<f2", "<f4", "<f8", ">f4", "|b1", "|i1", "|u1", "<i2", "<u4", "<i8"]
)
def test_arrays_have_their_dtype_shape_and_range(dtype: str) -> None:
    """Every kind of number stays within the bounds that the schema names."""
    sampler = Sampler(_array_schema(dtype, [3, 2], low=0, high=0.7), seed=0)
    for _ in range(50):
        array = sampler.sample()
        assert isinstance(array, Array)
        assert (array.dtype, array.shape) == (dtype, (3, 2))
        numbers = array.numpy()
        if dtype != "|b1":
            assert numbers.min() >= 0
            assert numbers.max() <= 0.7


def test_arrays_may_have_bounds_for_each_element() -> None:
    """Nested bounds belong to the elements in order; infinite ones are none."""
    schema = _array_schema(
        "<f4", [2, 2], low=[[0, 10], [20, float("-inf")]], high=[[1, 11], [21, 5]]
    )
    for seed in range(50):
        numbers = Sampler(schema, seed=seed).sample().numpy()
        assert (numbers >= [[0, 10], [20, -95]]).all()
        assert (numbers <= [[1, 11], [21, 5]]).all()


def test_arrays_of_the_open_type_are_small() -> None:
    """Where neither dtype nor shape is said, a few floats are drawn."""
    sampler = sampler_of(Array, seed=0)
    for _ in range(50):
        assert sampler.sample().numpy().size <= 16


@pytest.mark.parametrize(
    ("dtype", "data", "match"),
    [("<U3", {}, "'<U3'"), ("<f4", {"low": [0, 1, 2]}, "2 values as 'low'")],
)
def test_arrays_that_cannot_be_drawn_are_errors(
    dtype: str, data: dict[str, Any], match: str
) -> None:
    """The place and the trouble are named."""
    with pytest.raises(LocalProtocolError, match=match):
        Sampler(_array_schema(dtype, [2], **data)).sample()


# Schemas of others


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 7}, 7),
        ({"enum": ["a"]}, "a"),
        ({"type": "string", "format": "uuid"}, str),
        ({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 3}]}, 3),
        (
            {
                "allOf": [
                    {"type": "integer", "minimum": 1, "maximum": 9, "title": "A"},
                    {"minimum": 3, "maximum": 3, "title": "B"},
                ]
            },
            3,
        ),
        (
            {
                "allOf": [
                    {"properties": {"a": {"const": 1}}, "required": ["a"]},
                    {"properties": {"b": {"const": 2}}, "required": ["b"]},
                ]
            },
            {"a": 1, "b": 2},
        ),
        ({"minimum": 2, "maximum": 2}, 2.0),
        ({"properties": {"a": {"const": 1}}, "required": ["a"]}, {"a": 1}),
        ({"items": {"const": 1}, "minItems": 2, "maxItems": 2}, [1, 1]),
        ({"type": "array", "uniqueItems": True, "maxItems": 0}, []),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, 1),
        ({"type": ["null"]}, None),
        ({}, None),
    ],
)
def test_schemas_that_others_write_are_understood(
    schema: dict[str, Any], expected: Any
) -> None:
    """Keywords that msgspec does not use are followed, too."""
    drawn = Sampler(schema, seed=0).sample()
    assert isinstance(drawn, expected) if expected is str else drawn == expected


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "file"}, "'file'"),
        ({"$ref": "#/$defs/Nothing"}, "'#/\\$defs/Nothing'"),
        ({"$ref": "#"}, "circle"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "'minimum': 3"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "'maximum': 1"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "'minLength': 3"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "'minItems': 3"),
        ({"type": "array", "items": False, "minItems": 1}, "'minItems': 1"),
        (
            {
                "type": "array",
                "items": {"const": 1},
                "minItems": 2,
                "uniqueItems": True,
            },
            "'uniqueItems'",
        ),
        ({"type": "string", "pattern": "(?=a)b"}, "not drawn"),
        ({"minProperties": 1, "properties": {}, "additionalProperties": False}, "Prop"),
        (
            {
                "$ref": "#/$defs/A",
                "$defs": {
                    "A": {
                        "type": "object",
                        "properties": {"a": {"$ref": "#/$defs/A"}},
                        "required": ["a"],
                    }
                },
            },
            "endless",
        ),
    ],
)
def test_what_cannot_be_drawn_is_an_error(schema: dict[str, Any], match: str) -> None:
    """A schema that nothing fits, or that nobody understands, is named."""
    with pytest.raises(LocalProtocolError, match=match):
        Sampler(schema, seed=0).sample()


def test_a_type_without_a_schema_is_an_error() -> None:
    """What msgspec cannot describe is named."""
    with pytest.raises(LocalProtocolError, match="object"):
        sampler_of(object())


# Patterns


@pytest.mark.parametrize(
    "pattern",
    [
        "^[a-c]{2,4}$",
        r"^\d+-[A-Z]{3}(x|yy)?$",
        "colou?r",
        r"^[^abc]*\.txt$",
        r"^(?:ab|cd){2}[\]\\^-]$",
        r"^\w+@\w+\.\x41$",
        "^a{3}b{1,}c*?$",
        r"^[\da-f]{8}$",
        r"^\S\D\W\s.$",
        r"^é\n?$",
    ],
)
def test_patterns_are_matched(pattern: str) -> None:
    """What is drawn matches, and is not always the same."""
    source = random.Random(0)
    drawn = {sample_pattern(pattern, source, least=0, most=40) for _ in range(50)}
    assert all(re.search(pattern, text) for text in drawn)
    assert len(drawn) > 1 or pattern == "x"


def test_patterns_keep_the_length() -> None:
    """A pattern without bounds is drawn as long as it has to be."""
    source = random.Random(0)
    for _ in range(20):
        assert 15 <= len(sample_pattern("^a*$", source, least=15, most=20)) <= 20


@pytest.mark.parametrize("pattern", ["(", "[a", r"^\bword$", "(?P<n>a)", "^ab$"])
def test_patterns_that_cannot_be_drawn_are_errors(pattern: str) -> None:
    """Wrong ones, unknown parts and lengths that cannot be are named."""
    with pytest.raises(LocalProtocolError, match="at \\$"):
        sample_pattern(pattern, random.Random(0), least=3, most=5)
