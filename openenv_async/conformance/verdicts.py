"""How the body of a check says that it found a fault, or had nothing to look at."""

from __future__ import annotations

__all__ = ["Broken", "Unchecked"]


class Broken(Exception):
    """The environment does not keep what is checked; the text says where."""


class Unchecked(Exception):
    """The check could not be made; the text says why."""
