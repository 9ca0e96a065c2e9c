"""The typed client."""

from __future__ import annotations

from openenv_async import EnvClient, State

from .models import EchoAction, EchoObservation

__all__ = ["EchoEnv"]


class EchoEnv(EnvClient[EchoAction, EchoObservation, State]):
    """A session, or many, of the echo environment."""
