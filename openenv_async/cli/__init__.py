"""The command `openenv-async`."""

from .main import main

__all__ = ["main"]
