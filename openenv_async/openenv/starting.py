"""Servers that a drop-in client starts for itself, and what names such a client."""

from __future__ import annotations

import inspect
import re
from collections.abc import Coroutine, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import anyio

from ..errors import LocalProtocolError
from ..providers import DockerOptions, DockerProvider, Provider, Served
from ..providers.docker.engine import Engine

if TYPE_CHECKING:
    from .client import EnvClient
    from .sync_client import SyncEnvClient

__all__ = ["Starter", "Starting", "image_starter", "provider_starter", "space_image"]

ClientT = TypeVar("ClientT", bound="EnvClient[Any, Any, Any]")

_PORT: Final = 8000
"""Where the servers in OpenEnv's images listen."""
_LABEL: Final = "org.openenv-async.version"
"""Which of our own images have."""


class Starter(Protocol):
    """Starts one server and stops it again."""

    async def start(self) -> str:
        """Start it; returns its address."""
        ...

    async def stop(self) -> None:
        """Stop it; idempotent."""
        ...


class _Ours:
    """A server of one of our own providers."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._served: Served | None = None

    async def start(self) -> str:
        """Start it; returns its address."""
        self._served = await self._provider.start()
        return self._served.url

    async def stop(self) -> None:
        """Stop it; idempotent."""
        served, self._served = self._served, None
        if served is not None:
            await served.stop()


class _Theirs:
    """A provider of OpenEnv's kind; its blocking calls run in a thread.

    Args:
        provider: Has `start_container` and `stop_container`, or `start` and `stop`.
        image: What to run, where it takes that.
        arguments: More arguments of its start.
    """

    def __init__(
        self, provider: Any, image: str | None, arguments: Mapping[str, Any]
    ) -> None:
        self._provider = provider
        self._image = image
        self._arguments = arguments
        self._is_started = False

    async def start(self) -> str:
        """Start it and wait until it is ready; returns its address."""
        return await anyio.to_thread.run_sync(self._start)

    def _start(self) -> str:
        provider = self._provider
        self._is_started = True
        try:
            if not hasattr(provider, "start_container"):
                url: str = provider.start(**self._arguments)
                provider.wait_for_ready()
                return url
            given = () if self._image is None else (self._image,)
            url = provider.start_container(*given, **self._arguments)
            provider.wait_for_ready(url)
        except BaseException:
            self._stop()
            raise
        return url

    async def stop(self) -> None:
        """Stop it; idempotent."""
        await anyio.to_thread.run_sync(self._stop)

    def _stop(self) -> None:
        if not self._is_started:
            return
        self._is_started = False
        if hasattr(self._provider, "stop_container"):
            self._provider.stop_container()
        else:
            self._provider.stop()


def provider_starter(
    provider: Any, image: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Starter:
    """A starter for a provider of ours or of OpenEnv's kind.

    Raises:
        TypeError: It is neither.
    """
    start = getattr(provider, "start", None)
    if inspect.iscoroutinefunction(start):
        return _Ours(provider)
    if not (hasattr(provider, "start_container") or callable(start)):
        raise TypeError("provider must define start_container() or start().")
    return _Theirs(provider, image, arguments or {})


def image_starter(image: str, arguments: Mapping[str, Any]) -> Starter:
    """A starter for an image, ours or one that OpenEnv's tools have built.

    Args:
        image: The image. It is not pulled.
        arguments: `env_vars` and `port` as OpenEnv takes them, and `DockerOptions`.
    """
    options: dict[str, Any] = dict(arguments)
    if "env_vars" in options:
        options["environment"] = options.pop("env_vars") or {}
    port = options.pop("port", None)
    if port is not None:
        # There it is the port of this machine.
        options["ports"] = (port, port)
        options.setdefault("connection", "tcp")
    unknown = options.keys() - DockerOptions.__annotations__.keys()
    if unknown:
        raise LocalProtocolError(
            f"expected options of DockerProvider, got {sorted(unknown)!r}"
        )
    return _Ours(_Image(image, cast(DockerOptions, options)))


class _Image:
    """Starts an image of ours, or one of OpenEnv's with its own command."""

    def __init__(self, image: str, options: DockerOptions) -> None:
        self._image = image
        self._options = options

    async def start(self) -> Served:
        """Start a container and wait until its server answers."""
        options = self._options
        if "command" not in options:
            async with Engine(options.get("engine")).connect() as engine:
                config = await engine.image_config(self._image)
            if _LABEL not in (config.get("Labels") or {}):
                # Its server knows neither our arguments nor a socket in a folder.
                foreign: DockerOptions = {
                    "connection": "tcp",
                    "port": _PORT,
                    "command": config.get("Cmd") or (),
                }
                options = cast(DockerOptions, {**foreign, **options})
        return await DockerProvider(self._image, **options).start()

    async def stop(self) -> None:
        """Each container is stopped by itself."""


def space_image(repository: str, tag: str) -> str:
    """The image of a Hugging Face Space, by its name `owner/name`."""
    domain = re.sub(r"[^a-z0-9]", "-", repository.lower())
    return f"registry.hf.space/{domain}:{tag}"


class Starting(Coroutine[Any, Any, ClientT], Generic[ClientT]):
    """A client whose server is started at the first use.

    `await` it, use it in a `with` or `async with`, take its `sync()`, or call it as if
    it were the client: the server starts then, and stops with `close()`.

    Args:
        client: Has a starter, and was not used yet.
    """

    def __init__(self, client: ClientT) -> None:
        self._client = client
        self._coroutine: Coroutine[Any, Any, ClientT] | None = None

    # A coroutine, for `asyncio.run` and the like

    def _driven(self) -> Coroutine[Any, Any, ClientT]:
        if self._coroutine is None:
            self._coroutine = self._client.connect_here()
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, ClientT]:
        return self._driven().__await__()

    def send(self, value: Any, /) -> Any:
        """Drive the coroutine."""
        return self._driven().send(value)

    def throw(self, *error: Any) -> Any:
        """Drive the coroutine."""
        return self._driven().throw(*error)

    def close(self) -> Any:
        """Close the client, or the coroutine while that is driven."""
        if self._coroutine is not None and inspect.getcoroutinestate(
            cast(Any, self._coroutine)
        ) in (inspect.CORO_SUSPENDED, inspect.CORO_CREATED):
            return self._coroutine.close()
        return self._client.close()

    # The client

    def sync(self) -> SyncEnvClient[Any, Any, Any]:
        """The blocking client, connected."""
        return self._client.sync().connect()

    def __enter__(self) -> ClientT:
        return self._client.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.__exit__(kind, error, traceback)

    async def __aenter__(self) -> ClientT:
        return await self._client.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __repr__(self) -> str:
        return f"<{type(self._client).__name__}, to be started>"
