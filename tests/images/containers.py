"""Containers for tests of images, by the engine's own command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["docker", "eventually", "running", "state"]


def docker(*arguments: str, check: bool = True, timeout: float = 60.0) -> str:
    """What the command prints; fails, and shows why, unless told not to check."""
    outcome = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout
    )
    if check and outcome.returncode:
        raise AssertionError(f"docker {arguments}: {outcome.stderr}{outcome.stdout}")
    return outcome.stdout.strip()


@contextmanager
def running(
    image: str, *arguments: str, options: tuple[str, ...] = ()
) -> Generator[str]:
    """A container, removed at the end; arguments follow the image's name."""
    name = docker("run", "--detach", *options, image, *arguments)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def state(name: str, field: str) -> str:
    """A field of a container's state."""
    return docker("inspect", "--format", f"{{{{.State.{field}}}}}", name)


def eventually(condition: Callable[[], object], what: str, timeout: float = 15) -> None:
    """Wait until something holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.02)
