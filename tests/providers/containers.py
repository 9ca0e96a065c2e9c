"""Containers in tests: started, looked at from outside and inside, and none left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from openenv_async import ServerDied
from openenv_async.providers.docker import Container, DockerProvider
from tests.serving import PATIENCE

__all__ = [
    "LABEL",
    "containers_of",
    "death_of",
    "docker",
    "inside",
    "socket_folders",
    "started",
]

LABEL = "org.openenv-async.container"


def docker(*arguments: str, check: bool = True) -> str:
    """Run the `docker` command; returns what it printed."""
    outcome = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert outcome.returncode == 0 or not check, outcome.stderr
    return outcome.stdout.strip()


def containers_of(run: str) -> list[str]:
    """Names of the containers of a run, those that have ended too."""
    listed = docker(
        "ps", "-a", "--filter", f"label={LABEL}.run={run}", "--format={{.Names}}"
    )
    return sorted(listed.split())


async def inside(container: Container, program: str) -> Any:
    """Run a Python program in a container; returns the JSON that it printed."""
    python = ("/opt/openenv/bin/python", "-c", program)
    printed = await anyio.to_thread.run_sync(
        lambda: docker("exec", container.name, *python)
    )
    return json.loads(printed)


async def death_of(container: Container) -> ServerDied:
    """Wait until a container is known to have died."""
    with anyio.fail_after(PATIENCE):
        while (died := await container.diagnose()) is None:  # noqa: ASYNC110 (no event)
            await anyio.sleep(0.01)
    return died


@contextlib.asynccontextmanager
async def started(image: str, **options: Any) -> AsyncIterator[DockerProvider]:
    """A provider of whose containers and folders nothing is left at the end."""
    provider = DockerProvider(image, run=secrets.token_hex(6), **options)
    try:
        yield provider
    finally:
        await provider.stop()
        left = await anyio.to_thread.run_sync(containers_of, provider.run)
        folders = await anyio.to_thread.run_sync(socket_folders, os.getpid())
    assert not left
    assert not folders
    assert not provider.containers


def socket_folders(owner: int) -> list[str]:
    """The folders of sockets of a process."""
    return [
        str(path)
        for base in ("/dev/shm", f"/run/user/{os.getuid()}", tempfile.gettempdir())
        for path in Path(base).glob(f"openenv-docker-{owner}-*")
    ]
