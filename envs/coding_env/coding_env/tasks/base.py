"""What a task is, and how a set of them is chosen from.

A task set of your own is an object with the methods of `TaskSet`, in a module that the
server can import: `tasks="my_package.my_tasks:TASKS"`. For most, `Tasks` with a list of
`Task` is all it takes.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

__all__ = ["Task", "TaskSet", "Tasks", "UnknownTask"]

_SHOWN = 5
"""Names that an error lists."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A function to write, and the tests that it has to pass."""

    task_id: str
    prompt: str
    """What the agent sees."""
    entry_point: str
    """Name of the function that the tests call."""
    tests: str
    """Trusted code that raises when a test fails. It calls `candidate(...)` with plain
    data, in a process that no submitted code ever sees."""
    setup: str = ""
    """Code that the submission finds already run: the prompt's imports and helpers."""
    solution: str | None = None
    """Code that passes, where one is known. The agent never sees it."""


class TaskSet(Protocol):
    """Tasks of one kind."""

    @property
    def task_ids(self) -> Sequence[str]:
        """The names of all tasks, in order."""
        ...

    @property
    def imports(self) -> Sequence[str]:
        """Modules that submissions may need, to be authorized with the operator's."""
        ...

    @property
    def hidden(self) -> Sequence[str]:
        """Files and directories with the tests, which no submitted code may read."""
        ...

    def choose(self, *, task_id: str | None = None, seed: int | None = None) -> Task:
        """Choose a task: the named one, or the seed's, or any.

        Raises:
            UnknownTask: There is none of that name.
        """
        ...


class UnknownTask(LookupError):
    """There is no task of that name."""

    def __init__(self, task_id: object, task_ids: Sequence[str]) -> None:
        super().__init__(task_id)
        self.task_id = task_id
        self.task_ids = task_ids

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.task_ids[:_SHOWN]))
        if len(self.task_ids) > _SHOWN:
            shown += f", ... {self.task_ids[-1]!r}"
        count = len(self.task_ids)
        return f"expected one of {count} tasks ({shown}), got {self.task_id!r}"


class Tasks:
    """A task set that is a list.

    Args:
        tasks: At least one; no two of the same name.
        imports: See `TaskSet.imports`.
        hidden: See `TaskSet.hidden`.

    Raises:
        ValueError: There is no task, or a name occurs twice.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        imports: Sequence[str] = (),
        hidden: Sequence[str] = (),
    ) -> None:
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            if task.task_id in self._tasks:
                raise ValueError(f"expected each task once, got {task.task_id!r} twice")
            self._tasks[task.task_id] = task
        if not self._tasks:
            raise ValueError("expected at least one task, got none")
        self.task_ids: Sequence[str] = tuple(self._tasks)
        self.imports: Sequence[str] = tuple(imports)
        self.hidden: Sequence[str] = tuple(hidden)

    def __len__(self) -> int:
        return len(self._tasks)

    def choose(self, *, task_id: str | None = None, seed: int | None = None) -> Task:
        """Choose a task: the named one, or the seed's, or any.

        Seeds that follow one another choose tasks that do, so that a batch with as many
        seeds as there are tasks has each task once.

        Raises:
            UnknownTask: There is none of that name.
        """
        if task_id is not None:
            if task_id not in self._tasks:
                raise UnknownTask(task_id, self.task_ids)
            return self._tasks[task_id]
        if seed is None:
            seed = random.randrange(len(self._tasks))
        return self._tasks[self.task_ids[seed % len(self._tasks)]]


def setup_of(prompt: str, entry_point: str) -> str:
    """What a prompt defines beside the function that is to be written."""
    tree = ast.parse(prompt)
    lines = prompt.splitlines(keepends=True)
    parts = [
        "".join(lines[node.lineno - 1 : node.end_lineno])
        for node in tree.body
        if getattr(node, "name", None) != entry_point
    ]
    return "\n".join(parts)
