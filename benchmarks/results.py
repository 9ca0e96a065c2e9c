"""What a run leaves behind: medians of rounds, with commit and machine."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.meter import Metrics
from benchmarks.processes import BenchmarkError, output_of
from benchmarks.rounds import Outcome

__all__ = ["commit", "machine", "medians", "now"]

_LIBRARIES = (
    "openenv-async",
    "starlette",
    "uvicorn",
    "websockets",
    "msgspec",
    "uvloop",
    "httptools",
    "gymnasium",
    "numpy",
)
_OPENENV_LIBRARIES = (
    "openenv",
    "fastapi",
    "starlette",
    "uvicorn",
    "websockets",
    "pydantic",
    "uvloop",
)
_ASK_VERSIONS = """
import importlib.metadata as m, json, sys
found = {d.name.lower(): d.version for d in m.distributions() if d.name}
print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))
"""


def now() -> str:
    """Tell the time, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


async def commit() -> dict[str, Any]:
    """Name what is measured; `dirty` means that it is more than the commit."""
    try:
        name = (await output_of(["git", "rev-parse", "HEAD"])).strip()
        dirty = bool((await output_of(["git", "status", "--porcelain"])).strip())
    except (BenchmarkError, OSError):
        return {"name": "unknown", "dirty": True}
    return {"name": name, "dirty": dirty}


async def machine(openenv_python: Path | None) -> dict[str, Any]:
    """Describe the machine and the libraries of both interpreters."""
    found = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": _own_versions(),
        "load_average": os.getloadavg()[0],
    }
    if openenv_python:
        command = [str(openenv_python), "-c", _ASK_VERSIONS, *_OPENENV_LIBRARIES]
        found["openenv_libraries"] = json.loads(await output_of(command))
    return found


def medians(rounds: Sequence[Outcome]) -> Outcome:
    """Take the median of each metric over the rounds that have it."""
    keys = dict.fromkeys(key for outcome in rounds for key in outcome)
    return {
        key: _median([outcome[key] for outcome in rounds if key in outcome])
        for key in keys
    }


def _median(found: Sequence[Metrics]) -> Metrics:
    names = dict.fromkeys(name for metrics in found for name in metrics)
    return {
        name: statistics.median(metrics[name] for metrics in found if name in metrics)
        for name in names
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _own_versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions
