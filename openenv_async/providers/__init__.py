"""Start something that serves environments, return its address, stop it again."""

from .base import Provider, Served
from .local import LocalProvider

__all__ = ["LocalProvider", "Provider", "Served"]
