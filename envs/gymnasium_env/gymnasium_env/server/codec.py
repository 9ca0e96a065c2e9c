"""How the elements of one Gymnasium space travel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from openenv_async import LocalProtocolError

from ..models import Value

__all__ = ["SpaceCodec", "UnsupportedSpace"]


class UnsupportedSpace(LocalProtocolError):
    """The environment has a space whose elements have no place in a `Value`."""

    default_code = "unsupported_space"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceCodec:
    """One space's types on the wire, and the ways there and back.

    It neither samples nor keeps anything, so that all sessions share one.
    """

    observed: Any
    """Type annotation of an observation: what `encode` returns, for the schema."""
    accepted: Any
    """Type annotation of an action: what `decode` takes, for schema and decoder.

    It fixes kinds and structure. Ranges are in its schema but not in its decoder:
    `decode` and the space check them, because they can name value and space.
    """
    encode: Callable[[Any], Value]
    """Turn an element into a value.

    Raises TypeError or ValueError where the environment broke its word.
    """
    decode: Callable[[Any], object]
    """Turn a value into an element with the space's structure, dtype and shape.

    Raises TypeError or ValueError. Whether the space contains it is another question,
    unless it is exact.
    """
    exact: bool = False
    """Whether the space contains everything that `decode` returns."""
    depth: int = 0
    """How many lists it nests."""
