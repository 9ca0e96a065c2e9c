"""An environment of OpenEnv's behind the interface of ours.

Which calls go where is OpenEnv's rule: a coroutine method runs on the event loop, all
else of a session on one thread, from the constructor to `close`. A transform or a
rubric is the environment's own business, as it is there.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

from ...environment import Environment, Observation
from .conversion import Actions, Observations, state_fields
from .finding import Hosted
from .threads import OwnThread

__all__ = ["AsyncAdapter", "BlockingAdapter", "Codec"]


class Codec:
    """What all sessions of one environment share: conversions, and who takes what."""

    def __init__(self, hosted: Hosted) -> None:
        self.hosted = hosted
        self.action = Actions(hosted.name, hosted.build_action())
        self.observation = Observations(hosted.name)
        self.thread = OwnThread() if hosted.single_thread else None
        """The thread of all sessions, where they have to share one."""
        method = hosted.reset_async or "reset"
        self._accepted = _parameters(getattr(hosted.kind, method))

    def arguments(
        self, seed: int | None, episode_id: str | None, options: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Arguments for `reset`: those that it takes, as OpenEnv chooses them."""
        given = dict(options or {})
        if seed is not None:
            given["seed"] = seed
        if episode_id is not None:
            given["episode_id"] = episode_id
        if self._accepted is None:
            return given
        return {key: given[key] for key in given if key in self._accepted}


def _parameters(method: Callable[..., object]) -> frozenset[str] | None:
    """Names that a method takes; None for any."""
    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return frozenset(each.name for each in parameters)


class BlockingAdapter(Environment[Any, Any, Any]):
    """An environment with blocking methods; the server keeps it to one thread."""

    affinity = "session"

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._environment = codec.hosted.factory()

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Observation:
        """Start an episode; `options` become further arguments."""
        codec = self._codec
        found = self._environment.reset(**codec.arguments(seed, episode_id, options))
        return codec.observation(found)

    def step(self, action: dict[str, Any]) -> Observation:
        """Perform an action, given by its fields."""
        codec = self._codec
        return codec.observation(self._environment.step(codec.action(action)))

    def state(self) -> Any:
        """The fields of the state."""
        return state_fields(self._environment.state)

    def close(self) -> None:
        """Close the environment."""
        close = getattr(self._environment, "close", None)
        if callable(close):
            close()


class AsyncAdapter(Environment[Any, Any, Any]):
    """An environment of which at least a part is async.

    Its blocking part has a thread of its own. An MCP session, where the environment has
    one, is open from its construction to its end.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._hosted = codec.hosted
        self._thread = codec.thread or OwnThread()
        self._built: Any = None
        self._building = True
        self._environment: Any = None
        self._step_async: Callable[[Any], Any] | None = None
        """The environment's coroutine method, if it has one, bound once."""
        self._held = contextlib.AsyncExitStack()

    def _build(self) -> Any:
        """Build it once, although whoever asked first may have been cancelled."""
        if self._built is None:
            self._built = self._hosted.factory()
        return self._built

    async def _started(self) -> Any:
        """The environment, built if it is not yet."""
        if self._environment is None:
            environment = await self._thread.run(self._build)
            if self._hosted.holds_session:
                await self._held.enter_async_context(environment.mcp_session())
            if self._hosted.step_async:
                self._step_async = getattr(environment, self._hosted.step_async)
            self._environment = environment
            self._building = False
        return self._environment

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Observation:
        """Start an episode; `options` become further arguments."""
        environment = self._environment or await self._started()
        arguments = self._codec.arguments(seed, episode_id, options)
        name = self._hosted.reset_async
        if name:
            found = await getattr(environment, name)(**arguments)
        else:
            found = await self._thread.run(
                functools.partial(environment.reset, **arguments)
            )
        return self._codec.observation(found)

    async def step(self, action: dict[str, Any]) -> Observation:
        """Perform an action, given by its fields."""
        codec = self._codec
        built = codec.action(action)
        environment = self._environment or await self._started()
        step_async = self._step_async
        if step_async is not None:
            found = await step_async(built)
        else:
            found = await self._thread.run(functools.partial(environment.step, built))
        return codec.observation(found)

    async def state(self) -> Any:
        """The fields of the state."""
        environment = self._environment or await self._started()
        if self._hosted.step_async:
            return state_fields(environment.state)
        return await self._thread.run(lambda: state_fields(environment.state))

    async def close(self) -> None:
        """Leave the MCP session, then close the environment."""
        environment, self._built, self._environment = self._built, None, None
        try:
            await self._held.aclose()
        finally:
            try:
                close = getattr(environment, "close", None)
                if callable(close):
                    await self._thread.run(cast(Callable[[], object], close))
            finally:
                if self._codec.thread is None:
                    self._thread.end()
