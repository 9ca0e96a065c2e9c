"""Servers in containers: fenced in, and gone with their owner."""

from .container import Container
from .engine import Engine
from .identity import Owner, default_name
from .options import DockerOptions, Mount
from .orphans import Found, Removal, remove_orphans
from .provider import DockerProvider
from .statistics import ContainerStatistics

__all__ = [
    "Container",
    "ContainerStatistics",
    "DockerOptions",
    "DockerProvider",
    "Engine",
    "Found",
    "Mount",
    "Owner",
    "Removal",
    "default_name",
    "remove_orphans",
]
