"""Start something that serves environments, return its address, stop it again."""

from .base import Placer, Provider, Served
from .local import LocalProvider, LocalServer
from .placing import FixedPlacer, FixedServer, SoloPlacer, placer_of

__all__ = [
    "FixedPlacer",
    "FixedServer",
    "LocalProvider",
    "LocalServer",
    "Placer",
    "Provider",
    "Served",
    "SoloPlacer",
    "placer_of",
]
