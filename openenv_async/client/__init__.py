"""Talks to environment servers: sessions, batches, a blocking facade."""

from .batch import EnvBatch
from .observer import ServerObserver, SessionEvent
from .results import (
    AutoresetMode,
    BatchResult,
    Failure,
    GenericObservation,
    Ready,
    StepResult,
    Timing,
)
from .session import EnvClient, GenericEnv
from .sync import SyncBatch, SyncEnv

__all__ = [
    "AutoresetMode",
    "BatchResult",
    "EnvBatch",
    "EnvClient",
    "Failure",
    "GenericEnv",
    "GenericObservation",
    "Ready",
    "ServerObserver",
    "SessionEvent",
    "StepResult",
    "SyncBatch",
    "SyncEnv",
    "Timing",
]
