"""Puts the episodes of a collector into a run, many flushes' worth at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, Callable
from typing import Any

from ...errors import OpenEnvError
from ..episodes import Episode, Truncated
from .unwritable import Unwritable, as_failure
from .writer import RunWriter

__all__ = ["record_episodes"]


async def record_episodes(
    episodes: AsyncIterable[Episode[Any, Any]],
    writer: RunWriter,
    *,
    recorded: Callable[[Episode[Any, Any]], None] | None = None,
) -> int:
    """Append episodes as they come; returns how many, when all are there to stay.

    The collector is not held up by the disk until the writer's queue is full. Episodes
    that were cancelled are left out, because resuming has to play them. One with a
    value that can't be written, such as an object in the policy's extras, is recorded
    as a failure that names it, without that value.

    Args:
        episodes: A `Collector`, or what `collect` yields.
        writer: An open run.
        recorded: Called with each episode that is there to stay.

    Raises:
        LocalProtocolError: A task, or the metadata of all episodes, has a value that
            can't be written.
        StorageFull: No room is left; what was recorded is intact.
        RunError: The same for other reasons.
        OpenEnvError: What the collector raises.
    """
    waiting: deque[tuple[Episode[Any, Any], asyncio.Future[None]]] = deque()
    count = 0

    async def take_oldest() -> None:
        nonlocal count
        episode, future = waiting.popleft()
        episode = await _written(writer, episode, future)
        count += 1
        if recorded is not None:
            recorded(episode)

    try:
        async for episode in episodes:
            if is_cancelled(episode):
                continue
            waiting.append((episode, await writer.post(episode)))
            while waiting and waiting[0][1].done():
                await take_oldest()
        while waiting:
            await take_oldest()
    except OpenEnvError:
        # What is written by then is recorded, whatever ended the rest.
        with contextlib.suppress(OpenEnvError):
            while waiting:
                await take_oldest()
        raise
    finally:
        for _, future in waiting:
            # What it would tell, the first error has told.
            future.cancel()
    return count


async def _written(
    writer: RunWriter, episode: Episode[Any, Any], future: asyncio.Future[None]
) -> Episode[Any, Any]:
    """Wait until an episode is written; returns it as it is in the run."""
    try:
        await future
    except Unwritable as error:
        failure = as_failure(episode, error)
        if failure is None:
            raise
        await writer.append(failure)
        return failure
    return episode


def is_cancelled(episode: Episode[Any, Any]) -> bool:
    """Whether it ended only because its run was cancelled."""
    outcome = episode.outcome
    return isinstance(outcome, Truncated) and outcome.reason == "cancelled"
