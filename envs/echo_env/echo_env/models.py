"""What travels between agent and environment."""

from __future__ import annotations

from openenv_async import Action, Observation

__all__ = ["EchoAction", "EchoObservation"]


class EchoAction(Action):
    """Say something."""

    message: str


class EchoObservation(Observation):
    """Hear it back."""

    echoed_message: str
    message_length: int = 0
    """In characters."""
