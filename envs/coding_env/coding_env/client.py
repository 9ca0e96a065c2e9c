"""The typed client."""

from __future__ import annotations

from openenv_async import EnvClient

from .models import CodingAction, CodingObservation, CodingState

__all__ = ["CodingEnv"]


class CodingEnv(EnvClient[CodingAction, CodingObservation, CodingState]):
    """A session, or many, of the coding environment."""
