"""Start something that serves environments, return its address, stop it again."""

from .base import Placer, Provider, Served
from .docker import (
    Container,
    ContainerStatistics,
    DockerOptions,
    DockerProvider,
    Found,
    Mount,
    Removal,
    remove_orphans,
)
from .fleet import (
    Fleet,
    FleetSettings,
    FleetStatistics,
    Percentiles,
    Replica,
    ReplicaState,
    ReplicaStatistics,
)
from .local import LocalProvider, LocalServer
from .placing import FixedPlacer, FixedServer, OwnFleet, SoloPlacer, placer_of

__all__ = [
    "Container",
    "ContainerStatistics",
    "DockerOptions",
    "DockerProvider",
    "FixedPlacer",
    "FixedServer",
    "Fleet",
    "FleetSettings",
    "FleetStatistics",
    "Found",
    "LocalProvider",
    "LocalServer",
    "Mount",
    "OwnFleet",
    "Percentiles",
    "Placer",
    "Provider",
    "Removal",
    "Replica",
    "ReplicaState",
    "ReplicaStatistics",
    "Served",
    "SoloPlacer",
    "placer_of",
    "remove_orphans",
]
