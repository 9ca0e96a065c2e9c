"""The engine, by its own command: containers of other contenders, and images."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from benchmarks.processes import BenchmarkError, free_port, output_of

__all__ = [
    "containers_of",
    "docker_run",
    "engine_facts",
    "image_id",
    "image_label",
    "remove_containers",
    "served",
]

_START_SECONDS: Final = 90.0
_POLL: Final = 0.05


async def engine_facts() -> dict[str, str]:
    """Tell what the engine is.

    Raises:
        BenchmarkError: None answers, or there is no `docker` command.
    """
    words = ("{{.ServerVersion}}", "{{.Driver}}", "{{.CgroupDriver}}")
    command = ["docker", "info", "--format", " ".join(words)]
    try:
        found = (await output_of(command, timeout=15)).split()
    except (BenchmarkError, OSError) as error:
        text = str(error).strip()
        raise BenchmarkError(f"no container engine answers: {text}") from error
    if len(found) != len(words):
        raise BenchmarkError("no container engine answers")
    return dict(zip(("version", "storage", "cgroups"), found, strict=True))


async def image_id(image: str) -> str:
    """Tell the digest of an image; empty if there is none."""
    return await _inspected(image, "{{.Id}}")


async def image_label(image: str, label: str) -> str:
    """Tell a label of an image; empty if there is none."""
    return await _inspected(image, f'{{{{index .Config.Labels "{label}"}}}}')


async def _inspected(image: str, template: str) -> str:
    command = ["docker", "image", "inspect", "--format", template, image]
    try:
        return (await output_of(command)).strip()
    except BenchmarkError:
        return ""


@contextlib.asynccontextmanager
async def docker_run(
    image: str, *command: str, options: Sequence[str] = ()
) -> AsyncIterator[int]:
    """Run a container that serves at port 8000, for as long as the context lasts.

    Args:
        image: The image.
        command: Instead of the image's own.
        options: Of `docker run`.

    Yields:
        The port on loopback where it is published. It may not listen yet.
    """
    port = free_port()
    run = ["docker", "run", "--detach", "--publish", f"127.0.0.1:{port}:8000"]
    container = (await output_of([*run, *options, image, *command])).strip()
    try:
        yield port
    finally:
        await remove_containers([container])


async def served(port: int) -> None:
    """Wait until `/health` answers at a published port.

    Raises:
        BenchmarkError: It does not.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            while True:
                if await _is_healthy(port):
                    return
                await asyncio.sleep(_POLL)
    raise BenchmarkError(f"expected a server within {_START_SECONDS:.0f} s, got none")


async def _is_healthy(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status = await reader.readline()
        finally:
            writer.close()
    except OSError:
        return False
    return status.split()[1:2] == [b"200"]


async def containers_of(images: Sequence[str]) -> set[str]:
    """List the containers of some images, those that have ended too."""
    found: set[str] = set()
    for image in images:
        command = ["docker", "ps", "--all", "--quiet", "--no-trunc"]
        listed = await output_of([*command, "--filter", f"ancestor={image}"])
        found.update(listed.split())
    return found


async def remove_containers(containers: Sequence[str]) -> None:
    """Remove containers, whatever they do."""
    if containers:
        await output_of(["docker", "rm", "--force", "--volumes", *containers])
