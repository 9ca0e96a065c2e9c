"""The blocking facade: the same calls, without `await`."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..errors import LocalProtocolError

if TYPE_CHECKING:
    from .batch import EnvBatch
    from .results import BatchResult, StepResult
    from .session import EnvClient

__all__ = ["SyncBatch", "SyncEnv"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")


class _Portal:
    """An event loop in a thread, while the context lasts."""

    def __init__(self) -> None:
        self._stack: contextlib.ExitStack | None = None
        self._portal: BlockingPortal | None = None

    def enter(self, resource: Any) -> None:
        if self._stack is not None:
            raise LocalProtocolError("expected an environment that is not open yet")
        with contextlib.ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(resource))
            self._stack, self._portal = stack.pop_all(), portal

    def exit(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        self._portal = None
        if stack is not None:
            stack.__exit__(kind, error, traceback)

    def call(self, function: Any, *arguments: Any) -> Any:
        if self._portal is None:
            raise LocalProtocolError("expected an open environment: use `with`")
        return self._portal.call(function, *arguments)


class SyncEnv(Generic[ActT, ObsT, StateT]):
    """A blocking `EnvClient`; use it in a `with` block.

    Its calls may come from any thread, one at a time. Do not use it inside a running
    event loop: it would block it.

    Args:
        env: The client, not open yet.
    """

    def __init__(self, env: EnvClient[ActT, ObsT, StateT]) -> None:
        self._env = env
        self._portal = _Portal()

    def __enter__(self) -> SyncEnv[ActT, ObsT, StateT]:
        self._portal.enter(self._env)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.exit(kind, error, traceback)

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> StepResult[ObsT]:
        """Start an episode; see `EnvClient.reset`."""

        async def reset() -> StepResult[ObsT]:
            return await self._env.reset(
                seed=seed, episode_id=episode_id, options=options, timeout=timeout
            )

        result: StepResult[ObsT] = self._portal.call(reset)
        return result

    def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        """Perform an action; see `EnvClient.step`."""

        async def step() -> StepResult[ObsT]:
            return await self._env.step(action, timeout=timeout)

        result: StepResult[ObsT] = self._portal.call(step)
        return result

    def state(self, *, timeout: float | None = None) -> StateT:
        """Read the environment's state; see `EnvClient.state`."""

        async def state() -> StateT:
            return await self._env.state(timeout=timeout)

        result: StateT = self._portal.call(state)
        return result


class SyncBatch(Generic[ActT, ObsT, StateT]):
    """A blocking `EnvBatch`; use it in a `with` block.

    Args:
        batch: The batch, not open yet.
    """

    def __init__(self, batch: EnvBatch[ActT, ObsT, StateT]) -> None:
        self._batch = batch
        self._portal = _Portal()

    def __enter__(self) -> SyncBatch[ActT, ObsT, StateT]:
        self._portal.enter(self._batch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.exit(kind, error, traceback)

    def __len__(self) -> int:
        return len(self._batch)

    def reset(self, **arguments: Any) -> list[BatchResult[ObsT]]:
        """Start episodes; see `EnvBatch.reset`."""

        async def reset() -> list[BatchResult[ObsT]]:
            return await self._batch.reset(**arguments)

        results: list[BatchResult[ObsT]] = self._portal.call(reset)
        return results

    def step(self, actions: Any, **arguments: Any) -> list[BatchResult[ObsT]]:
        """Perform actions; see `EnvBatch.step`."""

        async def step() -> list[BatchResult[ObsT]]:
            return await self._batch.step(actions, **arguments)

        results: list[BatchResult[ObsT]] = self._portal.call(step)
        return results

    def state(self, **arguments: Any) -> list[Any]:
        """Read states; see `EnvBatch.state`."""

        async def state() -> list[Any]:
            return await self._batch.state(**arguments)

        states: list[Any] = self._portal.call(state)
        return states
