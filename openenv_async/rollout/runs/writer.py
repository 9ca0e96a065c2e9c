"""`RunWriter`: episodes on disk, without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio.to_thread

from ..._aio import Tasks, shielded
from ...errors import LocalProtocolError, OpenEnvError, RunError
from ..episodes import Attempt, Episode
from .manifest import Manifest
from .salvaging import Salvaged
from .store import RunStore

__all__ = ["RunWriter"]

_GROUP: Final = 64
"""Most episodes of one flush."""
_CLOSE_TIMEOUT: Final = 600.0
"""Seconds to seal the last part, after which the next opening has to do it."""

_Waiting = tuple[Episode[Any, Any], asyncio.Future[None]]


class RunWriter:
    """Appends episodes to a run directory; use it as an async context manager.

    `append` returns when the episode is there to stay. Episodes that arrive while the
    disk is busy are written together, so that one flush acknowledges many of them.

    Args:
        folder: The run directory; made if need be.
        manifest: What the run is about.
        resume: Go on with a run that is there; one that is not is begun.
        durable: Flush to the disk before an episode counts as written, so that it
            outlives a loss of power. Otherwise it outlives this process alone, however
            that ends.
        forget: Statuses, such as `infrastructure_failed`: episodes that are there and
            ended so are dropped, so that they can be played again; `earlier` tells
            what became of them.
        salvage: Whether to mend what is damaged: episodes that can't be read any more
            are dropped, so that they can be played again, and a copy of their file is
            kept as `….damaged`.
        queue: Episodes that may wait to be written; `append` waits while it is full.
        part_bytes: Size at which a file of episodes is finished and the next begins;
            None takes 256 MiB, or 64 MiB of what becomes Parquet.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        manifest: Manifest,
        *,
        resume: bool = False,
        durable: bool = True,
        forget: Collection[str] = (),
        salvage: bool = False,
        queue: int = 256,
        part_bytes: int | None = None,
    ) -> None:
        if queue < 1 or (part_bytes is not None and part_bytes < 1):
            raise LocalProtocolError(
                f"expected sizes of at least 1, got queue={queue} and "
                f"part_bytes={part_bytes}"
            )
        self._manifest = manifest
        self._open = partial(
            RunStore,
            Path(folder),
            manifest,
            resume=resume,
            durable=durable,
            forget=forget,
            salvage=salvage,
            part_bytes=part_bytes,
        )
        self._queue: asyncio.Queue[_Waiting | None] = asyncio.Queue(queue)
        self._tasks = Tasks()
        self._store: RunStore | None = None
        self._writing: asyncio.Task[None] | None = None
        self._error: OpenEnvError | None = None

    # Opening and closing

    async def __aenter__(self) -> RunWriter:
        """Open the run, and cut off what was never acknowledged.

        Raises:
            RunLocked: Somebody else writes to it; `detail` has its `pid`.
            RunMismatch: It was begun with other settings.
            RunDamaged: What was acknowledged can't be read.
            StorageFull: No room is left.
            RunError: There is a run already, and it is not to be resumed; or the
                folder can't be written to.
        """
        store = self._store = await anyio.to_thread.run_sync(self._open)
        self._writing = self._tasks.spawn(self._write(store), "run writer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Write what waits, finish the last file and let others write; idempotent.

        Complete when cancelled.

        Raises:
            StorageFull: No room is left to finish it. All acknowledged episodes are
                there, and the next opening tries again.
        """
        await shielded(self._end(), timeout=_CLOSE_TIMEOUT)

    async def _end(self) -> None:
        store, self._store = self._store, None
        if store is None or self._writing is None:
            return
        try:
            await self._queue.put(None)
            await self._writing
        finally:
            await self._tasks.aclose()
            await anyio.to_thread.run_sync(store.close)

    # Appending

    async def append(self, episode: Episode[Any, Any]) -> None:
        """Write an episode; when it returns, the episode is there to stay.

        Cancelling it does not tell whether the episode is written; it is written at
        most once.

        Raises:
            LocalProtocolError: The run has an episode of that id already, or it has
                values that can't be written. Others are not disturbed.
            StorageFull: No room is left; nothing more can be appended.
            RunError: The same for other reasons.
        """
        await (await self.post(episode))

    async def post(self, episode: Episode[Any, Any]) -> asyncio.Future[None]:
        """Hand an episode over; awaiting what it returns waits until it is written.

        It waits itself only while the queue is full. Await every future, or cancel it:
        what becomes of the episode is not told otherwise.

        Raises:
            StorageFull: There was no room for an earlier one.
            RunError: The same for other reasons.
        """
        if self._store is None:
            raise LocalProtocolError("expected a run that is open: use `async with`")
        if self._error is not None:
            raise self._error
        future = asyncio.get_running_loop().create_future()
        await self._queue.put((episode, future))
        return future

    async def _write(self, store: RunStore) -> None:
        """Write what waits, as much as there is at a time, until told to stop."""
        ending = False
        while not ending:
            taken: list[_Waiting] = []
            item = await self._queue.get()
            while item is not None:
                taken.append(item)
                if len(taken) == _GROUP or self._queue.empty():
                    break
                item = self._queue.get_nowait()
            ending = item is None
            if taken:
                await self._flush(store, taken)

    async def _flush(self, store: RunStore, taken: list[_Waiting]) -> None:
        # What a failed flush left in doubt must not be followed by more.
        results: list[OpenEnvError | None] = [self._error] * len(taken)
        if self._error is None:
            episodes = [episode for episode, _ in taken]
            try:
                results = [*await anyio.to_thread.run_sync(store.append, episodes)]
            except OpenEnvError as error:
                self._error = error
            except Exception as error:  # noqa: BLE001 (told to whoever waits)
                # A bug of ours; whoever waits must not wait for ever.
                self._error = RunError(f"expected to write episodes: {error!r}")
                self._error.__cause__ = error
            if self._error is not None:
                results = [self._error] * len(taken)
        for (_, future), result in zip(taken, results, strict=True):
            if not future.done():
                if result is None:
                    future.set_result(None)
                else:
                    future.set_exception(result)

    # What is there

    @property
    def manifest(self) -> Manifest:
        """The run's own: on resuming, the one that it was begun with."""
        return self._manifest if self._store is None else self._store.manifest

    def __contains__(self, id: str) -> bool:
        """Whether the run has an episode of that id; `TASK/INDEX`."""
        return self._store is not None and id in self._store

    @property
    def failed(self) -> int:
        """Episodes that were there when the run was opened, and have failed."""
        return 0 if self._store is None else self._store.failed

    def has_failed(self, id: str) -> bool:
        """Whether an episode of that id was there when the run was opened, and failed.

        For the collector's option `failed`.
        """
        return self._store is not None and self._store.has_failed(id)

    def earlier(self, id: str) -> list[Attempt]:
        """What became of an episode that has failed, and was dropped to play it again.

        For the collector's option of that name.
        """
        return [] if self._store is None else self._store.earlier.get(id, [])

    @property
    def salvaged(self) -> list[Salvaged]:
        """What was damaged, and was mended when the run was opened."""
        return [] if self._store is None else self._store.salvaged

    def __len__(self) -> int:
        """How many episodes the run has."""
        return 0 if self._store is None else len(self._store)
