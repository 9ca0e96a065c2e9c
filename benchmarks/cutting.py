"""What a client makes of a connection that is cut while a step is in flight.

A relay between client and server lets a step through to the server and waits for the
reply, so that the step has been executed; then it cuts both connections. The client is
asked for the step, once more if that raised, and for the state. Standard library only:
OpenEnv's interpreter imports this module.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmarks.meter import Job, Metrics

__all__ = ["Cut", "count_of", "measure_cuts"]

_BEFORE = 3
"""Steps before the one that is cut."""
_PATIENCE = 15.0
"""Seconds for one call; a client that waits for longer is counted as hanging."""


class Cut(Protocol):
    """What is asked of a client."""

    def step(self) -> Awaitable[object]:
        """Step once."""
        ...

    def steps_so_far(self) -> Awaitable[int]:
        """Read the environment's count of steps."""
        ...


Open = Callable[[str], AbstractAsyncContextManager[Cut]]
"""Connects to a URL, and resets."""


async def measure_cuts(job: Job, open_client: Open) -> Metrics:
    """Cut as many connections as the case has sessions, one after the other.

    Returns shares of them, by what the caller saw.

    `went_on`: the step's result came, and it was executed once. `told`: the step and
    the one after it raised, so that nothing happens before a reset. `fresh`: the step
    raised, and the one after it ran in an environment that was never reset. `twice`:
    the step was executed again. `other`: anything else.
    """
    found = dict.fromkeys(("went_on", "told", "fresh", "twice", "other"), 0.0)
    trials = job.case.sessions
    for _ in range(trials):
        found[await _trial(job.url, open_client)] += 1 / trials
    return found


async def _trial(url: str, open_client: Open) -> str:
    async with _relay(url) as relay, open_client(relay.url) as client:
        for _ in range(_BEFORE):
            await client.step()
        relay.cut_next()
        if await _returns(client.step):
            return _judged(await client.steps_so_far(), went_on=_BEFORE + 1)
        if not await _returns(client.step):
            return "told"
        count = await client.steps_so_far()
        return "fresh" if count == 1 else "twice" if count == _BEFORE + 2 else "other"


def _judged(count: int, *, went_on: int) -> str:
    if count == went_on:
        return "went_on"
    return "twice" if count == went_on + 1 else "other"


async def _returns(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            await call()
    # Which exception it is depends on the client; that there is one is what counts.
    except Exception:  # noqa: BLE001 (see above)
        return False
    return True


@contextlib.asynccontextmanager
async def _relay(url: str) -> AsyncIterator[_Relay]:
    relay = _Relay(url)
    async with await asyncio.start_server(relay.accept, "127.0.0.1", 0) as server:
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            relay.end()


class _Relay:
    """Passes bytes on both ways, until it is told to cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._cutting = False
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{self._target.scheme}://127.0.0.1:{self.port}"

    def cut_next(self) -> None:
        """Cut as soon as the server answers the next time."""
        self._cutting = True

    def end(self) -> None:
        """Cut whatever is left."""
        for writer in list(self._open):
            writer.transport.abort()

    async def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection."""
        up_reader, up_writer = await asyncio.open_connection(
            self._target.hostname, self._target.port
        )
        both = {writer, up_writer}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, up_writer, both))
                tasks.create_task(self._pump(up_reader, writer, both, answers=True))
        finally:
            self._open -= both

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: set[asyncio.StreamWriter],
        *,
        answers: bool = False,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if answers and self._cutting:
                    self._cutting = False
                    break
                writer.write(data)
                await writer.drain()
        for each in both:
            each.transport.abort()


def count_of(state: Any) -> int:
    """The count of steps in a state, of whatever type it is."""
    if isinstance(state, dict):
        return int(state.get("step_count", 0))
    return int(state.step_count)
