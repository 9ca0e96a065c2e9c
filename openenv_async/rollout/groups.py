"""Episodes of the same task: whether they are delivered together, and stragglers."""

from __future__ import annotations

from typing import Any, final

from ..errors import LocalProtocolError
from .episodes import Episode, Task, Truncated
from .options import CollectorOptions, CutOff

__all__ = ["Groups"]


@final
class _Group:
    __slots__ = ("complete", "due_ns", "held", "missing")

    def __init__(self, size: int) -> None:
        self.missing = size
        """Episodes that have not ended."""
        self.complete = 0
        """Episodes that ended without failure."""
        self.held: list[Episode[Any, Any]] = []
        """Ended, but to be delivered with the others."""
        self.due_ns: int | None = None
        """When the rest is cut off."""


@final
class Groups:
    """The groups that have begun.

    Args:
        options: Of the run.
    """

    def __init__(self, options: CollectorOptions) -> None:
        self._size = options.group_size
        self._together = options.order == "grouped"
        self._cut_off: CutOff | None = options.cut_off
        self._groups: dict[str, _Group] = {}

    def add(self, task: Task, missing: int, complete: int) -> None:
        """A task was read.

        Args:
            task: Which.
            missing: Episodes of its group that are to be played.
            complete: Those that ended without failure in an earlier run.

        Raises:
            LocalProtocolError: Another one with its id is not done yet.
        """
        if task.id in self._groups:
            raise LocalProtocolError(
                f"expected an id of its own for each task, got {task.id!r} twice"
            )
        group = self._groups[task.id] = _Group(missing)
        group.complete = complete

    def ended(self, episode: Episode[Any, Any], now_ns: int) -> list[Episode[Any, Any]]:
        """An episode is over; returns what is to be delivered."""
        group = self._groups[episode.group]
        group.missing -= 1
        cut = isinstance(episode.outcome, Truncated) and (
            episode.outcome.reason in ("cut_off", "cancelled")
        )
        if not episode.failed and not cut:
            group.complete += 1
        if not group.missing:
            del self._groups[episode.group]
        elif (
            self._cut_off is not None
            and group.due_ns is None
            and group.complete >= self._cut_off.complete
        ):
            group.due_ns = now_ns + int(self._cut_off.grace * 1e9)
        if not self._together:
            return [episode]
        group.held.append(episode)
        return [] if group.missing else _in_order(group)

    def is_due(self, task: str, now_ns: int) -> bool:
        """Whether the rest of the group of a task is to be cut off."""
        group = self._groups.get(task)
        return group is not None and group.due_ns is not None and group.due_ns <= now_ns

    def due(self, now_ns: int) -> list[str]:
        """The groups whose rest is to be cut off."""
        return [task for task in self._groups if self.is_due(task, now_ns)]

    def release(self) -> list[Episode[Any, Any]]:
        """Forget all groups; returns what was held back for their other episodes."""
        groups = list(self._groups.values())
        self._groups.clear()
        return [episode for group in groups for episode in _in_order(group)]


def _in_order(group: _Group) -> list[Episode[Any, Any]]:
    return sorted(group.held, key=lambda episode: episode.group_index)
