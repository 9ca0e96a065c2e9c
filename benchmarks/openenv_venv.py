"""The virtual environment of OpenEnv 0.10.0, made when it is missing.

It is one of its own, because OpenEnv's dependencies (FastAPI, FastMCP, Gradio,
pandas) must neither change what we run on nor count as ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.processes import BenchmarkError, bench_folder, output_of

__all__ = ["OPENENV_VERSION", "openenv_python"]

OPENENV_VERSION = "0.10.0"
_INSTALL_SECONDS = 900.0
_ASK_VERSION = "import importlib.metadata as m; print(m.version('openenv'))"


async def openenv_python(given: Path | None) -> Path:
    """Return an interpreter that has this version of OpenEnv.

    Args:
        given: One that already has it; None makes a virtual environment.

    Raises:
        BenchmarkError: It has another version, or can't be installed.
    """
    folder = bench_folder() / f"openenv-{OPENENV_VERSION}"
    python = given or folder / "bin" / "python"
    if given is None and not (folder / "installed").exists():
        await output_of([sys.executable, "-m", "venv", "--clear", str(folder)])
        install = [str(python), "-m", "pip", "install", "-q", "--no-input"]
        await output_of(
            [*install, f"openenv=={OPENENV_VERSION}"], timeout=_INSTALL_SECONDS
        )
        # Written last: half an installation is made again.
        (folder / "installed").touch()
    version = (await output_of([str(python), "-c", _ASK_VERSION])).strip()
    if version != OPENENV_VERSION:
        raise BenchmarkError(
            f"expected openenv {OPENENV_VERSION} in {python}, got {version}"
        )
    return python
