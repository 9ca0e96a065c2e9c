"""Echo environments on this SDK: the counterpart of `openenv_server`.

Served with `openenv-async serve benchmarks.sdk_environment:BenchEnvironment`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import IMAGE_SHAPE
from openenv_async import Action, Environment, Observation, State
from openenv_async.arrays import Array

__all__ = [
    "BenchAction",
    "BenchEnvironment",
    "BenchObservation",
    "ImageEnvironment",
    "ImageObservation",
]

_IMAGE = np.arange(np.prod(IMAGE_SHAPE), dtype=np.uint32).astype(np.uint8)
_IMAGE = _IMAGE.reshape(IMAGE_SHAPE)


class BenchAction(Action):
    """What the small and the large case send."""

    message: str


class BenchObservation(Observation):
    """The small observation."""

    echoed_message: str


class ImageObservation(Observation):
    """The observation of 150 KiB."""

    pixels: Array


class BenchEnvironment(Environment[BenchAction, BenchObservation, State]):
    """Echo the message."""

    def __init__(self) -> None:
        self._steps = 0

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> BenchObservation:
        """Start an episode."""
        self._steps = 0
        return BenchObservation(echoed_message="", reward=0.0)

    async def step(self, action: BenchAction) -> BenchObservation:
        """Echo the message."""
        self._steps += 1
        return BenchObservation(echoed_message=action.message, reward=1.0)

    def state(self) -> State:
        """Count the steps."""
        return State(step_count=self._steps)


class ImageEnvironment(Environment[BenchAction, ImageObservation, State]):
    """Show 150 KiB."""

    def __init__(self) -> None:
        self._steps = 0

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> ImageObservation:
        """Start an episode."""
        self._steps = 0
        return ImageObservation(pixels=Array.of(_IMAGE), reward=0.0)

    async def step(self, action: BenchAction) -> ImageObservation:
        """Show the image."""
        self._steps += 1
        return ImageObservation(pixels=Array.of(_IMAGE), reward=1.0)

    def state(self) -> State:
        """Count the steps."""
        return State(step_count=self._steps)
