"""Typed clients of the environments in `environments`, and what tests ask them for."""

from __future__ import annotations

import asyncio
from typing import Any

from openenv_async import EnvClient, State
from openenv_async.client.pool import _pools

from .environments import Command, Report, gates, sleeping
from .serving import eventually

__all__ = ["ScriptedEnv", "connections", "holding"]


class ScriptedEnv(EnvClient[Command, Report, State]):
    """A session of either environment."""


def connections() -> int:
    """How many connections the clients of the running loop hold."""
    pools = _pools.get(asyncio.get_running_loop(), {})
    return sum(len(pool._connections) for pool in pools.values())


async def holding(text: str, *, open: bool = False) -> asyncio.Event:
    """A new gate for `wait`, `swallow` and `finish_cancelled`."""
    gate = gates[text] = asyncio.Event()
    sleeping.discard(text)
    if open:
        gate.set()
    return gate


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and see that it says so."""
    task.cancel()
    done, _ = await asyncio.wait([task])
    assert done.pop().cancelled()


async def asleep(text: str) -> None:
    """Wait until a step waits for its gate."""
    await eventually(lambda: text in sleeping)
