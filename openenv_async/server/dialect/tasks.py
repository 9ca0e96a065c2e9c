"""OpenEnv's task routes, for environments that list their tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...dialect import encode
from .bodies import BadBody, detailed, read_body, read_json
from .hall import Hall
from .shapes import Shape

__all__ = ["TaskRoutes"]

_TYPES: Final = ("train", "validation", "test")
"""What a split may be for OpenEnv; one of another name counts as the second."""


class _Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    split: str


class _One(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    split: str
    index: int


class _Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    split: str
    start: int | None = None
    stop: int | None = None


class TaskRoutes:
    """The routes below an environment's name.

    Args:
        hall: OpenEnv's side of the server.
    """

    def __init__(self, hall: Hall) -> None:
        self._hall = hall

    async def splits(self, request: Request) -> Response:
        """The names and types of splits."""
        shape, method = self._method(request, "list_splits")
        splits = await _ask(shape, method)
        return _json([_split(split) for split in cast(Sequence[object], splits)])

    async def tasks(self, request: Request) -> Response:
        """All tasks of a split."""
        shape, method = self._method(request, "list_tasks")
        body = await self._body(request, _Split)
        tasks = await _ask(shape, method, body.split)
        return _json({"tasks": tasks, "env_name": shape.spec.name})

    async def count(self, request: Request) -> Response:
        """How many tasks a split has."""
        shape, method = self._method(request, "num_tasks")
        body = await self._body(request, _Split)
        return _json({"num_tasks": await _ask(shape, method, body.split)})

    async def task(self, request: Request) -> Response:
        """One task of a split."""
        shape, method = self._method(request, "get_task")
        body = await self._body(request, _One)
        return _json({"task": await _ask(shape, method, body.split, body.index)})

    async def span(self, request: Request) -> Response:
        """Some tasks of a split, in order."""
        shape, method = self._method(request, "get_task_range")
        body = await self._body(request, _Span)
        tasks = await _ask(shape, method, body.split, body.start, body.stop)
        return _json({"tasks": tasks})

    def _method(self, request: Request, name: str) -> tuple[Shape, str]:
        asked = str(request.path_params["environment"])
        shape = next(
            (
                shape
                for known, shape in self._hall.shapes.items()
                if known.lower() == asked.lower()
            ),
            None,
        )
        if shape is None:
            raise BadBody(detailed(404, f"unknown environment {asked!r}"))
        if shape.spec.tasks is None:
            text = f"{name} is not supported for this environment"
            raise BadBody(detailed(501, text))
        return shape, name

    async def _body(self, request: Request, kind: type[Any]) -> Any:
        return read_json(await read_body(request, self._hall.frame_bytes), kind)


async def _ask(shape: Shape, name: str, *arguments: object) -> object:
    """Call a method of a fresh provider of tasks, in a thread: it may read files."""

    def call() -> object:
        build = shape.spec.tasks
        assert build is not None
        method: Callable[..., object] | None = getattr(build(), name, None)
        if method is None:
            text = f"{name} is not supported for this environment"
            raise BadBody(detailed(501, text))
        return method(*arguments)

    try:
        found = await anyio.to_thread.run_sync(call)
        if inspect.isawaitable(found):
            found = await found
    except IndexError as error:
        raise BadBody(detailed(400, "Invalid task index")) from error
    except (KeyError, ValueError) as error:
        raise BadBody(detailed(400, f"{error}")) from error
    return found


def _split(split: object) -> object:
    if isinstance(split, str):
        kind = split if split in _TYPES else _TYPES[1]
        return {"name": split, "type": kind}
    return split


def _json(value: object) -> Response:
    return Response(encode(value), media_type="application/json")
