"""What travels, whatever the environment: one `Value` holds an element of any space.

The server describes the same messages more narrowly, space by space: see `/schema`.
An element of a Gymnasium space is, on the wire,

- `Discrete`: an integer; `Text`: a string;
- `Box`, `MultiDiscrete`, `MultiBinary`: an `Array`; as an action also nested lists;
- `Tuple`, `Sequence`: a list; `OneOf`: a list of index and element;
- `Dict`: a `DictValue`, because a bare map could not be told from an `Array`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from openenv_async import Action, Array, Observation, State

__all__ = [
    "MAX_DEPTH",
    "DictValue",
    "GymnasiumAction",
    "GymnasiumObservation",
    "GymnasiumState",
    "Value",
    "from_numpy",
    "to_numpy",
]

MAX_DEPTH: Final = 4
"""How deep lists may be nested in a `Value`: msgspec knows no recursive lists."""

_INTEGERS: Final = range(-(2**63), 2**64)
"""What msgpack can carry."""


class DictValue(msgspec.Struct, frozen=True, tag_field="kind", tag="dict"):
    """An element of a Dict space."""

    items: dict[str, Value]


if TYPE_CHECKING:
    Value: TypeAlias = (
        bool | int | float | str | Array | DictValue | list["Value"] | None
    )
else:

    def _value_type(depth: int) -> object:
        flat = bool | int | float | str | Array | DictValue | None
        return flat | list[_value_type(depth - 1)] if depth else flat

    Value = _value_type(MAX_DEPTH)


class GymnasiumAction(Action):
    """An element of the action space."""

    action: Value
    render: bool = False
    """Whether the observation shall come with a `frame`."""

    @classmethod
    def of(cls, action: object, *, render: bool = False) -> GymnasiumAction:
        """Wrap an action as Gymnasium knows it, such as a NumPy array or integer.

        Raises:
            TypeError: It holds something that cannot travel.
        """
        return cls(action=from_numpy(action), render=render)


class GymnasiumObservation(Observation):
    """An element of the observation space, and what came with it."""

    observation: Value
    info: dict[str, Value] = msgspec.field(default_factory=dict)
    """Gymnasium's info. What cannot travel is left out, and `metadata` names it."""
    frame: Array | str | None = None
    """The rendered frame, if it was asked for: RGB, or text in render mode `ansi`."""

    def numpy(self) -> object:
        """The observation as Gymnasium returned it; arrays are read-only views."""
        return to_numpy(self.observation)


class GymnasiumState(State):
    """Where the episode stands."""

    id: str
    """Gymnasium's id of the environment."""
    seed: int | None = None
    """What the episode was reset with; null where it follows from the one before."""
    max_episode_steps: int | None = None
    """After so many steps the episode is truncated."""
    episode_return: float = 0.0
    """Sum of the rewards so far."""
    elapsed: float = 0.0
    """Seconds since the reset."""


def to_numpy(value: Value) -> object:
    """Turn a value into what Gymnasium users know: arrays, dicts and tuples.

    Arrays are read-only views of the received frame, which they keep alive.

    Raises:
        ValueError: The data of an array do not fit its dtype and shape.
    """
    if isinstance(value, Array):
        return value.numpy()
    if isinstance(value, DictValue):
        return {key: to_numpy(item) for key, item in value.items.items()}
    if isinstance(value, list):
        return tuple(to_numpy(item) for item in value)
    return value


def from_numpy(value: object) -> Value:
    """Turn what Gymnasium users know into a value; arrays are not copied.

    Raises:
        TypeError: It holds something that cannot travel.
    """
    return _from_numpy(value, MAX_DEPTH)


def _from_numpy(value: object, depth: int) -> Value:
    if isinstance(value, Array | DictValue | str | float) or value is None:
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise TypeError(f"expected an integer of 64 bits, got {value!r}")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"expected a map with strings as keys, got {value!r}")
        return DictValue(
            items={key: _from_numpy(item, MAX_DEPTH) for key, item in value.items()}
        )
    if isinstance(value, list | tuple):
        if not depth:
            raise TypeError(f"expected at most {MAX_DEPTH} lists in one another")
        return [_from_numpy(item, depth - 1) for item in value]
    return _from_array(value)


def _from_array(value: object) -> Value:
    import numpy as np  # noqa: PLC0415 (plain values need no NumPy)

    if isinstance(value, np.ndarray):
        return Array.of(value)
    if isinstance(value, np.generic):
        plain = value.item()
        if isinstance(plain, bool | int | float | str):
            return plain
    kind = type(value).__name__
    raise TypeError(f"expected arrays, numbers, strings, maps or lists, got {kind!r}")
