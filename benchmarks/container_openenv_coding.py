"""Coding environment on OpenEnv 0.10.0, the way its repository's own works.

Its package has the executor (`PyExecutor`, over smolagents) but not the environment.
This one does the same per step: `PyExecutor.run` in the session's thread. What differs
is in its favour: no rewards by pattern, and more than the one session that it allows.
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
from openenv.core.tools import PyExecutor  # type: ignore[import-not-found]  # the same

__all__ = ["app"]


class CodeAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """Run code."""

    code: str


class CodeObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """What it wrote."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class CodeEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Runs code in the server's own process."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._executor = PyExecutor()
        self._state = State(step_count=0)

    def reset(self, seed: int | None = None, **kwargs: Any) -> CodeObservation:
        """Start an episode with an executor that knows nothing."""
        self._executor = PyExecutor()
        self._state = State(step_count=0)
        return CodeObservation()

    def step(self, action: CodeAction, **kwargs: Any) -> CodeObservation:
        """Run code."""
        self._state.step_count += 1
        done = self._executor.run(action.code)
        return CodeObservation(
            stdout=done.stdout, stderr=done.stderr, exit_code=done.exit_code
        )

    @property
    def state(self) -> State:
        """Where the episode is."""
        return self._state


app = create_app(
    CodeEnvironment,
    CodeAction,
    CodeObservation,
    env_name="coding",
    max_concurrent_envs=1024,
)
