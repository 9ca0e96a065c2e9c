"""What is still to be played: tasks as they are read, by priority, and retries."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
)
from typing import Final, TypeAlias, cast, final

import msgspec

from ..errors import LocalProtocolError
from .episodes import Attempt, Task
from .live import Start, episode_id
from .options import CollectorOptions
from .seeding import derive_seed

__all__ = ["Starts", "TasksLike", "check_tasks"]

TasksLike: TypeAlias = int | Iterable[Task] | AsyncIterable[Task]
"""Tasks, also without end; a number stands for so many tasks that differ in seed."""

_SEEDS: Final = range(-(2**63), 2**63)
"""What travels on the wire."""


@final
class Starts:
    """Reads tasks some way ahead, and hands out the most urgent.

    It remembers the ids of all tasks that it has read, about a hundred bytes for each:
    a second task of an id would get the seeds of the first one, and its episodes' ids.

    Args:
        tasks: Where they come from.
        options: Of the run.
        window: Tasks to read ahead.
        read: Called with each task that was read, the episodes to play of it, and how
            many others are complete.
        changed: Called when there is more to start, or nothing more will come.

    Raises:
        LocalProtocolError: Two of the tasks have the same id, and they are a list or
            anything else of known length.
    """

    def __init__(
        self,
        tasks: TasksLike,
        options: CollectorOptions,
        *,
        window: int,
        read: Callable[[Task, int, int], None],
        changed: Callable[[], None],
    ) -> None:
        check_tasks(tasks)
        self._tasks = tasks
        # Numbered ones differ.
        self._ids: set[bytes] | None = None if isinstance(tasks, int) else set()
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
            LocalProtocolError: Something is no task, or has the id of an earlier one.
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
        self._note(task.id)
        options = self._options
        indices = range(options.group_size)
        if (skip := options.skip) is not None:
            played = [index for index in indices if not skip(episode_id(task, index))]
            if not played:
                return False
        else:
            played = list(indices)
        skipped = set(indices).difference(played)
        complete = sum(not self._has_failed(episode_id(task, at)) for at in skipped)
        self._read(task, len(played), complete)
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

    def _note(self, id: str) -> None:
        if self._ids is None:
            return
        count, digest = len(self._ids), _digest(id)
        self._ids.add(digest)
        if len(self._ids) == count:
            raise _twice(id)

    def _has_failed(self, id: str) -> bool:
        failed = self._options.failed
        return failed is not None and failed(id)

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


def check_tasks(tasks: TasksLike) -> None:
    """Make sure that tasks which are all there have ids of their own.

    Those that are made one after the other are checked when they come.

    Raises:
        LocalProtocolError: Two have the same id.
    """
    if not isinstance(tasks, Collection):
        return
    places: dict[str, int] = {}
    for place, task in enumerate(cast("Collection[object]", tasks)):
        if not isinstance(task, Task):
            continue  # Which is told when it is its turn.
        first = places.setdefault(task.id, place)
        if first != place:
            raise _twice(task.id, f", at {first} and {place}")


def _twice(id: str, where: str = "") -> LocalProtocolError:
    return LocalProtocolError(
        f"expected an id of its own for each task, got {id!r} twice{where}"
    )


def _digest(id: str) -> bytes:
    # So that ids take the same room, however long they are.
    text = id.encode(errors="surrogatepass")  # Whatever a string may hold.
    return hashlib.blake2b(text, digest_size=12).digest()


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
