"""What a build says while it runs, and in the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

__all__ = ["BuildProgress", "BuiltImage", "Phase", "Progress"]

Phase = Literal["base", "wheels", "context", "build"]
"""What a build is doing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """A line of what a build is doing.

    Args:
        phase: Getting the base image, collecting wheels, sending them, or building.
        text: What happens, as pip or the engine says it.
        done: How much of the phase is done; None if nobody knows.
        total: How much there is: bytes to send, or steps to build.
    """

    phase: Phase
    text: str
    done: int | None = None
    total: int | None = None


Progress = Callable[[BuildProgress], None]
"""Takes the lines; it is called on the event loop, and must not block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image that was built.

    Args:
        id: The engine's digest of it.
        tags: Its names.
        size: Bytes on disk, those of the base image included.
        target: What it serves; empty for the base image of the SDK.
        package: Name of the environment's distribution, or the SDK's.
        version: Its version.
    """

    id: str
    tags: tuple[str, ...]
    size: int
    target: str
    package: str
    version: str
