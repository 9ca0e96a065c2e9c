"""How long it takes to import a client."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.meter import Metrics
from benchmarks.processes import output_of

__all__ = ["Import", "imports"]

_TIMES = 5
_ENOUGH_SECONDS = 4.0
"""Something this slow needs no more repetitions."""


@dataclasses.dataclass(frozen=True)
class Import:
    """A statement, and the interpreter that runs it."""

    key: str
    python: Path
    statement: str

    async def measure(self) -> Metrics:
        """Time it in fresh interpreters, less the start of the interpreter."""
        bare = await _median(self.python, "pass")
        return {"seconds": await _median(self.python, self.statement) - bare}


def imports(openenv_python: Path | None) -> Iterator[Import]:
    """Yield what a program imports before it can connect.

    Args:
        openenv_python: The interpreter with OpenEnv; None leaves it out.
    """
    python = Path(sys.executable)
    yield Import("import/openenv_async", python, "import openenv_async")
    yield Import(
        "import/openenv_async-client", python, "from openenv_async import EnvClient"
    )
    if openenv_python:
        statement = "from openenv import GenericEnvClient"
        yield Import("import/openenv", openenv_python, statement)


async def _median(python: Path, statement: str) -> float:
    seconds: list[float] = []
    # The first one compiles and fills the page cache.
    for _ in range(1 + _TIMES):
        begin = time.perf_counter()
        await output_of([str(python), "-c", statement])
        seconds.append(time.perf_counter() - begin)
        if len(seconds) > 1 and sum(seconds) > _ENOUGH_SECONDS:
            break
    return statistics.median(seconds[1:])
