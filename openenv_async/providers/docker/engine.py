"""The container engine: where it is, what it is, and its errors in words that help."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio

from ...errors import ProviderError
from .client import EngineClient

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.exceptions import DockerError

__all__ = ["Engine", "EngineFacts", "explaining", "find_engine"]

_OLDEST_API: Final = (1, 40)
"""Of Docker 19.03: the first one with the limits and security options that we set."""
_SOCKETS: Final = ("/var/run/docker.sock", "~/.docker/run/docker.sock")
_NO_CONNECTION: Final = 900
"""Status that aiodocker gives an engine that it cannot reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine is.

    Args:
        url: Its address.
        api: Version of its interface, as `v1.41`.
        cpus: How many processors it has.
        is_here: Whether it shares this machine's kernel and files.
        maps_users: Whether users in containers are others outside of them.
    """

    url: str
    api: str
    cpus: int
    is_here: bool
    maps_users: bool

    @property
    def is_reachable_by_loopback(self) -> bool:
        """Whether a port on its machine's loopback is one on ours.

        Docker Desktop's machine is another one, but forwards its ports.
        """
        return urlsplit(self.url).scheme == "unix" or urlsplit(self.url).hostname in (
            "127.0.0.1",
            "localhost",
            "::1",
        )


class Engine:
    """A container engine, found when it is first needed.

    Args:
        url: Its address; None takes what the `docker` command would.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._facts: EngineFacts | None = None

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator[EngineClient, None]:
        """Connect to it for some requests; the engine's errors become ours.

        Raises:
            ProviderError: It could not be reached, or refused.
        """
        facts = await self.facts()
        with explaining(facts.url):
            async with _opened(facts.url, facts.api) as docker:
                yield EngineClient(docker)

    async def facts(self) -> EngineFacts:
        """What it is; asked once.

        Raises:
            ProviderError: It could not be reached, or is too old.
        """
        if self._facts is None:
            # The first import takes a good part of a second.
            await anyio.to_thread.run_sync(_import_aiodocker)
            url = self._url
            if url is None:
                url = await anyio.to_thread.run_sync(find_engine)
            with explaining(url):
                self._facts = await _ask(url)
        return self._facts


def _import_aiodocker() -> None:
    try:
        importlib.import_module("aiodocker")
    except ImportError as error:
        raise ProviderError(
            "expected aiodocker for containers, got none: "
            "pip install 'openenv-async[docker]'",
            fault="caller",
        ) from error


@contextlib.asynccontextmanager
async def _opened(url: str, api: str) -> AsyncGenerator[Docker, None]:
    import aiodocker  # noqa: PLC0415 (an extra)

    try:
        docker = aiodocker.Docker(url, api_version=api)
    except (OSError, ValueError) as error:  # its certificates
        raise ProviderError(
            f"could not use the certificates for the engine at {url}: {error}; "
            "check DOCKER_CERT_PATH and DOCKER_TLS_VERIFY",
            fault="caller",
        ) from error
    try:
        yield docker
    finally:
        # Otherwise a cancellation leaves its sockets open.
        with anyio.CancelScope(shield=True):
            await docker.close()


def find_engine() -> str:
    """Where the `docker` command would find the engine; reads small files."""
    environment = os.environ.get("DOCKER_HOST")
    if environment:
        return environment
    context = _context_host()
    if context:
        return context
    for name in _SOCKETS:
        path = Path(name).expanduser()
        if path.is_socket():
            return f"unix://{path}"
    return f"unix://{_SOCKETS[0]}"


def _context_host() -> str | None:
    """Address of the context that `docker context use` chose."""
    folder = Path("~/.docker").expanduser()
    try:
        name = os.environ.get("DOCKER_CONTEXT") or json.loads(
            (folder / "config.json").read_text()
        ).get("currentContext")
        if not name or name == "default":
            return None
        digest = hashlib.sha256(name.encode()).hexdigest()
        meta = (folder / "contexts" / "meta" / digest / "meta.json").read_text()
        host = json.loads(meta)["Endpoints"]["docker"]["Host"]
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return host if isinstance(host, str) else None


