"""The environment: it echoes."""

from __future__ import annotations

import uuid
from typing import Any

from openenv_async import Environment, State

from ..models import EchoAction, EchoObservation

__all__ = ["EchoEnvironment"]

_REWARD_PER_CHARACTER = 0.1


class EchoEnvironment(Environment[EchoAction, EchoObservation, State]):
    """Echoes messages and rewards them by length."""

    name = "echo_env"

    def __init__(self) -> None:
        self._episode_id: str | None = None
        self._steps = 0

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> EchoObservation:
        """Begin an episode; seed and options change nothing."""
        self._episode_id = episode_id or str(uuid.uuid4())
        self._steps = 0
        return EchoObservation(echoed_message="Echo environment ready!")

    async def step(self, action: EchoAction) -> EchoObservation:
        """Send the message back."""
        self._steps += 1
        length = len(action.message)
        return EchoObservation(
            echoed_message=action.message,
            message_length=length,
            reward=length * _REWARD_PER_CHARACTER,
        )

    def state(self) -> State:
        """Tell which episode this is and how far it got."""
        return State(episode_id=self._episode_id, step_count=self._steps)
