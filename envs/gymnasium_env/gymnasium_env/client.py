"""The typed client, for environments of any spaces."""

from __future__ import annotations

from openenv_async import EnvClient

from .models import GymnasiumAction, GymnasiumObservation, GymnasiumState

__all__ = ["GymnasiumEnv"]


class GymnasiumEnv(EnvClient[GymnasiumAction, GymnasiumObservation, GymnasiumState]):
    """A session, or many, of a Gymnasium environment."""
