"""What a call returns inside of a running event loop: to be awaited, or simply used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Final, Generic, NoReturn, TypeVar

__all__ = ["Call", "OwnCall"]

ResultT = TypeVar("ResultT")

_AS_COROUTINE: Final = ("_", "cr_", "gi_")
"""How names begin by which tasks and debuggers ask about a coroutine."""


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


class OwnCall(Coroutine[Any, Any, ResultT]):
    """A call in the loop that its client lives in: there is no way but to await it.

    It is a coroutine like OpenEnv's, but says so where it is used like its result.

    Args:
        coroutine: Makes the call.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, ResultT]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, ResultT]:
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        """Run it up to its next pause."""
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in it."""
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Give it up."""
        self._coroutine.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_AS_COROUTINE):
            return getattr(self._coroutine, name)
        raise AttributeError(_advice(f".{name}"))

    def __getitem__(self, key: object) -> NoReturn:
        raise TypeError(_advice(f"[{key!r}]"))

    def __iter__(self) -> NoReturn:
        raise TypeError(_advice("an iteration"))


def _advice(use: str) -> str:
    return (
        f"expected the call to be awaited before its result is used, got {use}: its "
        "client lives in this event loop, which must not be blocked; write "
        "'await client.step(action)', or call the client from another thread"
    )
