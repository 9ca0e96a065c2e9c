"""An environment as OpenEnv 0.2.3 has them: no types as arguments, no state class."""

from __future__ import annotations

from typing import Any

from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    Environment,
    Observation,
    State,
    create_app,
)


class DoubleAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """A number."""

    x: int


class DoubleObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """Twice the number."""

    y: int = 0


class DoubleEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Doubles."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **_: Any
    ) -> DoubleObservation:
        """Begin."""
        self._state = State(episode_id=episode_id)
        return DoubleObservation()

    def step(self, action: DoubleAction, **_: Any) -> DoubleObservation:
        """Double."""
        self._state.step_count += 1
        return DoubleObservation(y=2 * action.x, reward=1.0)

    @property
    def state(self) -> State:
        """Where the episode is."""
        return self._state


app = create_app(DoubleEnvironment, DoubleAction, DoubleObservation, env_name="double")
