"""What OpenEnv's clients return."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

__all__ = ["StepResult"]

ObsT = TypeVar("ObsT")


@dataclasses.dataclass
class StepResult(Generic[ObsT]):
    """The outcome of a `reset` or a `step`, as OpenEnv shapes it."""

    observation: ObsT
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None
