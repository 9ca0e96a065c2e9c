"""Servers of ours that host environments of OpenEnv's, where those can be imported."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

import openenv_async

from .venvs import interpreter

__all__ = ["MODULE", "conversing", "hosting", "running"]

MODULE: Final = "their_environments"
_FOLDER: Final = Path(__file__).with_name("hosted")
_PATIENCE: Final = 10.0
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@contextlib.contextmanager
def conversing(
    version: str,
    command: Sequence[str],
    *,
    variables: Mapping[str, str] = _NONE,
    folders: Sequence[str] = (),
) -> Iterator[Callable[[str], str]]:
    """Run something with OpenEnv's interpreter; what waits for a line of its output.

    Args:
        version: Of OpenEnv.
        command: What to run.
        variables: Environment variables for it.
        folders: Where else it finds modules.
    """
    with tempfile.TemporaryDirectory() as folder:
        # What OpenEnv's own environment lacks: ourselves and a library of ours.
        for package in (openenv_async, msgspec):
            source = Path(str(package.__file__)).parent
            (Path(folder) / source.name).symlink_to(source)
        log = (Path(folder) / "log").open("w+")
        paths = {
            "PYTHONPATH": os.pathsep.join([folder, *folders]),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [str(interpreter(version)), *command],
            cwd=_FOLDER,
            env={**os.environ, **variables, **paths},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

        def wait(said: str) -> str:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(said):
                    return line
            log.seek(0)
            raise RuntimeError(f"expected {said!r}, got {log.read()[-3000:]}")

        try:
            yield wait
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            log.close()


@contextlib.contextmanager
def running(version: str, command: Sequence[str], said: str) -> Iterator[None]:
    """Run something with OpenEnv's interpreter until it has said that it is ready.

    Args:
        version: Of OpenEnv.
        command: What to run.
        said: Beginning of the line that says so.
    """
    with conversing(version, command) as wait:
        wait(said)
        yield


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
