"""Blocking environments that need each of their calls on the same thread.

Some libraries bind what they make to the thread that made it: Playwright, sqlite,
whatever uses greenlets. Each session has a thread of its own then, or all share one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final, TypeAlias

from ..environment import Affinity
from ..protocol import Request
from .hosts import Host
from .threads import ThreadBackend

__all__ = ["PinnedThreads", "threads_for"]

_Lane: TypeAlias = "SimpleQueue[tuple[Host, Request] | None]"

_ALL: Final = "all"


class PinnedThreads(ThreadBackend):
    """Runs each session's requests on the thread that built its environment.

    Args:
        adopt: As for `ThreadBackend`.
        shared: Whether all sessions are on one thread; a slow call then holds up all.
    """

    def __init__(
        self,
        *,
        adopt: Callable[[Host, Request, object, int], None],
        shared: bool = False,
    ) -> None:
        super().__init__(adopt=adopt)
        self._shared = shared
        self._lanes: dict[Host | str, _Lane] = {}

    def _enqueue(
        self, loop: asyncio.AbstractEventLoop, host: Host, request: Request
    ) -> None:
        key = _ALL if self._shared else host
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = SimpleQueue()
            self._start_thread(partial(self._work_lane, lane))
        lane.put((host, request))

    def _work_lane(self, lane: _Lane) -> None:
        while (job := lane.get()) is not None:
            self._run(job)
            # One that hung is used again: what it left is bound to this thread.
            self._hung.discard(job[0])
        self._threads.discard(threading.current_thread())

    def _released(self, host: Host) -> None:
        if not self._shared:
            lane = self._lanes.pop(host, None)
            if lane is not None:
                lane.put(None)

    def close(self) -> None:
        """Let the threads end once their current calls return."""
        super().close()
        for lane in self._lanes.values():
            lane.put(None)


def threads_for(
    affinity: Affinity,
    *,
    threads: int = 256,
    adopt: Callable[[Host, Request, object, int], None],
) -> ThreadBackend:
    """Make the threads that an environment's blocking calls need.

    Args:
        affinity: Of the environment.
        threads: Most threads, where any of them will do.
        adopt: As for `ThreadBackend`.
    """
    if affinity == "none":
        return ThreadBackend(threads=threads, adopt=adopt)
    return PinnedThreads(adopt=adopt, shared=affinity == "all")
