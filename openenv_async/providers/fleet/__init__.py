"""Many servers of one provider: placed on, watched, replaced, grown and shrunk."""

from .fleet import Fleet
from .members import ReplicaState
from .replica import Replica
from .settings import FleetSettings
from .statistics import FleetStatistics, Percentiles, ReplicaStatistics

__all__ = [
    "Fleet",
    "FleetSettings",
    "FleetStatistics",
    "Percentiles",
    "Replica",
    "ReplicaState",
    "ReplicaStatistics",
]
