"""What a run has learned so far: one row for each update, on screen and on disk."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from .ppo import Tensor, Update

__all__ = ["Journal", "Row", "Stopwatch", "Workload"]

_WINDOW = 100
"""Latest episodes whose mean return counts: CartPole's own definition of solved."""


class Stopwatch:
    """Sums up how long a function runs.

    Args:
        function: What is called, such as a model.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self.seconds = 0.0
        self.calls = 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Call the function."""
        began = perf_counter()
        try:
            return self._function(*arguments)
        finally:
            self.seconds += perf_counter() - began
            self.calls += 1


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """How busy everybody was, as shares of the time since the first reset."""

    seconds: float
    policy_busy: float
    """A call of the policy was running: encoding, the model, choosing."""
    model_busy: float
    """The model was computing actions; the same code in every loop."""
    training: float
    """The learner was computing."""
    overlapped: float = 0.0
    """Share of all steps that came in while the learner was computing."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stood after an update."""

    update: Update
    workload: Workload
    steps: int
    episodes: int
    mean_return: float
    """Of the latest 100 episodes that ended."""
    masked: int
    """Episodes that failed, and taught nothing."""


class Journal:
    """Collects rows, writes each as a line of JSON and prints it at most once a second.

    Args:
        name: Of the loop that learns.
        path: Where to write.
        goal: Mean return at which the run is over.
    """

    def __init__(self, name: str, path: Path, *, goal: float) -> None:
        self.name = name
        self.goal = goal
        self.rows: list[Row] = []
        self.steps = 0
        self.episodes = 0
        self.masked = 0
        self.first_return: float | None = None
        """Mean of the first 100 episodes, which hardly anything was learned before."""
        self._path = path
        self._latest: deque[float] = deque(maxlen=_WINDOW)
        self._shown = 0.0

    def __enter__(self) -> Journal:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def ended(self, returned: float | None, steps: int) -> None:
        """Note the end of an episode; it has no return if it failed."""
        self.steps += steps
        if returned is None:
            self.masked += 1
            return
        self.episodes += 1
        self._latest.append(returned)
        if self.episodes == _WINDOW:
            self.first_return = self.mean_return

    @property
    def mean_return(self) -> float:
        """Of the latest 100 episodes; 0 before any."""
        return sum(self._latest) / max(1, len(self._latest))

    @property
    def reached(self) -> bool:
        """Whether a full window of episodes has a mean above the goal."""
        return len(self._latest) == _WINDOW and self.mean_return > self.goal

    def updated(self, update: Update, workload: Workload) -> None:
        """Note an update."""
        row = Row(
            update=update,
            workload=workload,
            steps=self.steps,
            episodes=self.episodes,
            mean_return=self.mean_return,
            masked=self.masked,
        )
        self.rows.append(row)
        self._file.write(msgspec.json.encode(row) + b"\n")
        if self.reached or workload.seconds - self._shown >= 1.0:
            self._shown = workload.seconds
            print(f"{self.name}: {_line(row)}", flush=True)


def _line(row: Row) -> str:
    update, workload = row.update, row.workload
    return (
        f"{workload.seconds:6.1f} s, update {update.version:3}, "
        f"{row.steps:7,} steps, return {row.mean_return:5.1f}, "
        f"lag mean {update.lag_mean:.1f} max {update.lag_max} (stale {update.stale}), "
        f"policy busy {workload.policy_busy:.0%}, masked {row.masked}, "
        f"{row.steps / workload.seconds:,.0f} steps/s"
    )
