"""Clients that speak OpenEnv's dialect, and a server that says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from openenv_async import EnvBatch, EnvClient, State
from openenv_async.client.dialect import DialectLink
from openenv_async.client.dialect_line import DialectLine
from tests.environments import Command, Report
from tests.openenv.counting import Count, Counted, CountState

__all__ = [
    "OWN_ID",
    "CountEnv",
    "DialectEnv",
    "error",
    "in_dialect",
    "line_of",
    "observation",
    "scripted",
    "started",
]

OWN_ID = "its-own"
"""What a scripted server calls its sessions."""


class _Dialect:
    """Speaks the dialect at once, also to a server that would speak ours."""

    _options: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._options = dataclasses.replace(self._options, dialect=True)


class DialectEnv(_Dialect, EnvClient[Command, Report, State]):
    """A session of a scripted environment."""


class CountEnv(_Dialect, EnvClient[Count, Counted, CountState]):
    """A session of a counting environment."""


def in_dialect(batch: EnvBatch[Any, Any, Any]) -> EnvBatch[Any, Any, Any]:
    """Have a batch speak the dialect at once."""
    batch._options = dataclasses.replace(batch._options, dialect=True)
    return batch


def line_of(env: EnvClient[Any, Any, Any]) -> DialectLine:
    """The conversation below a client."""
    link, session = env._connection, env._session
    assert isinstance(link, DialectLink)
    assert session is not None
    return link._lines[session.handle]


def started(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task whose test awaits it: what it raises is what is tested."""
    return asyncio.get_running_loop().create_task(coroutine)


# A server of our own making


def observation(done: bool = False, **fields: Any) -> dict[str, Any]:
    """An answer to reset and step."""
    data = {"observation": fields, "reward": None, "done": done}
    return {"type": "observation", "data": data}


def error(code: str, message: str = "it says", **extra: Any) -> dict[str, Any]:
    """An answer that says no."""
    return {"type": "error", "data": {"message": message, "code": code, **extra}}


@contextlib.asynccontextmanager
async def scripted(
    answers: dict[str, Any],
) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Serve the dialect from a table; yields the address and the frames that came.

    Args:
        answers: By type of frame: what to answer, in text, or as JSON; None closes the
            connection. `accept` is said before anything is asked.
    """
    frames: list[dict[str, Any]] = []

    async def handle(connection: ServerConnection) -> None:
        first = answers.get("accept")
        if first is not None:
            await connection.send(json.dumps(first))
            await connection.close(1000)
            return
        async for text in connection:
            frame = json.loads(text)
            frames.append(frame)
            kind = frame["type"]
            if kind == "close":
                return
            answer = answers.get(kind, _usual(kind))
            if isinstance(answer, list):
                answer = answer.pop(0)
            if answer is None:
                return
            if answer != "":
                await connection.send(
                    answer if isinstance(answer, str) else json.dumps(answer)
                )

    async with serve(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", frames


def _usual(kind: str) -> dict[str, Any]:
    match kind:
        case "mcp":
            result = {"jsonrpc": "2.0", "id": 1, "result": {"session_id": OWN_ID}}
            return {"type": "mcp", "data": result}
        case "state":
            return {"type": "state", "data": {"step_count": 0}}
        case _:
            return observation()
