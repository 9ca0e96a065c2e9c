"""Frames of the bare ceiling: typed steps and results, and nothing else.

What a protocol must add to this (sessions, order, exactly once, errors, limits,
timings) is what the SDK's overhead is measured against.
"""

from __future__ import annotations

import math
from typing import Generic, TypeAlias, TypeVar

import msgspec

from benchmarks.cases import IMAGE_SHAPE

__all__ = [
    "Action",
    "ImageObservation",
    "Observation",
    "Pixels",
    "Result",
    "Step",
    "TextObservation",
    "image",
]


class Action(msgspec.Struct, frozen=True):
    """What the small and the large case send."""

    message: str


class Observation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields that every environment has."""

    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    metadata: dict[str, msgspec.Raw] = {}


class TextObservation(Observation, frozen=True, kw_only=True):
    """The small observation."""

    echoed_message: str


class Pixels(msgspec.Struct, frozen=True):
    """An array: decoded as a view of the received frame."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class ImageObservation(Observation, frozen=True, kw_only=True):
    """The observation of 150 KiB."""

    pixels: Pixels


AnyObservation: TypeAlias = TextObservation | ImageObservation
ObsT = TypeVar("ObsT", bound=AnyObservation)


class Step(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A request."""

    handle: int
    seq: int
    action: Action


class Result(msgspec.Struct, Generic[ObsT], frozen=True, array_like=True, tag=2):
    """The reply to a `Step`."""

    handle: int
    seq: int
    observation: ObsT


def image() -> Pixels:
    """Build the 150 KiB that an environment shows."""
    size = math.prod(IMAGE_SHAPE)
    data = memoryview(bytes(i & 0xFF for i in range(size)))
    return Pixels(dtype="|u1", shape=IMAGE_SHAPE, data=data)
