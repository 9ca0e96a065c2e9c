"""OpenEnv's blocking client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .calls import Call

if TYPE_CHECKING:
    from .client import EnvClient
    from .results import StepResult

__all__ = ["SyncEnvClient"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")


class SyncEnvClient(Generic[ActT, ObsT, StateT]):
    """A client whose calls block, also inside of a running event loop.

    What it does not have itself is the client's own; coroutine functions of subclasses
    become blocking ones.

    Args:
        client: What makes the calls.
    """

    def __init__(self, client: EnvClient[ActT, ObsT, StateT]) -> None:
        self._client = client

    @property
    def async_client(self) -> EnvClient[ActT, ObsT, StateT]:
        """The client that can also be awaited."""
        return self._client

    def connect(self) -> Self:
        """Connect now; returns itself."""
        self._block("connect")
        return self

    def disconnect(self) -> None:
        """End the session."""
        self._block("disconnect")

    def reset(self, **arguments: Any) -> StepResult[ObsT]:
        """Start an episode; see `EnvClient.reset`."""
        result: StepResult[ObsT] = self._block("reset", **arguments)
        return result

    def step(self, action: ActT, **arguments: Any) -> StepResult[ObsT]:
        """Perform an action; see `EnvClient.step`."""
        result: StepResult[ObsT] = self._block("step", action, **arguments)
        return result

    def state(self) -> StateT:
        """Read the state; see `EnvClient.state`."""
        state: StateT = self._block("state")
        return state

    def close(self) -> None:
        """End everything; see `EnvClient.close`."""
        self._block("close")

    def new_session(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """Connect another client; see `EnvClient.new_session`."""
        child: EnvClient[ActT, ObsT, StateT] = self._block("new_session")
        return child.sync()

    def _block(self, name: str, *arguments: Any, **named: Any) -> Any:
        method: Callable[..., object] = getattr(self._client, name)
        result = method(*arguments, **named)
        if isinstance(result, Coroutine):
            result.close()
            raise RuntimeError(  # noqa: TRY004 (the call is wrong, not its type)
                f"expected {name}() in another thread than that of the event loop that "
                "the client lives in, which must not be blocked"
            )
        if isinstance(result, Call):
            return result.result()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # of any type
        return result

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found

        def blocking(*arguments: Any, **named: Any) -> Any:
            return self._client.blocking(lambda: found(*arguments, **named))

        return blocking