async def _ask(url: str) -> EngineFacts:
    if not _is_address(url):
        raise ProviderError(
            f"expected an engine at unix:// or tcp://, got {url!r}: set DOCKER_HOST or "
            "engine=",
            fault="caller",
        )
    async with _opened(url, "auto") as docker:
        info = await EngineClient(docker).info()
        api = docker.api_version
    version = tuple(int(number) for number in re.findall(r"\d+", api))
    if version < _OLDEST_API:
        raise ProviderError(
            f"expected an engine with API 1.40 or later (Docker 19.03), got {api} at "
            f"{url}: update it",
        )
    security = " ".join(info.get("SecurityOptions") or ())
    return EngineFacts(
        url=url,
        api=api,
        cpus=int(info.get("NCPU") or 1),
        is_here=_is_here(
            url, str(info.get("Name")), str(info.get("KernelVersion", ""))
        ),
        maps_users="name=rootless" in security or "name=userns" in security,
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError:
        return False
    return parts.scheme in ("unix", "tcp", "http", "https")


def _is_here(url: str, name: str, kernel: str) -> bool:
    """Whether an engine runs beside us.

    A socket alone does not say so: behind Docker Desktop's is a virtual machine, and in
    a container with the host's socket the folders are not the host's.
    """
    return (
        sys.platform == "linux"
        and url.startswith("unix://")
        and name == socket.gethostname()
        and kernel == os.uname().release
    )


@contextlib.contextmanager
def explaining(url: str) -> Generator[None, None, None]:
    """Turn the engine's errors, and those on the way to it, into ours."""
    import aiohttp  # noqa: PLC0415 (an extra)
    from aiodocker.exceptions import DockerError  # noqa: PLC0415 (an extra)

    try:
        yield
    except DockerError as error:
        raise _explained(error, url) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ProviderError(
            f"lost the engine at {url}: {str(error) or type(error).__name__}",
            retryable=True,
        ) from error


def _explained(error: DockerError, url: str) -> ProviderError:
    text = str(error.message)
    if error.status == _NO_CONNECTION:
        return _unreachable(error, url)
    if "no space left on device" in text:
        return ProviderError(
            f"the engine's disk is full ({text}): `docker system df` says of what, "
            "`docker system prune` and `openenv-async cleanup` make room",
        )
    if "No such image" in text:
        image = text.rpartition("No such image:")[2].strip()
        return ProviderError(
            f"expected an image {image!r} in the engine at {url}, got none: "
            f"`docker pull {image}`, or build it with `openenv-async build`",
            fault="caller",
            detail={"status": error.status},
        )
    if error.status == 404 and "network" in text:
        return ProviderError(
            f"expected a network of the engine ({text}): `docker network ls` names "
            "them",
            fault="caller",
            detail={"status": error.status},
        )
    return ProviderError(
        f"the engine at {url} refused: {text} (status {error.status})",
        fault="caller" if error.status == 400 else None,
        detail={"status": error.status},
    )


def _unreachable(error: DockerError, url: str) -> ProviderError:
    cause = error.__context__
    if isinstance(cause, PermissionError) or (
        isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM)
    ):
        return ProviderError(
            f"expected permission to use the engine at {url}, got none: add yourself "
            "to its group (`sudo usermod -aG docker $USER`, then log in again), or "
            "use a rootless engine",
            fault="caller",
        )
    reason = getattr(cause, "strerror", None) or cause or error.message
    return ProviderError(
        f"expected a container engine at {url}, got no answer ({reason}): start it "
        "(`sudo systemctl start docker`, or Docker Desktop), or say where it is with "
        "DOCKER_HOST or engine=",
        retryable=True,
    )
