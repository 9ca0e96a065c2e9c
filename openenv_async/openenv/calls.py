"""What a call returns inside of a running event loop: to be awaited, or simply used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Call"]

ResultT = TypeVar("ResultT")


class Call(Generic[ResultT]):
    """A call that runs, or will: `await` it, or use it like its result.

    The latter blocks the running loop until the result is there, as with OpenEnv's
    client: trainers that call environments plainly do it from inside of their loops.

    Args:
        begin: Starts it in another loop.
        finish: Makes the result of what comes from there.
        awaited: Runs it in the loop that awaits it, unless it was started before.
    """

    def __init__(
        self,
        begin: Callable[[], Future[Any]],
        finish: Callable[[Any], ResultT],
        awaited: Callable[[], Coroutine[Any, Any, ResultT]] | None = None,
    ) -> None:
        self._begin = begin
        self._finish = finish
        self._awaited = awaited
        self._future: Future[Any] | None = begin() if awaited is None else None
        self._results: list[ResultT] = []

    def __await__(self) -> Generator[Any, None, ResultT]:
        return self._wait().__await__()

    async def _wait(self) -> ResultT:
        if self._results:
            return self._results[0]
        awaited, self._awaited = self._awaited, None
        if self._future is None and awaited is not None:
            self._results.append(await awaited())
        else:
            answer = await asyncio.wrap_future(self._started())
            self._results.append(self._finish(answer))
        return self._results[0]

    def _started(self) -> Future[Any]:
        if self._future is None:
            self._future = self._begin()
        return self._future

    def result(self) -> ResultT:
        """Block until the result is there."""
        if not self._results:
            self._awaited = None
            self._results.append(self._finish(self._started().result()))
        return self._results[0]

    # Used like the result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.result(), name)

    def __getitem__(self, key: Any) -> Any:
        return self.result()[key]  # type: ignore[index]  # of whatever type it is

    def __contains__(self, item: object) -> bool:
        return item in self.result()  # type: ignore[operator]  # as above

    def __iter__(self) -> Iterator[Any]:
        return iter(self.result())  # type: ignore[call-overload, no-any-return]  # as above

    def __len__(self) -> int:
        return len(self.result())  # type: ignore[arg-type]  # as above

    def __bool__(self) -> bool:
        return bool(self.result())

    def __repr__(self) -> str:
        return repr(self._results[0]) if self._results else "<call, to be awaited>"
