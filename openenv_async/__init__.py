"""Async-first environments for agentic RL: many sessions, one socket, no lost step.

`reset`, `step` and `state` over WebSockets. See README.md for a start and
docs/protocol.md for what travels on the wire. Names are imported on first use, so that
`import openenv_async` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arrays import Array
    from .client import (
        AutoresetMode,
        BatchResult,
        EnvBatch,
        EnvClient,
        Failure,
        GenericEnv,
        GenericObservation,
        Ready,
        ServerObserver,
        SessionEvent,
        StepResult,
        SyncBatch,
        SyncEnv,
        Timing,
    )
    from .environment import (
        Action,
        Environment,
        EnvironmentMetadata,
        EnvironmentSpec,
        Observation,
        State,
        find_spec,
    )
    from .errors import (
        AtCapacity,
        BuildFailed,
        ConnectFailed,
        DeadlineExceeded,
        EnvironmentFailed,
        EpisodeDone,
        EpisodeLost,
        InvalidAction,
        LocalProtocolError,
        OpenEnvError,
        ProviderError,
        RemoteProtocolError,
        ReplyLost,
        RequestRejected,
        ResetRequired,
        RunDamaged,
        RunError,
        RunLocked,
        RunMismatch,
        ServerDied,
        SessionBusy,
        SessionClosed,
        SessionLost,
        StepInterrupted,
        StorageFull,
        TakenOver,
        Unauthorized,
        UnknownEnvironment,
        VersionMismatch,
    )
    from .providers import (
        DockerProvider,
        Fleet,
        LocalProvider,
        LocalServer,
        Placer,
        Provider,
        Served,
    )
    from .server import create_app, create_web_interface_app
    from .version import VERSION as __version__

__all__ = [
    "Action",
    "Array",
    "AtCapacity",
    "AutoresetMode",
    "BatchResult",
    "BuildFailed",
    "ConnectFailed",
    "DeadlineExceeded",
    "DockerProvider",
    "EnvBatch",
    "EnvClient",
    "Environment",
    "EnvironmentFailed",
    "EnvironmentMetadata",
    "EnvironmentSpec",
    "EpisodeDone",
    "EpisodeLost",
    "Failure",
    "Fleet",
    "GenericEnv",
    "GenericObservation",
    "InvalidAction",
    "LocalProtocolError",
    "LocalProvider",
    "LocalServer",
    "Observation",
    "OpenEnvError",
    "Placer",
    "Provider",
    "ProviderError",
    "Ready",
    "RemoteProtocolError",
    "ReplyLost",
    "RequestRejected",
    "ResetRequired",
    "RunDamaged",
    "RunError",
    "RunLocked",
    "RunMismatch",
    "Served",
    "ServerDied",
    "ServerObserver",
    "SessionBusy",
    "SessionClosed",
    "SessionEvent",
    "SessionLost",
    "State",
    "StepInterrupted",
    "StepResult",
    "StorageFull",
    "SyncBatch",
    "SyncEnv",
    "TakenOver",
    "Timing",
    "Unauthorized",
    "UnknownEnvironment",
    "VersionMismatch",
    "__version__",
    "create_app",
    "create_web_interface_app",
    "find_spec",
]

_MODULES = {
    ".arrays": ("Array",),
    ".client": (
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
    ),
    ".environment": (
        "Action",
        "Environment",
        "EnvironmentMetadata",
        "EnvironmentSpec",
        "Observation",
        "State",
        "find_spec",
    ),
    ".providers": (
        "DockerProvider",
        "Fleet",
        "LocalProvider",
        "LocalServer",
        "Placer",
        "Provider",
        "Served",
    ),
    ".server": ("create_app", "create_web_interface_app"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.import_module(".version", __name__).VERSION
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Everything that is nowhere else is an error.
    home = importlib.import_module(_HOMES.get(name, ".errors"), __name__)
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
