"""Echo environment on OpenEnv 0.10.0, as its authors would write it for speed.

Run by OpenEnv's own interpreter: `python -m uvicorn benchmarks.openenv_server:app`.
The environment is async, so that no thread hop is paid per step. Images come from a
second application under `/image`, which leaves the small case without their fields.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    Environment,
    Observation,
    State,
    create_app,
)

from benchmarks.cases import IMAGE_SHAPE

__all__ = ["app", "blocking_app"]

_MAX_SESSIONS = 4096
_IMAGE = np.arange(np.prod(IMAGE_SHAPE), dtype=np.uint32).astype(np.uint8)


class EchoAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """The small action."""

    message: str


class EchoObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """The small observation."""

    echoed_message: str


class ImageAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """Ask for the image, as a list of numbers or as base64 text."""

    encoding: Literal["list", "base64"] = "list"


class ImageObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """An image; OpenEnv's own Atari environment sends lists."""

    pixels: list[int] | None = None
    encoded: str | None = None


class EchoEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Echo the message."""

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
        """Start an episode, without a thread."""
        return self.reset(seed)

    def step(self, action: EchoAction, **kwargs: Any) -> EchoObservation:
        """Echo the message."""
        self._state.step_count += 1
        return EchoObservation(echoed_message=action.message, reward=1.0)

    async def step_async(self, action: EchoAction, **kwargs: Any) -> EchoObservation:
        """Echo the message, without a thread."""
        return self.step(action)

    @property
    def state(self) -> State:
        """Where the episode is."""
        return self._state


class BlockingEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Echo the message in blocking methods, which most environments have."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(step_count=0)

    def reset(self, seed: int | None = None, **kwargs: Any) -> EchoObservation:
        """Start an episode."""
        self._state = State(step_count=0)
        return EchoObservation(echoed_message="", reward=0.0)

    def step(self, action: EchoAction, **kwargs: Any) -> EchoObservation:
        """Echo the message."""
        self._state.step_count += 1
        return EchoObservation(echoed_message=action.message, reward=1.0)

    @property
    def state(self) -> State:
        """Where the episode is."""
        return self._state


class ImageEnvironment(EchoEnvironment):
    """Show 150 KiB."""

    def reset(self, seed: int | None = None, **kwargs: Any) -> ImageObservation:
        """Start an episode."""
        return ImageObservation(reward=0.0)

    def step(self, action: ImageAction, **kwargs: Any) -> ImageObservation:
        """Show the image."""
        if action.encoding == "list":
            return ImageObservation(pixels=_IMAGE.tolist(), reward=1.0)
        encoded = base64.b64encode(_IMAGE.tobytes()).decode("ascii")
        return ImageObservation(encoded=encoded, reward=1.0)


app = create_app(
    EchoEnvironment,
    EchoAction,
    EchoObservation,
    env_name="echo",
    max_concurrent_envs=_MAX_SESSIONS,
)
blocking_app = create_app(
    BlockingEnvironment,
    EchoAction,
    EchoObservation,
    env_name="blocking",
    max_concurrent_envs=_MAX_SESSIONS,
)
app.mount(
    "/image",
    create_app(
        ImageEnvironment,
        ImageAction,
        ImageObservation,
        env_name="image",
        max_concurrent_envs=_MAX_SESSIONS,
    ),
)
