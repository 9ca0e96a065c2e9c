"""The list of a run's episodes, read in the background while it is already shown."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import final

import msgspec

from ..errors import OpenEnvError, RunError
from ..rollout.runs import RunSummary, open_run
from ..rollout.runs.rows import Summary
from ..rollout.runs.summary import Tally

__all__ = ["EpisodeIndex", "EpisodeRow"]

_FAILED = "_failed"
"""How the status of an episode ends that has no return because something broke."""


class EpisodeRow(msgspec.Struct, frozen=True, gc=False):
    """An episode in a list."""

    index: int
    id: str
    task: str
    seed: int
    outcome: str
    failed: bool
    return_: float | None = msgspec.field(name="return")
    steps: int
    seconds: float
    started: float


@final
class EpisodeIndex:
    """Reads a run once, in a thread, from `start` on; its methods block.

    It holds a short row for each episode, and stops where the run is damaged: what was
    read until then can be used, and `problem` says what is wrong.

    Args:
        folder: The run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._stopping = False
        self._tally = Tally()
        self.rows: list[EpisodeRow] = []
        self.complete = False
        self.problem: OpenEnvError | None = None
        self._thread = threading.Thread(
            target=self._read, name="openenv-async-index", daemon=True
        )

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further; returns when the thread has ended."""
        self._stopping = True
        if self._thread.ident is not None:
            self._thread.join()

    def wait(self, count: int, timeout: float) -> None:
        """Wait until so many rows are there, all are, or the time is up."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.complete or len(self.rows) >= count, timeout
            )

    def summary(self) -> RunSummary:
        """What has been read so far, in numbers."""
        with self._changed:
            return self._tally.summary()

    def _read(self) -> None:
        try:
            for summary in open_run(self._folder).summaries():
                if self._stopping:
                    return
                with self._changed:
                    self.rows.append(_row(len(self.rows), summary))
                    self._tally.add(summary)
                    self._changed.notify_all()
        except OpenEnvError as error:
            self.problem = error
        except OSError as error:
            self.problem = RunError(
                f"expected to read the run at {str(self._folder)!r}: {error}"
            )
        finally:
            with self._changed:
                self.complete = True
                self._changed.notify_all()


def _row(index: int, summary: Summary) -> EpisodeRow:
    return EpisodeRow(
        index=index,
        id=summary.id,
        task=summary.task,
        seed=summary.seed,
        outcome=summary.label,
        failed=summary.status.endswith(_FAILED),
        return_=summary.return_,
        steps=summary.length,
        seconds=summary.timing.total_ns / 1e9,
        started=summary.started,
    )
