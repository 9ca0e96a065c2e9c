"""The codecs of spaces: there and back, in both encodings, as the schema says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnasium_env import DictValue, Value, from_numpy, to_numpy
from gymnasium_env.models import MAX_DEPTH
from gymnasium_env.server.codec import SpaceCodec, UnsupportedSpace
from gymnasium_env.server.spaces import ActionDecoder, space_codec
from openenv_async import Array, InvalidAction

_Problems = Callable[[dict[str, Any], Any], list[str]]

_BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)

SPACES: list[spaces.Space[Any]] = [
    spaces.Discrete(2),
    spaces.Discrete(5, start=-2),
    _BOX,
    spaces.Box(np.array([-1.0, -np.inf]), np.array([0.5, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Box(-100, 100, (), np.int16),
    spaces.Box(0.0, 1.0, (0,), np.float32),
    spaces.Box(0.0, 1.0, (3,), np.float16),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [-1, 2]])),
    spaces.Text(8),
    spaces.Text(5, min_length=2, charset="a-]^\\"),
    spaces.Tuple([spaces.Discrete(3), _BOX, spaces.Tuple([spaces.MultiBinary(2)])]),
    spaces.Tuple([]),
    spaces.Dict({"position": _BOX, "from": spaces.Discrete(3), "not an id!": _BOX}),
    spaces.Dict({"a": spaces.Dict({"b": spaces.Tuple([spaces.Text(3), _BOX])})}),
    spaces.Dict({"a b": spaces.Dict({"c": _BOX}), "a": spaces.Dict({"d": _BOX})}),
    spaces.Sequence(spaces.Discrete(4)),
    spaces.Sequence(spaces.Dict({"a": _BOX})),
    spaces.OneOf([spaces.Discrete(3), _BOX, spaces.Dict({"a": spaces.Discrete(2)})]),
]
_EVERY_SPACE = pytest.mark.parametrize("space", SPACES, ids=str)
_CODECS = {id(space): space_codec(space, "Here") for space in SPACES}


def _codec(space: spaces.Space[Any]) -> SpaceCodec:
    return _CODECS[id(space)]


def _decoder(space: spaces.Space[Any]) -> ActionDecoder:
    return ActionDecoder(space, _codec(space))


def _same(one: Any, other: Any) -> bool:
    """Whether two elements are equal; it does not matter who counts in NumPy."""
    if isinstance(other, dict):
        assert list(one) == list(other)
        return all(_same(one[key], other[key]) for key in other)
    if isinstance(other, tuple):
        assert isinstance(one, tuple)
        return all(itertools.starmap(_same, zip(one, other, strict=True)))
    if isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        return np.array_equal(one, other)
    return bool(one == other)


@_EVERY_SPACE
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_action_arrives_as_it_was_sampled(space: spaces.Space[Any], seed: int) -> None:
    """An element of a space survives msgpack and JSON as an action."""
    space.seed(seed)
    element = space.sample()
    for module in (msgspec.msgpack, msgspec.json):
        encoded = module.encode(from_numpy(element))
        value = module.decode(encoded, type=_codec(space).accepted)
        assert _same(_decoder(space)(value), element)


@_EVERY_SPACE
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_observation_arrives_as_it_was_sampled(
    space: spaces.Space[Any], seed: int
) -> None:
    """An element of a space survives msgpack and JSON as an observation."""
    space.seed(seed)
    element = space.sample()
    for module in (msgspec.msgpack, msgspec.json):
        encoded = module.encode(_codec(space).encode(element))
        value: Value = module.decode(encoded, type=Value)
        assert _same(_decoder(space)(value), element)
        assert space.contains(to_numpy(value))


@_EVERY_SPACE
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_schema_admits_what_is_sent(
    problems: _Problems, space: spaces.Space[Any], seed: int
) -> None:
    """Observations and actions follow the schema of their space."""
    space.seed(seed)
    codec = _codec(space)
    sent = json.loads(msgspec.json.encode(codec.encode(space.sample())))
    assert problems(msgspec.json.schema(codec.observed), sent) == []
    assert problems(msgspec.json.schema(codec.accepted), sent) == []


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(2), 2),
        (spaces.Discrete(2), -1),
        (_BOX, [0.0, 1.5]),
        (_BOX, [0.0]),
        (_BOX, [0.0, 0.0, 0.0]),
        (spaces.MultiDiscrete([2, 2]), [0]),
        (spaces.MultiBinary(2), [0, 2]),
        (spaces.Text(2), "abc"),
        (spaces.Text(2), "!"),
        (spaces.Tuple([spaces.Discrete(2)]), []),
        (spaces.Tuple([spaces.Discrete(2)]), [0, 0]),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"kind": "dict", "items": {}}),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            {"kind": "dict", "items": {"a": 0, "b": 0}},
        ),
    ],
    ids=str,
)
def test_schema_refuses_what_is_refused(
    problems: _Problems, space: spaces.Space[Any], value: object
) -> None:
    """What the schema calls wrong is no action: in decoding or in the decoder."""
    codec = space_codec(space, "Action")
    assert problems(msgspec.json.schema(codec.accepted), value)
    with pytest.raises((InvalidAction, msgspec.ValidationError)):
        ActionDecoder(space, codec)(msgspec.convert(value, codec.accepted))


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Discrete(2), True),
        (spaces.Discrete(2), 1.0),
        (spaces.Discrete(2), "1"),
        (spaces.Discrete(2), None),
        (spaces.Discrete(2), 2**70),
        (_BOX, [0.0, float("nan")]),
        (_BOX, [0.0, [0.0]]),
        (_BOX, ["a", "b"]),
        (_BOX, [None, None]),
        (_BOX, "ab"),
        (_BOX, 0.5),
        (_BOX, Array.of(np.zeros((2, 1), np.float32))),
        (_BOX, Array.of(np.array(["a", "b"]))),
        (_BOX, Array(dtype="<f4", shape=(2,), data=memoryview(b"1234567"))),
        (_BOX, Array(dtype="rubbish", shape=(2,), data=memoryview(b""))),
        (_BOX, Array(dtype=">f4", shape=(2,), data=memoryview(bytes(8)))),
        (_BOX, DictValue(items={})),
        (spaces.Box(-np.inf, np.inf, (1,), np.float32), [1e300]),
        (spaces.Box(0, 255, (1,), np.uint8), [256]),
        (spaces.Box(0, 255, (1,), np.uint8), [-1]),
        (spaces.Box(0, 255, (1,), np.uint8), [1.0]),
        (spaces.Text(2), 1),
        (spaces.Tuple([spaces.Discrete(2)]), 0),
        (spaces.Dict({"a": spaces.Discrete(2)}), DictValue(items={"b": 0})),
        (spaces.Dict({"a": spaces.Discrete(2)}), [0]),
        (spaces.Sequence(spaces.Discrete(2)), [0, 2]),
        (spaces.Sequence(spaces.Discrete(2)), 0),
        (spaces.OneOf([spaces.Discrete(2)]), [1, 0]),
        (spaces.OneOf([spaces.Discrete(2)]), [-1, 0]),
        (spaces.OneOf([spaces.Discrete(2)]), [0, 2]),
        (spaces.OneOf([spaces.Discrete(2)]), [0]),
    ],
    ids=str,
)
def test_action_is_refused_by_value_and_space(
    space: spaces.Space[Any], value: Value
) -> None:
    """A value that is no element is refused; the error names value and space."""
    with pytest.raises(InvalidAction) as caught:
        ActionDecoder(space, space_codec(space, "Action"))(value)
    assert f"expected an action in {str(space)[:200]}" in str(caught.value)
    assert caught.value.executed == "no"
    assert caught.value.detail["space"] == str(space)


@pytest.mark.parametrize("value", [[0, 1], np.array([0, 1]), np.array([0.0, 1.0])])
def test_action_of_a_simpler_dtype_is_cast(value: object) -> None:
    """Integers and other floats will do for a Box of float32."""
    element = _decoder(_BOX)(from_numpy(value))
    assert isinstance(element, np.ndarray)
    assert element.dtype == np.float32
    assert element.tolist() == [0.0, 1.0]
    assert element.flags.writeable


def test_observation_of_another_dtype_is_cast() -> None:
    """An observation is what its schema says, even if the environment is sloppy."""
    value = _codec(_BOX).encode(np.array([0.5, 1.0]))
    assert isinstance(value, Array)
    assert value.dtype == "<f4"
    assert value.numpy().tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("space", "element"),
    [
        (_BOX, np.zeros(3)),
        (_BOX, None),
        (spaces.Discrete(2), 1.5),
        (spaces.Text(2), 1),
        (spaces.Tuple([spaces.Discrete(2)]), (1, 1)),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}),
    ],
    ids=str,
)
def test_observation_outside_its_space_is_an_error(
    space: spaces.Space[Any], element: object
) -> None:
    """An observation of another structure or shape is never sent."""
    with pytest.raises((TypeError, ValueError), match="expected"):
        space_codec(space, "Observation").encode(element)


@pytest.mark.parametrize(
    "element", [1, True, np.int8(1), np.bool_(True), np.array(1)], ids=repr
)
def test_discrete_observation_is_an_integer(element: object) -> None:
    """Whatever kind of integer the environment returns, it travels as one."""
    assert _codec(SPACES[0]).encode(element) is not True
    assert _codec(SPACES[0]).encode(element) == 1


@pytest.mark.parametrize("feature", [_BOX, spaces.Dict({"a": _BOX})], ids=str)
def test_stacked_sequence_travels_as_items(feature: spaces.Space[Any]) -> None:
    """A stacked sequence is a list on the wire and stacked for the environment."""
    space = spaces.Sequence(feature, stack=True)
    items = tuple(feature.sample() for _ in range(3))
    codec = space_codec(space, "Action")
    element = ActionDecoder(space, codec)(from_numpy(items))
    assert space.contains(element)
    assert _same(to_numpy(codec.encode(element)), items)


class _OddSpace(spaces.Discrete):
    def contains(self, x: Any) -> bool:
        return super().contains(x) and x % 2 == 1


def test_own_space_decides_what_it_contains() -> None:
    """A subclass of a known space has the last word."""
    decode = ActionDecoder(_OddSpace(4), space_codec(_OddSpace(4), "Action"))
    assert decode(3) == 3
    with pytest.raises(InvalidAction, match="got 2"):
        decode(2)


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (spaces.Graph(spaces.Discrete(2), None), "as Observation, got Graph"),
        (
            spaces.Dict({"map": spaces.Graph(spaces.Discrete(2), None)}),
            "as ObservationMap, got Graph",
        ),
        (spaces.Tuple([spaces.Graph(_BOX, None)]), "as ObservationItem0, got Graph"),
        (spaces.Sequence(spaces.Sequence(spaces.Tuple([SPACES[14]]))), "at most 4"),
    ],
    ids=str,
)
def test_unsupported_space_is_named(space: spaces.Space[Any], match: str) -> None:
    """A space that cannot travel is a typed error that says which and where."""
    with pytest.raises(UnsupportedSpace, match=match):
        space_codec(space, "Observation")


def test_bounds_are_compact_where_they_are_uniform() -> None:
    """One number stands for bounds that are alike, null for none."""
    schema = json.dumps(msgspec.json.schema(_codec(SPACES[4]).observed))
    assert '"low": 0, "high": 255' in schema
    schema = json.dumps(msgspec.json.schema(_codec(SPACES[3]).observed))
    assert '"low": [-1.0, null], "high": [0.5, null]' in schema


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(),
        lambda items: (
            st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3)
        ),
        max_leaves=5,
    )
)
def test_from_numpy_and_to_numpy_are_inverse(value: Any) -> None:
    """What can travel comes back; lists come back as tuples."""
    if _is_too_deep(value):
        with pytest.raises(TypeError, match="at most 4 lists"):
            from_numpy(value)
        return
    sent = from_numpy(value)
    again = to_numpy(msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Value))
    assert again == _tuples(value)


def _is_too_deep(value: Any, room: int = MAX_DEPTH) -> bool:
    if isinstance(value, dict):
        return any(_is_too_deep(item) for item in value.values())
    if isinstance(value, list):
        return not room or any(_is_too_deep(item, room - 1) for item in value)
    return False


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize(
    "value",
    [object(), 2**64, {1: 2}, 1j, np.complex64(1), np.datetime64("2020"), {1, 2}],
    ids=lambda value: type(value).__name__,
)
def test_from_numpy_refuses_what_cannot_travel(value: object) -> None:
    """Anything else is a TypeError, not a surprise on the wire."""
    with pytest.raises(TypeError, match="expected"):
        from_numpy(value)


def test_arrays_are_views_of_the_frame() -> None:
    """Decoding does not copy an array."""
    frame = msgspec.msgpack.encode(from_numpy(np.arange(1000)))
    value: Value = msgspec.msgpack.decode(frame, type=Value)
    assert isinstance(value, Array)
    assert value.data.obj is frame
