"""Doubles and checks for the tests of environments and of what uses them.

The pytest plugin is `openenv_async.testing.plugin`. Names are imported on first use,
because every run of pytest imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..conformance import (
        CHECKS,
        Check,
        Subject,
        faults_of_schema,
        faults_of_value,
        first_difference,
        resources,
        run_check,
        run_checks,
        subject_of,
    )
    from ..memory import Direction, Line, MemoryProvider, MemoryServer
    from ..rollout.adapters.sampling import Sampler, sampler_of
    from .chaos import CHAOS, CLEAR, Chaos, Fault, Faults
    from .determinism import assert_deterministic
    from .exactly_once import check_exactly_once
    from .leaks import assert_no_leak

__all__ = [
    "CHAOS",
    "CHECKS",
    "CLEAR",
    "Chaos",
    "Check",
    "Direction",
    "Fault",
    "Faults",
    "Line",
    "MemoryProvider",
    "MemoryServer",
    "Sampler",
    "Subject",
    "assert_deterministic",
    "assert_no_leak",
    "check_exactly_once",
    "faults_of_schema",
    "faults_of_value",
    "first_difference",
    "resources",
    "run_check",
    "run_checks",
    "sampler_of",
    "subject_of",
]

_MODULES = {
    "..memory": ("Direction", "Line", "MemoryProvider", "MemoryServer"),
    "..rollout.adapters.sampling": ("Sampler", "sampler_of"),
    ".chaos": ("CHAOS", "CLEAR", "Chaos", "Fault", "Faults"),
    ".determinism": ("assert_deterministic",),
    ".exactly_once": ("check_exactly_once",),
    ".leaks": ("assert_no_leak",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Everything that is nowhere else is a check.
    home = importlib.import_module(_HOMES.get(name, "..conformance"), __name__)
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
