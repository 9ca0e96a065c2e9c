"""What is still to be played: tasks as they are read, by priority, and retries."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Final, TypeAlias, cast, final

import msgspec

from ..errors import LocalProtocolError
from .episodes import Attempt, Task
from .live import Start, episode_id
from .options import CollectorOptions
from .seeding import derive_seed

__all__ = ["Starts", "TasksLike"]

TasksLike: TypeAlias = int | Iterable[Task] | AsyncIterable[Task]
"""Tasks, also without end; a number stands for so many tasks that differ in seed."""

_SEEDS: Final = range(-(2**63), 2**63)
"""What travels on the wire."""


@final
class Starts:
    """Reads tasks some way ahead, and hands out the most urgent.

    Args:
        tasks: Where they come from.
        options: Of the run.
        window: Tasks to read ahead.
        read: Called with each task that was read, and the episodes to play of it.
        changed: Called when there is more to start, or nothing more will come.
    """

    def __init__(
        self,
        tasks: TasksLike,
        options: CollectorOptions,
        *,
        window: int,
        read: Callable[[Task, int], None],
        changed: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._options = options
        self._most = window * options.group_size
        self._read = read
        self._changed = changed
        self._heap: list[tuple[int, int, Start]] = []
        self._order = 0
        self._room = asyncio.Event()
        self.exhausted = False
        """Whether no task will be read any more."""

    def __len__(self) -> int:
        return len(self._heap)

    async def run(self) -> None:
        """Read the tasks; what their source raises is raised here.

        Raises:
            LocalProtocolError: Something is no task, or has the id of one that runs.
        """
        tasks = _iterate(self._tasks)
        try:
            async for task in tasks:
                if self.exhausted:
                    return
                if not self._add(_checked(task)):
                    # Thousands of them may follow each other.
                    await asyncio.sleep(0)
                while len(self._heap) >= self._most and not self.exhausted:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self.exhausted = True
            await tasks.aclose()
        self._changed()

    def _add(self, task: Task) -> bool:
        """Add the episodes of a task; tells whether there are any to play."""
        options = self._options
        indices = range(options.group_size)
        if (skip := options.skip) is not None:
            played = [index for index in indices if not skip(episode_id(task, index))]
            if not played:
                return False
        else:
            played = list(indices)
        self._read(task, len(played))
        first = task.seed
        if first is None:
            first = derive_seed(options.seed, "task", task.id)
        for index in played:
            is_first = index == 0 or options.group_seeds == "same"
            start = Start(
                task=task,
                index=index,
                size=options.group_size,
                seed=first if is_first else derive_seed(first, "group", index),
                policy_seed=derive_seed(options.seed, "policy", task.id, index),
                order=self._order,
                earlier=self._earlier(episode_id(task, index)),
            )
            self._order += 1
            self.put(start)
        self._changed()
        return True

    def _earlier(self, id: str) -> tuple[Attempt, ...]:
        earlier = self._options.earlier
        return () if earlier is None else tuple(earlier(id))

    def put(self, start: Start) -> None:
        """Add what is to be played, or has to be played again."""
        heapq.heappush(self._heap, (-start.task.priority, start.order, start))

    def retry(self, start: Start, attempt: Attempt) -> None:
        """Play it again; its place in the order makes it the next of its priority."""
        attempts = (*start.attempts, attempt)
        self.put(msgspec.structs.replace(start, attempts=attempts, stale=False))

    def pop(self) -> Start | None:
        """Take the most urgent one."""
        if not self._heap:
            return None
        start = heapq.heappop(self._heap)[2]
        # With a gap, so that the reader is not woken for every single task.
        if len(self._heap) <= self._most // 2:
            self._room.set()
        return start

    def withdraw(self, group: str) -> list[Start]:
        """Take all of a group."""
        taken = [entry[2] for entry in self._heap if entry[2].task.id == group]
        self._heap = [entry for entry in self._heap if entry[2].task.id != group]
        heapq.heapify(self._heap)
        self._room.set()
        return taken

    def close(self) -> None:
        """Forget what is left, and read no more."""
        self.exhausted = True
        self._heap.clear()
        self._room.set()


async def _iterate(tasks: TasksLike) -> AsyncGenerator[Task, None]:
    if isinstance(tasks, int):
        for number in range(tasks):
            yield Task(id=str(number))
    elif isinstance(tasks, AsyncGenerator):
        generator = cast("AsyncGenerator[Task, None]", tasks)
        async with contextlib.aclosing(generator):
            async for task in generator:
                yield task
    elif isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    else:
        for task in tasks:
            yield task


def _checked(task: object) -> Task:
    if not isinstance(task, Task):
        raise LocalProtocolError(f"expected a Task, got {task!r}")
    if task.seed is not None and task.seed not in _SEEDS:
        raise LocalProtocolError(
            f"expected a seed of 64 bits for task {task.id!r}, got {task.seed}"
        )
    return task
