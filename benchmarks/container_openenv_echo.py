"""Echo environment on OpenEnv 0.10.0, as it is served in a container.

Without the images of `openenv_server`, and so without NumPy, which takes time to
import.
"""

from __future__ import annotations

from typing import Any

from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    Environment,
    Observation,
    State,
    create_app,
)

__all__ = ["app"]


class EchoAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """Say something."""

    message: str


class EchoObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """Hear it back."""

    echoed_message: str


class EchoEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Echo the message, without a thread."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(step_count=0)

    def reset(self, seed: int | None = None, **kwargs: Any) -> EchoObservation:
        """Start an episode."""
        self._state = State(step_count=0)
        return EchoObservation(echoed_message="", reward=0.0)

    async def reset_async(
        self, seed: int | None = None, **kwargs: Any
    ) -> EchoObservation:
        """Start an episode."""
        return self.reset(seed)

    def step(self, action: EchoAction, **kwargs: Any) -> EchoObservation:
        """Echo the message."""
        self._state.step_count += 1
        return EchoObservation(echoed_message=action.message, reward=1.0)

    async def step_async(self, action: EchoAction, **kwargs: Any) -> EchoObservation:
        """Echo the message."""
        return self.step(action)

    @property
    def state(self) -> State:
        """Where the episode is."""
        return self._state


app = create_app(
    EchoEnvironment,
    EchoAction,
    EchoObservation,
    env_name="echo",
    max_concurrent_envs=1024,
)
