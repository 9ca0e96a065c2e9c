"""Starts containers of an image, as many as are asked for."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from typing import Final, Unpack, final

import anyio

from ...errors import ProviderError
from .container import Container
from .engine import Engine
from .identity import default_name
from .lifeline import lifeline_to
from .options import ContainerOptions, DockerOptions
from .orphans import Found, Removal, Terms, find_containers, remove_orphans

__all__ = ["DockerProvider"]

_logger = logging.getLogger("openenv_async.providers")

_SWEEP_PATIENCE: Final = 5.0
"""Seconds that the first start may wait for what others left to be removed."""


@final
class DockerProvider:
    """Starts containers of an image that serves environments.

    What runs in a container can do little: it has no capabilities and gains none, only
    `/tmp` is writable, memory, processors and processes are limited, it is not root,
    and it has no network: the server is reached by a Unix socket in a mounted folder.
    Where the engine is not on this machine (or is a virtual machine on it), it is
    reached by a port on the loopback instead. Each option that relaxes this says so by
    its name, see `DockerOptions`.

    Containers go with `stop()`, and with this process, however it ends: a small process
    beside it removes them when this one is gone, by SIGTERM or SIGKILL too. What is
    left after all, because both were killed, is removed by the next first `start()` of
    any provider on this machine, or by `openenv-async cleanup`.

    Args:
        image: The image. It is not pulled.
        options: See `DockerOptions`.

    Raises:
        ProviderError: An option cannot be right.
    """

    def __init__(self, image: str, **options: Unpack[DockerOptions]) -> None:
        self._options = ContainerOptions(image=image, **options)
        self._engine = Engine(self._options.engine)
        self._run = self._options.run or secrets.token_hex(8)
        self._containers: list[Container] = []
        self._is_swept = False

    @property
    def containers(self) -> tuple[Container, ...]:
        """The containers that were started and not stopped, oldest first."""
        return tuple(self._containers)

    @property
    def run(self) -> str:
        """The label of what this provider starts."""
        return self._run

    async def start(self) -> Container:
        """Start a container and wait until its server answers.

        The first start removes what owners that are gone have left, at the same time.
        Cancelling leaves nothing behind.

        Raises:
            ProviderError: The engine could not, or the server died (`ServerDied`) or
                did not answer in time; shows the last lines of its output.
        """
        if self._is_swept:
            return await self._start()
        self._is_swept = True
        # A task group would wrap the error, whatever it is.
        result: Container | Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._sweep)
            try:
                result = await self._start()
            except Exception as error:  # noqa: BLE001 (raised below)
                group.cancel_scope.cancel()
                result = error
        if isinstance(result, Exception):
            raise result
        assert result is not None
        return result

    async def _start(self) -> Container:
        facts = await self._engine.facts()
        certificates = None
        if os.environ.get("DOCKER_TLS_VERIFY") == "1":
            certificates = os.environ.get("DOCKER_CERT_PATH")
        owner = self._options.owner
        if owner is None:
            owner = await anyio.to_thread.run_sync(default_name)
        container = Container(
            engine=self._engine,
            lifeline=lifeline_to(facts.url, certificates),
            options=self._options,
            terms=Terms(
                owner=owner,
                run=self._run,
                # A command that is not ours ends when it likes.
                lease=0.0
                if self._options.command is not None
                else self._options.idle_timeout,
            ),
            stopped=self._containers.remove,
        )
        self._containers.append(container)
        try:
            await container.launch()
        except BaseException:
            await self._discard(container)
            raise
        return container

    async def _discard(self, container: Container) -> None:
        """Remove one that did not start; what kept it from starting matters more."""
        try:
            await container.stop()
        except ProviderError as error:
            _logger.warning("could not remove %r: %s", container, error)

    async def _sweep(self) -> None:
        with anyio.move_on_after(_SWEEP_PATIENCE):
            try:
                removals = await remove_orphans(self._engine)
            except ProviderError as error:
                # The start itself will say the same.
                _logger.debug("could not look for what others left: %s", error)
                return
            for removal in removals:
                name, reason = removal.container.name, removal.reason
                if removal.is_removed:
                    _logger.info("= %s is removed: %s", name, reason)
                else:
                    _logger.warning("could not remove %s: %s", name, removal.error)

    async def stop(self) -> None:
        """Stop and remove all that it started; idempotent, complete when cancelled.

        Raises:
            ProviderError: The engine could not remove all.
        """
        failures: list[ProviderError] = []

        async def stop(container: Container) -> None:
            try:
                await container.stop()
            except ProviderError as error:
                failures.append(error)

        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for container in self.containers:
                    group.start_soon(stop, container)
        if failures:
            raise failures[0]

    async def cleanup(self, *, dry_run: bool = False) -> Sequence[Removal]:
        """Remove containers whose owner is gone, whoever it was, and no others.

        Args:
            dry_run: Only say which, and why.

        Returns:
            What was removed or could not be, with the reasons.

        Raises:
            ProviderError: The engine did not answer.
        """
        return await remove_orphans(self._engine, dry_run=dry_run)

    async def list(self) -> Sequence[Found]:
        """All containers that this package started in the engine, oldest first.

        Raises:
            ProviderError: The engine did not answer.
        """
        async with self._engine.connect() as client:
            return await find_containers(client)
