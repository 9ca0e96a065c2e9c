"""What a build asks of the engine first: a base image, and which Python it has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from ..errors import BuildFailed
from ..providers.docker import Engine
from .wheels import Interpreter, Report

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.types import JSONValue

__all__ = ["connected", "ensure_base", "probe", "refusals", "refused"]

_PROBE: Final = """
import json, platform, sys
name, version = platform.libc_ver()
libc = [int(part) for part in (version or "1.2").split(".")[:2]]
print(json.dumps({"version": sys.version_info[:2], "machine": platform.machine(),
                  "libc": name or "musl", "libc_version": libc}))
"""
_RECIPE: Final = (
    "where no registry can be reached, docker/base/make-base of the source repository "
    "makes one, and `docker load` takes one from another machine"
)


class _Probed(msgspec.Struct):
    version: tuple[int, int]
    machine: str
    libc: str
    libc_version: tuple[int, int]


@asynccontextmanager
async def connected(url: str | None) -> AsyncGenerator[Docker]:
    """Connect to an engine, after it has answered.

    Args:
        url: Where it listens; None takes what the `docker` command would.

    Raises:
        ProviderError: The extra `docker` is missing, or no engine answers, or it will
            not talk to us.
    """
    facts = await Engine(url).facts()
    import aiodocker  # noqa: PLC0415 (an optional extra)

    docker = aiodocker.Docker(facts.url, api_version=facts.api)
    try:
        yield docker
    finally:
        # Otherwise a cancellation leaves its sockets open.
        with anyio.CancelScope(shield=True):
            await docker.close()


@contextmanager
def refusals(what: str) -> Generator[None]:
    """Turn the engine's refusals, and its end, into our error.

    Args:
        what: What was expected of it.

    Raises:
        BuildFailed: It refused, or went away.
    """
    import aiodocker  # noqa: PLC0415 (an optional extra)
    import aiohttp  # noqa: PLC0415 (comes with that extra)

    try:
        yield
    except aiodocker.DockerError as error:
        raise refused(what, error.message) from error
    except (OSError, aiohttp.ClientError) as error:
        raise BuildFailed(
            f"expected {what}, but the engine has gone: {error}", retryable=True
        ) from error


def refused(what: str, reason: str, log: str = "") -> BuildFailed:
    """The error for what the engine could not do."""
    if "no space left on device" in reason.lower():
        return BuildFailed(
            f"expected {what}, but the engine's disk is full: {reason}; "
            "`docker system prune` frees what nothing uses",
            code="disk_full",
            detail={"log": log},
        )
    return BuildFailed(f"expected {what}, got: {reason}", detail={"log": log})


async def ensure_base(
    docker: Docker, image: str, *, platform: str | None, report: Report
) -> None:
    """Have the engine pull an image that it lacks.

    Raises:
        BuildFailed: It cannot; says where to get the image.
    """
    import aiodocker  # noqa: PLC0415 (an optional extra)

    with refusals(f"the base image {image!r}"):
        try:
            await docker.images.inspect(image)
        except aiodocker.DockerError as error:
            if error.status != 404:
                raise
        else:
            return
    try:
        async for item in docker.images.pull(image, platform=platform, stream=True):
            report(" ".join(str(item[key]) for key in ("id", "status") if key in item))
        with refusals(f"the base image {image!r}"):
            await docker.images.inspect(image)
    except aiodocker.DockerError as error:
        raise BuildFailed(
            f"expected the base image {image!r}; the engine has none and cannot pull "
            f"it: {error.message}; {_RECIPE}",
            code="no_base_image",
        ) from error


async def probe(docker: Docker, image: str) -> Interpreter:
    """Find out what Python an image has, by running it without a network.

    Raises:
        BuildFailed: It has none, or it does not run here.
    """
    what = f"python3 in the base image {image!r}"
    config: dict[str, JSONValue] = {
        "Image": image,
        "Entrypoint": ["python3", "-c", _PROBE],
        "Cmd": [],
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none"},
    }
    with refusals(what):
        container = await docker.containers.create(config)
        try:
            await container.start()  # pyright: ignore[reportUnknownMemberType]  # loose keywords
            ended = await container.wait()  # pyright: ignore[reportUnknownMemberType]  # loose keywords
            lines = await container.log(  # pyright: ignore[reportUnknownMemberType]  # loose keywords
                stdout=True, stderr=True
            )
        finally:
            with anyio.CancelScope(shield=True):
                await container.delete(force=True)
    output = "".join(lines)
    if ended["StatusCode"]:
        raise BuildFailed(f"expected {what}, got:", detail={"log": output})
    try:
        found = msgspec.json.decode(output, type=_Probed)
    except msgspec.MsgspecError as error:
        raise BuildFailed(f"expected {what} to say what it is: {error}") from error
    return Interpreter(
        version=found.version,
        machine=found.machine,
        libc=found.libc,
        libc_version=found.libc_version,
    )
