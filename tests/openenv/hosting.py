"""Servers of ours that host environments of OpenEnv's, where those can be imported."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

import openenv_async

from .venvs import interpreter

__all__ = ["MODULE", "hosting", "running"]

MODULE: Final = "their_environments"
_FOLDER: Final = Path(__file__).with_name("hosted")
_PATIENCE: Final = 10.0


@contextlib.contextmanager
def running(version: str, command: Sequence[str], said: str) -> Iterator[None]:
    """Run something with OpenEnv's interpreter until it has said that it is ready.

    Args:
        version: Of OpenEnv.
        command: What to run.
        said: Beginning of the line that says so.
    """
    with tempfile.TemporaryDirectory() as folder:
        # What OpenEnv's own environment lacks: ourselves and a library of ours.
        for package in (openenv_async, msgspec):
            source = Path(str(package.__file__)).parent
            (Path(folder) / source.name).symlink_to(source)
        log = (Path(folder) / "log").open("w+")
        process = subprocess.Popen(
            [str(interpreter(version)), *command],
            cwd=_FOLDER,
            env={**os.environ, "PYTHONPATH": folder, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(said):
                    break
            else:
                log.seek(0)
                raise RuntimeError(f"expected a server, got {log.read()[-3000:]}")
            yield
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            log.close()


@contextlib.contextmanager
def hosting(version: str, *names: str, module: str = MODULE) -> Iterator[Path]:
    """Serve environments of a module; the server's Unix socket.

    Args:
        version: Of OpenEnv.
        names: Attributes of the module.
        module: In the folder `hosted`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        targets = [f"openenv:{module}:{name}" for name in names]
        command = ["-m", "openenv_async.cli", "serve", *targets, "--uds", str(path)]
        with running(version, command, "serving "):
            yield path
