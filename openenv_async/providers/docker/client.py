"""The requests to an engine that we make, over aiodocker, which knows few types."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import math
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from ...errors import ProviderError

if TYPE_CHECKING:
    from aiodocker.exceptions import DockerError

__all__ = ["NETWORK", "EngineClient"]

NETWORK: Final = "openenv-async"
"""The engine's network for published ports, without a way out to the internet."""
_NETWORK_CONFIG: Final = {
    "Name": NETWORK,
    "CheckDuplicate": True,
    "Driver": "bridge",
    "Options": {
        # Packets that leave it keep their private address: no answer comes back.
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        # Containers on it do not reach each other.
        "com.docker.network.bridge.enable_icc": "false",
    },
}
_ATTEMPTS: Final = 100
_PAUSE: Final = 0.1
"""Seconds between two attempts while somebody else removes the same container."""


def _refusal() -> type[DockerError]:
    """What aiodocker raises when an engine refuses; imported when it is there."""
    from aiodocker.exceptions import DockerError  # noqa: PLC0415 (an extra)

    return DockerError


async def _pieces(content: Any) -> AsyncGenerator[str, None]:
    """Texts of a stream in which standard output and error alternate."""
    new_decoder = codecs.getincrementaldecoder("utf-8")
    decoders = {number: new_decoder("replace") for number in range(3)}
    while True:
        try:
            kind, size = struct.unpack(">BxxxL", await content.readexactly(8))
            piece = await content.readexactly(size)
        except asyncio.IncompleteReadError:
            return
        yield decoders[kind].decode(piece)


class EngineClient:
    """Requests to an engine; containers go by their names.

    Every method may raise aiodocker's and aiohttp's errors, which `Engine.connect`
    turns into ours.

    Args:
        docker: The `aiodocker.Docker` to use.
    """

    def __init__(self, docker: Any) -> None:
        self._docker = docker

    def _container(self, name: str) -> Any:
        return self._docker.containers.container(name)

    async def info(self) -> Mapping[str, Any]:
        """What the engine says of itself."""
        return dict(await self._docker.system.info())

    async def image_user(self, image: str) -> str:
        """The user that an image runs as; empty for root."""
        found = await self._docker.images.inspect(image)
        return str(found["Config"].get("User") or "")

    async def image_config(self, image: str) -> Mapping[str, Any]:
        """What an image says of itself: `Labels`, `Cmd`, `Entrypoint` and more."""
        found = await self._docker.images.inspect(image)
        return dict(found["Config"])

    # Containers

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Create a container."""
        await self._docker.containers.create(config, name=name)

    async def start(self, name: str) -> None:
        """Start a container."""
        await self._container(name).start()

    async def inspect(self, name: str) -> Mapping[str, Any] | None:
        """What the engine knows of a container; None if there is none."""
        try:
            return dict(await self._container(name).show())
        except _refusal() as error:
            if error.status != 404:
                raise
            return None

    async def find(self, label: str) -> Sequence[Mapping[str, Any]]:
        """The containers with a label, those that have ended too."""
        filters = json.dumps({"label": [label]})
        rows: list[object] = await self._docker.containers.list(
            all=True, filters=filters
        )
        # The attribute has no public name, and asking for each one takes a request.
        return [vars(row)["_container"] for row in rows]

    async def stop(self, name: str, patience: float) -> None:
        """Ask a container to end, and kill it when that takes too long."""
        await self._container(name).stop(t=math.ceil(patience))

    async def remove(self, name: str) -> None:
        """Kill a container if it runs, and remove it with its volumes; idempotent.

        Raises:
            ProviderError: It takes the engine too long.
        """
        for _ in range(_ATTEMPTS):
            try:
                await self._container(name).delete(force=True, v=True)
            except _refusal() as error:
                if error.status == 404:
                    return
                if error.status != 409:
                    raise
                # Somebody else is at it; once it is gone the engine says 404.
                await anyio.sleep(_PAUSE)
            else:
                return
        raise ProviderError(
            f"expected the engine to remove {name!r} within "
            f"{_ATTEMPTS * _PAUSE:.0f} s, got no end of it",
            retryable=True,
        )

    async def log(
        self, name: str, *, follow: bool, tail: int | None
    ) -> AsyncGenerator[str, None]:
        """What a container printed, in pieces of any size."""
        options = {
            "stdout": "1",
            "stderr": "1",
            "follow": "1" if follow else "0",
            "tail": "all" if tail is None else str(tail),
        }
        # aiodocker's own method reads all at once, or leaves the connection open when
        # it is not read to the end.
        async with self._docker._query(  # noqa: SLF001 (see above)
            f"containers/{name}/logs", params=options, timeout=None
        ) as response:
            try:
                async for piece in _pieces(response.content):
                    yield piece
            finally:
                response.close()

    async def sample(self, name: str) -> object:
        """What a container uses, as the engine says it."""
        # aiodocker's own method waits a second for a second sample.
        return await self._docker._query_json(  # noqa: SLF001 (see above)
            f"containers/{name}/stats", params={"stream": "0", "one-shot": "1"}
        )

    # The network

    async def make_network(self) -> None:
        """Make the network of published ports, unless it is there."""
        with contextlib.suppress(_refusal()):
            await self._docker.networks.get(NETWORK)
            return
        try:
            await self._docker.networks.create(_NETWORK_CONFIG)
        except _refusal() as error:
            if error.status != 409:  # another process was faster
                raise

    async def remove_network(self) -> None:
        """Remove the network of published ports, unless it is used or not there."""
        with contextlib.suppress(_refusal()):
            await (await self._docker.networks.get(NETWORK)).delete()
