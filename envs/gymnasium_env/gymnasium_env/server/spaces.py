"""The codec of each kind of Gymnasium space: its types, and the ways there and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import singledispatch
from typing import Annotated, Any

import msgspec
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from msgspec import Meta

from openenv_async import InvalidAction

from ..models import MAX_DEPTH, DictValue, Value, to_numpy
from .arrays import array_codec
from .codec import SpaceCodec, UnsupportedSpace

__all__ = ["ActionDecoder", "space_codec"]

_MAX_SHOWN = 200
"""Characters of a value, and of a space, in a message."""


class ActionDecoder:
    """Turns values into elements of a space, or refuses them.

    Args:
        space: What the actions are elements of.
        codec: Its codec.
    """

    def __init__(self, space: spaces.Space[Any], codec: SpaceCodec) -> None:
        self._space = space
        self._decode = codec.decode
        self._exact = codec.exact

    def __call__(self, value: Value) -> object:
        """Return the element.

        Raises:
            InvalidAction: The space does not contain it.
        """
        try:
            element = self._decode(value)
        except (TypeError, ValueError, FloatingPointError) as error:
            raise self._refusal(value, f": {error}") from error
        if not self._exact and not self._space.contains(element):
            raise self._refusal(value, "")
        return element

    def _refusal(self, value: Value, why: str) -> InvalidAction:
        space, shown = str(self._space), _shown(value)
        return InvalidAction(
            f"expected an action in {_shortened(space)}, got {shown}{why}",
            detail={"space": space, "value": shown},
        )


def _shown(value: Value) -> str:
    try:
        return _shortened(repr(to_numpy(value)))
    except (TypeError, ValueError):
        return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


@singledispatch
def space_codec(space: object, path: str) -> SpaceCodec:
    """Describe how a space's elements travel.

    Args:
        space: The space.
        path: Where it is, such as `Observation`: names its types.

    Raises:
        UnsupportedSpace: Its elements have no place in a `Value`.
    """
    raise UnsupportedSpace(
        "expected a space of Box, Dict, Discrete, MultiBinary, MultiDiscrete, OneOf, "
        f"Sequence, Text or Tuple as {path}, got {space}"
    )


@space_codec.register
def _box(space: spaces.Box, path: str) -> SpaceCodec:
    return array_codec(
        path,
        space.dtype,
        space.shape,
        low=space.low,
        high=space.high,
        description=str(space),
    )


@space_codec.register
def _multi_discrete(space: spaces.MultiDiscrete, path: str) -> SpaceCodec:
    return array_codec(
        path,
        space.dtype,
        space.shape,
        low=space.start,
        high=space.start + space.nvec - 1,
        description=str(space),
    )


@space_codec.register
def _multi_binary(space: spaces.MultiBinary, path: str) -> SpaceCodec:
    assert space.dtype is not None
    return array_codec(
        path, space.dtype, space.shape, low=0, high=1, description=str(space)
    )


@space_codec.register
def _discrete(space: spaces.Discrete, path: str) -> SpaceCodec:
    least = int(space.start)
    elements = range(least, least + int(space.n))
    schema = {
        "minimum": elements[0],
        "maximum": elements[-1],
        "description": str(space),
    }
    kind = Annotated[int, Meta(extra_json_schema=schema)]

    def encode(value: object) -> int:
        # A NumPy boolean is an integer for Gymnasium but not for Python.
        if type(value) is int or isinstance(value, int | np.integer | np.bool_):
            return int(value)
        if (
            isinstance(value, np.ndarray)
            and value.shape == ()
            and value.dtype.kind in "biu"
        ):
            return int(value)
        raise TypeError(f"expected an element of {space}, got {value!r}")

    def decode(value: object) -> int:
        if type(value) is not int:
            raise TypeError(f"expected an integer, got {type(value).__name__!r}")
        if value not in elements:
            raise ValueError(f"expected {elements[0]} to {elements[-1]}")
        return value

    return SpaceCodec(
        observed=kind,
        accepted=kind,
        encode=encode,
        decode=decode,
        # A subclass may have ideas of its own.
        exact=type(space) is spaces.Discrete,
    )


@space_codec.register
def _text(space: spaces.Text, path: str) -> SpaceCodec:
    letters = "".join(re.escape(letter) for letter in sorted(space.character_set))
    schema = {
        "minLength": space.min_length,
        "maxLength": space.max_length,
        "pattern": f"^[{letters}]*$" if letters else "^$",
    }
    kind = Annotated[str, Meta(extra_json_schema=schema)]

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError(f"expected a string, got {type(value).__name__!r}")
        return str(value)

    return SpaceCodec(observed=kind, accepted=kind, encode=check, decode=check)


@space_codec.register
def _dict(space: spaces.Dict, path: str) -> SpaceCodec:
    for key in space:
        if not isinstance(key, str):
            raise UnsupportedSpace(
                f"expected strings as keys of the Dict space {path}, got {key!r}"
            )
    codecs = {
        key: space_codec(part, f"{path}{_camel(key, position)}")
        for position, (key, part) in enumerate(space.items())
    }
    names = {key: f"item_{position}" for position, key in enumerate(codecs)}

    def encode(value: Mapping[str, object]) -> DictValue:
        _same_keys(value, names)
        return DictValue(
            items={key: codec.encode(value[key]) for key, codec in codecs.items()}
        )

    def decode(value: object) -> dict[str, object]:
        items = getattr(value, "items", None)
        if isinstance(items, msgspec.Struct):
            # Decoded by the type below, which has exactly these fields.
            given = {key: getattr(items, name) for key, name in names.items()}
        elif isinstance(value, DictValue):
            given = value.items
        else:
            raise TypeError(f"expected a DictValue, got {type(value).__name__!r}")
        _same_keys(given, names)
        return {key: codec.decode(given[key]) for key, codec in codecs.items()}

    return SpaceCodec(
        observed=_dict_type(
            f"{path}Dict", names, {key: codec.observed for key, codec in codecs.items()}
        ),
        accepted=_dict_type(
            f"{path}Dict", names, {key: codec.accepted for key, codec in codecs.items()}
        ),
        encode=encode,
        decode=decode,
    )


def _camel(key: str, position: int) -> str:
    name = "".join(word.capitalize() for word in re.findall("[A-Za-z0-9]+", key))
    return name or f"Item{position}"


def _same_keys(given: Mapping[str, object], expected: Mapping[str, object]) -> None:
    if given.keys() != expected.keys():
        raise ValueError(f"expected the keys {list(expected)}, got {list(given)}")


def _dict_type(name: str, names: dict[str, str], types: dict[str, Any]) -> Any:
    """A `DictValue` that knows its keys."""
    items = msgspec.defstruct(
        f"{name}Items",
        [(names[key], kind) for key, kind in types.items()],
        rename={field: key for key, field in names.items()},
        frozen=True,
        forbid_unknown_fields=True,
    )
    return msgspec.defstruct(
        name,
        [("items", items)],
        tag_field="kind",
        tag="dict",
        frozen=True,
        forbid_unknown_fields=True,
    )


@space_codec.register(spaces.Tuple)
def _tuple(space: spaces.Tuple[Any], path: str) -> SpaceCodec:
    codecs = [
        space_codec(part, f"{path}Item{position}")
        for position, part in enumerate(space.spaces)
    ]
    encoders = [codec.encode for codec in codecs]
    decoders = [codec.decode for codec in codecs]
    return SpaceCodec(
        observed=tuple[tuple(codec.observed for codec in codecs)],  # type: ignore[misc]  # a runtime type
        accepted=tuple[tuple(codec.accepted for codec in codecs)],  # type: ignore[misc]  # a runtime type
        encode=lambda value: list(_each(encoders, value)),
        decode=lambda value: tuple(_each(decoders, value)),
        depth=_deeper(space, codecs),
    )


def _each(convert: list[Callable[[Any], Any]], value: object) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) != len(convert):
        raise TypeError(f"expected {len(convert)} items, got {value!r}")
    return [one(item) for one, item in zip(convert, value, strict=True)]


def _deeper(space: spaces.Space[Any], codecs: list[SpaceCodec]) -> int:
    depth = 1 + max((codec.depth for codec in codecs), default=0)
    if depth > MAX_DEPTH:
        raise UnsupportedSpace(
            f"expected at most {MAX_DEPTH} sequences in one another, got {space}"
        )
    return depth


@space_codec.register(spaces.OneOf)
def _one_of(space: spaces.OneOf[Any], path: str) -> SpaceCodec:
    codecs = [
        space_codec(part, f"{path}Choice{position}")
        for position, part in enumerate(space.spaces)
    ]
    choice = {"minimum": 0, "maximum": len(codecs) - 1}
    # Which type the second item has depends on the first, which no annotation can say.
    kind = Annotated[
        tuple[Annotated[int, Meta(extra_json_schema=choice)], Value],
        Meta(extra_json_schema={"description": f"[index, element] of {space}"}),
    ]

    def encode(value: tuple[int, object]) -> Value:
        index, element = value
        return [int(index), codecs[index].encode(element)]

    def decode(value: object) -> tuple[np.int64, object]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise TypeError(f"expected an index and an element, got {value!r}")
        index, element = value
        if type(index) is not int or not 0 <= index < len(codecs):
            raise ValueError(f"expected an index below {len(codecs)}, got {index!r}")
        return np.int64(index), codecs[index].decode(element)

    return SpaceCodec(
        observed=kind,
        accepted=kind,
        encode=encode,
        decode=decode,
        depth=_deeper(space, codecs),
    )


@space_codec.register
def _sequence(space: spaces.Sequence, path: str) -> SpaceCodec:
    feature = space.feature_space
    codec = space_codec(feature, f"{path}Item")

    def encode(value: Any) -> Value:
        items = iterate(space.stacked_feature_space, value) if space.stack else value
        return [codec.encode(item) for item in items]

    def decode(value: object) -> object:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {value!r}")
        items = tuple(codec.decode(item) for item in value)
        if not space.stack:
            return items
        stacked: Any = create_empty_array(feature, len(items))
        return concatenate(feature, items, stacked)

    return SpaceCodec(
        observed=list[codec.observed],  # type: ignore[name-defined]  # a runtime type
        accepted=list[codec.accepted],  # type: ignore[name-defined]  # a runtime type
        encode=encode,
        decode=decode,
        depth=_deeper(space, [codec]),
    )
