"""One container with a server in it: start, watch, stop, remove."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, final

import anyio

from ..._aio import shielded
from ...errors import ProviderError, ServerDied
from .client import NETWORK
from .engine import Engine
from .lifeline import Lifeline
from .options import ContainerOptions
from .orphans import Terms, labels_of
from .posture import (
    Route,
    container_config,
    make_folder,
    plan_route,
    remove_folder,
    seal_folder,
)
from .statistics import ContainerStatistics, statistics_of

__all__ = ["Container"]

_logger = logging.getLogger("openenv_async.providers")

_LOG_LINES: Final = 60
"""Lines of its log that an error shows."""
_LOG_BYTES: Final = 8192
_POLL: Final = (0.004, 0.02)
"""Seconds between two questions whether it answers yet: first, and at most. A server
is ready after some tenths of a second, and half of the last pause is lost."""
_ASK: Final = 0.1
"""Seconds between two questions why it does not answer any more."""
_LOOK: Final = 0.25
"""Seconds between two looks, while it starts, whether it has died."""
_DYING: Final = 1.0
"""Seconds in which the engine may find out that a server has gone."""
_ENGINE_PATIENCE: Final = 60.0
"""Seconds for the engine to create, start or remove, beside what the server takes."""
_ATTEMPTS: Final = 6
"""Starts before a port counts as not to be had."""
_PAUSE: Final = 0.05
_COLLISIONS: Final = (
    "port is already allocated",
    "address already in use",
    "all ports are allocated",
)
"""What engines say of a port, and of a range of ports, that somebody else has."""


@final
class Container:
    """A container that serves. Made by `DockerProvider.start`.

    It goes with `stop()`, and with this process, however that ends.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        lifeline: Lifeline,
        options: ContainerOptions,
        terms: Terms,
        stopped: Callable[[Container], None],
    ) -> None:
        self._engine = engine
        self._lifeline = lifeline
        self._options = options
        self._terms = terms
        self._stopped = stopped
        # Minted here, so that it can be removed before the engine has answered.
        self._name = f"openenv-{secrets.token_hex(8)}"
        self._route: Route | None = None
        self._url = ""
        self._is_asked_for = False
        self._is_launched = False
        self._is_healthy = False
        self._is_stopped = False
        self._lock = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Container {self._name} of {self._options.image} at {self._url!r}>"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._url

    @property
    def name(self) -> str:
        """Its name in the engine."""
        return self._name

    # Starting

    async def launch(self) -> None:
        """Create and start it, then wait until its server answers.

        Cancelling takes effect once the engine has answered; `stop` comes next then.
        """
        # The engine goes on with what it was asked for, and would create a container
        # after we had removed it.
        patience = _ENGINE_PATIENCE
        await shielded(self._launch(), timeout=patience)
        if not self._is_launched:
            raise ProviderError(
                f"expected the engine to start a container within {patience} s, got "
                "no answer",
                retryable=True,
            )
        await self._wait_healthy()
        assert self._route is not None
        await anyio.to_thread.run_sync(seal_folder, self._route)
        self._is_healthy = True
        _logger.info("= %r serves", self)

    async def _launch(self) -> None:
        # Whoever stops it meanwhile waits until there is something to remove.
        async with self._lock:
            self._check_wanted()
            await self._create()
            self._is_launched = True

    def _check_wanted(self) -> None:
        if self._is_stopped:
            raise ProviderError("the container was stopped while it started")

    async def _create(self) -> None:
        options = self._options
        facts = await self._engine.facts()
        async with self._engine.connect() as client:
            user = await client.image_user(options.image)
            self._route = route = await anyio.to_thread.run_sync(
                plan_route, options, facts, user
            )
            folder = "" if route.folder is None else str(route.folder)
            labels = await anyio.to_thread.run_sync(
                labels_of, self._terms, self._name, folder
            )
            config = container_config(options, facts, route, labels)
            if route.network == NETWORK:
                await client.make_network()
            # From here on, whatever happens, somebody removes what there is.
            self._is_asked_for = True
            await anyio.to_thread.run_sync(
                self._lifeline.expect, self._name, route.folder
            )
            if route.folder is not None:
                await anyio.to_thread.run_sync(make_folder, route, facts, user)
            await client.create(self._name, config)
            await anyio.to_thread.run_sync(self._lifeline.confirm, self._name)
        await self._start()
        self._url = await self._address(route)

    async def _start(self) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                async with self._engine.connect() as client:
                    await client.start(self._name)
            except ProviderError as error:
                collided = any(text in error.message for text in _COLLISIONS)
                if f"network {NETWORK} not found" in error.message:
                    # Somebody has just cleaned up.
                    async with self._engine.connect() as client:
                        await client.make_network()
                elif not collided:
                    raise
                elif attempt == _ATTEMPTS - 1:
                    raise self._no_port(error) from error
                await anyio.sleep(_PAUSE * 2**attempt)
            else:
                return

    def _no_port(self, error: Exception) -> ProviderError:
        ports = self._options.ports or "any"
        return ProviderError(
            f"expected a free port to publish at {self._options.publish}, of ports="
            f"{ports!r}, got none: {error}",
            retryable=True,
        )

    async def _address(self, route: Route) -> str:
        if route.folder is not None:
            return f"ws+unix://{route.socket}"
        port = str(self._options.port)
        async with self._engine.connect() as client:
            found = await client.inspect(self._name)
        # No port if it is dead already, or shares the network of the machine.
        if found and (ports := found["NetworkSettings"]["Ports"].get(f"{port}/tcp")):
            port = ports[0]["HostPort"]
        return f"ws://{_bracketed(self._options.publish)}:{port}"

    async def _wait_healthy(self) -> None:
        pause, longest = _POLL
        next_look = 0.0
        with anyio.move_on_after(self._options.start_timeout):
            while not await self._answers():
                if time.monotonic() >= next_look:
                    await self._check_alive()
                    next_look = time.monotonic() + _LOOK
                await anyio.sleep(pause)
                pause = min(pause * 1.1, longest)
            return
        raise ProviderError(
            f"expected a server of {self._options.image!r} within "
            f"{self._options.start_timeout} s, got no answer; its last output:",
            detail={"log": await self._last_log()},
        )

    async def _check_alive(self) -> None:
        self._check_wanted()
        died = await self._examine()
        if died is not None:
            raise died

    async def _answers(self) -> bool:
        """Whether its server answers at `/health`."""
        try:
            reader, writer = await self._dial()
        except OSError:
            return False
        try:
            writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status = await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
        return status.split()[1:2] == [b"200"]

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._route is not None
        if self._route.folder is not None:
            return await asyncio.open_unix_connection(str(self._route.socket))
        host, _, port = self._url.removeprefix("ws://").rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))

    # Watching

    async def diagnose(self) -> ServerDied | None:
        """Tell how it ended, with its last output; None while it serves.

        None too when the engine does not say. Safe to cancel.
        """
        if not self._is_launched or self._is_stopped:
            return None
        with anyio.move_on_after(_DYING):
            try:
                # The connection may end before the engine has noticed.
                while (died := await self._examine()) is None:
                    if await self._answers():
                        return None
                    await anyio.sleep(_ASK)
            except ProviderError as error:
                _logger.warning("cannot tell how %r is: %s", self, error)
                return None
            return died
        return None

    async def _examine(self) -> ServerDied | None:
        async with self._engine.connect() as client:
            found = await client.inspect(self._name)
        if found is None:
            return ServerDied(
                f"somebody removed the container of {self._options.image!r}"
            )
        state: dict[str, Any] = found["State"]
        if state["Running"] or state["Status"] == "created":
            return None
        return self._obituary(state, await self._last_log())

    def _obituary(self, state: dict[str, Any], log: str) -> ServerDied:
        code = int(state["ExitCode"])
        # Also said of one that lives on after the kernel has ended a child of its.
        oom = bool(state["OOMKilled"]) and code == 128 + signal.SIGKILL
        # As a shell would: 128 and the signal's number.
        number = -(code - 128) if 128 < code < 128 + signal.NSIG else code
        how = f"ended with exit status {code}"
        if number < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-number).name}"
        if oom:
            how += f", out of memory (its limit is {self._options.memory!r})"
        if state.get("Error"):
            how += f": {state['Error']}"
        detail = {"log": log, "exit_code": number, "oom_killed": oom}
        return ServerDied(
            f"the container of {self._options.image!r} {how}; its last output:",
            detail=detail,
        )

    async def logs(
        self, *, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[str, None]:
        """Iterate over the lines of its output, without their line ends.

        There as long as the container is: also after its death, until `stop()`. Close
        the iterator, as `contextlib.aclosing` does, to end the stream early.

        Args:
            follow: Go on with what it prints, until it ends.
            tail: Begin with this many last lines; None begins with the first one.

        Raises:
            ProviderError: The engine did not answer, or the container is gone.
        """
        async with (
            self._engine.connect() as client,
            contextlib.aclosing(
                client.log(self._name, follow=follow, tail=tail)
            ) as pieces,
            contextlib.aclosing(_lines(pieces)) as lines,
        ):
            async for line in lines:
                yield line

    async def _last_log(self) -> str:
        try:
            async with contextlib.aclosing(self.logs(tail=_LOG_LINES)) as lines:
                return "\n".join([line async for line in lines])[-_LOG_BYTES:]
        except ProviderError as error:
            return f"(not to be had: {error})"

    async def stats(self) -> ContainerStatistics:
        """Tell what it uses; answers at once.

        Raises:
            ProviderError: The engine did not answer, or the container is gone.
        """
        async with self._engine.connect() as client:
            sample = await client.sample(self._name)
        return statistics_of(sample)

    # Stopping

    async def stop(self) -> None:
        """End the server, gently if it lets us, and remove container and folder.

        Idempotent. Cancelling it does not keep it from going on to the end.

        Raises:
            ProviderError: The engine could not; call it again, or leave it to the end
                of this process.
        """
        patience = self._options.stop_timeout + _ENGINE_PATIENCE
        await shielded(self._stop(), timeout=patience)
        if not self._is_stopped:
            raise ProviderError(
                f"expected the engine to remove {self._name!r} within {patience} s, "
                "got no answer",
                retryable=True,
            )

    async def _stop(self) -> None:
        async with self._lock:
            if self._is_stopped:
                return
            if self._is_asked_for:
                await self._remove()
                await anyio.to_thread.run_sync(self._lifeline.release, self._name)
            if self._route is not None and self._route.folder is not None:
                await anyio.to_thread.run_sync(remove_folder, str(self._route.folder))
            self._is_stopped = True
            self._stopped(self)
            _logger.info("= %r is removed", self)

    async def _remove(self) -> None:
        # One that never served has nothing to finish, and may not yet listen to
        # signals.
        if self._is_healthy:
            try:
                async with self._engine.connect() as client:
                    await client.stop(self._name, self._options.stop_timeout)
            except ProviderError as error:
                # Removing it kills it, or says why not.
                _logger.debug("could not stop %r: %s", self, error)
        async with self._engine.connect() as client:
            await client.remove(self._name)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _lines(pieces: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """Lines of a text that comes in pieces of any size."""
    rest = ""
    async for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
    if rest:
        yield rest
