"""`Fleet`: many servers of one provider, and sessions placed on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Final, final

import anyio

from ..._aio import shielded
from ...errors import LocalProtocolError
from ..base import Provider, Served
from .breaker import BreakerState
from .keeper import Keeper
from .members import ReplicaState
from .policy import FleetPolicy
from .replica import Replica
from .settings import FleetSettings, FleetSize
from .statistics import FleetStatistics

__all__ = ["Fleet"]

_logger = logging.getLogger("openenv_async.fleet")

_LAST_PATIENCE: Final = 10.0
"""Seconds beyond the stop timeout after which closing gives up."""


@final
class Fleet:
    """Many servers of one provider, and sessions placed on the least loaded of them.

    Use it as an async context manager, and give it to `EnvClient` or `EnvBatch` as
    their provider: `EchoEnv.batch(size=256, provider=fleet)`. Several clients may
    share one. Sessions go on servers that are known to live, one after the other in
    the order in which they were asked for. Servers that die are replaced, and only
    their sessions are lost. A server that hangs while it starts, answers or stops
    holds up none of the others.

    All methods belong to the event loop that opened it. The fleet stops what it
    started, and nothing else that the provider may have started.

    Args:
        provider: Starts the servers.
        replicas: How many servers, always; give this or the next two.
        min_replicas: Fewest servers.
        max_replicas: Most servers that serve. Not counted are spares, and servers
            that keep some old sessions but get no new ones.
        sessions_per_replica: Most sessions on a server. A server that allows less
            gets less.
        warm: Spare servers that are kept ready to step in.
        place_timeout: Seconds that `place` waits for room.
        settings: What seldom needs another value.

    Raises:
        LocalProtocolError: A number is out of its range.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        replicas: int | None = None,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        sessions_per_replica: int,
        warm: int = 0,
        place_timeout: float = 60.0,
        settings: FleetSettings | None = None,
    ) -> None:
        self._provider = provider
        self._size = FleetSize.of(
            replicas,
            min_replicas,
            max_replicas,
            sessions=sessions_per_replica,
            warm=warm,
        )
        self._settings = settings or FleetSettings()
        if not place_timeout >= 0:
            raise LocalProtocolError(
                f"expected place_timeout of at least 0, got {place_timeout!r}"
            )
        self._place_timeout = place_timeout
        self._policy = FleetPolicy(self._size, self._settings, 0.0)
        self._keeper: Keeper | None = None
        """Works while the fleet is open, or closes."""
        self._is_closing = False
        self._closed_at = 0.0

    # Opening and closing

    async def __aenter__(self) -> Fleet:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Start the servers, and wait for as many as should be there at least.

        It does not wait for stragglers beyond `ramp_timeout` if at least one serves.
        Cancelling it stops everything again.

        Raises:
            ProviderError: Servers cannot be started; has the last one's output.
        """
        if self._keeper is not None:
            raise LocalProtocolError("expected a fleet that is not open yet")
        now = asyncio.get_running_loop().time()
        self._policy = FleetPolicy(self._size, self._settings, now)
        self._keeper = Keeper(self._provider, self._policy)
        self._is_closing = False
        try:
            self._keeper.turn()
            await self._ramp(self._keeper)
        except BaseException:
            await self.aclose()
            raise

    async def _ramp(self, keeper: Keeper) -> None:
        policy = self._policy
        with anyio.move_on_after(self._settings.ramp_timeout):
            await keeper.until(lambda: policy.is_complete or self._is_stuck(keeper))
        if not policy.is_complete:
            # This ends: starts are bounded, and when a few have failed it is stuck.
            await keeper.until(lambda: policy.roster.sound() or self._is_stuck(keeper))
        if policy.is_complete:
            return
        serving = len(policy.roster.sound())
        if not serving:
            raise policy.line.breaker_error(keeper.now)
        _logger.warning("= opens with %s of %s servers", serving, policy.target)

    def _is_stuck(self, keeper: Keeper) -> bool:
        """Whether no server is being started because too many failed."""
        state = self._policy.breaker.state(keeper.now)
        starting = self._policy.roster.of(ReplicaState.STARTING)
        return state is not BreakerState.CLOSED and not starting

    async def aclose(self) -> None:
        """Stop all servers; idempotent, and complete when cancelled.

        Callers that wait in `place` get an error. A server that does not stop in time
        is left, with a warning.
        """
        keeper = self._keeper
        if keeper is None:
            return
        if self._is_closing:
            await keeper.until(lambda: self._keeper is not keeper)
            return
        self._is_closing = True
        timeout = self._settings.stop_timeout + _LAST_PATIENCE
        try:
            await shielded(keeper.aclose(), timeout=timeout)
        finally:
            self._closed_at = keeper.now
            self._keeper = None

    # Placing

    async def place(self, count: int) -> Sequence[Replica]:
        """Find places for sessions on servers that live, the least loaded first.

        Waits while there is no room, behind those who waited before. Cancelling it
        leaves nothing taken.

        Args:
            count: Sessions. It is all or nothing.

        Returns:
            One entry a session; those of one server follow each other.

        Raises:
            AtCapacity: There was no room in time, or there never can be; `detail` has
                the numbers.
            ProviderError: More servers are needed, but their starts fail; has the last
                one's cause, and is raised without waiting.
            LocalProtocolError: The fleet is not open.
        """
        keeper = self._open_keeper()
        if count < 1:
            raise LocalProtocolError(f"expected at least one session, got {count}")
        return await keeper.place(count, self._place_timeout)

    async def release(self, places: Sequence[Served]) -> None:
        """Give places back, one entry a session; waits for nothing.

        Places on a server that has died are given back the same way.

        Raises:
            LocalProtocolError: They are not this fleet's, or were given back before.
        """
        replicas = [place for place in places if isinstance(place, Replica)]
        if len(replicas) != len(places):
            raise LocalProtocolError(f"expected replicas of a fleet, got {places!r}")
        self._policy.release(replica.member for replica in replicas)
        if self._keeper is not None:
            self._keeper.turn()

    # Looking after servers

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The servers that are ready or drain, oldest first."""
        if self._keeper is None:
            return ()
        return self._keeper.replicas(
            ReplicaState.SPARE, ReplicaState.SERVING, ReplicaState.DRAINING
        )

    def statistics(self) -> FleetStatistics:
        """What there is and what there was, in numbers; also after closing."""
        now = self._closed_at if self._keeper is None else self._keeper.now
        return self._policy.statistics(now)

    async def drain(self, replica: Replica, *, timeout: float | None = 60.0) -> None:
        """Stop a server once its sessions are gone; another one takes its part.

        Cancelling does not call the draining off.

        Args:
            replica: Which one.
            timeout: Seconds after which it is stopped with sessions on it, which are
                lost then; None waits for them.
        """
        keeper = self._open_keeper()
        deadline = None if timeout is None else keeper.now + timeout
        self._policy.drain(replica.member, deadline)
        keeper.turn()
        await keeper.until(lambda: replica.state is ReplicaState.STOPPED)

    async def roll(self, *, timeout: float | None = 60.0) -> None:
        """Replace all servers, one after the other, each drained first.

        Args:
            timeout: For each, as in `drain`.

        Raises:
            ProviderError: Starts fail, so the rest keeps serving.
            LocalProtocolError: The fleet was closed meanwhile.
        """
        keeper = self._open_keeper()
        for replica in self.replicas:
            await keeper.until(
                lambda: (
                    self._is_closing
                    or self._policy.is_complete
                    or self._is_stuck(keeper)
                )
            )
            self._open_keeper()
            if not self._policy.is_complete:
                raise self._policy.line.breaker_error(keeper.now)
            await self.drain(replica, timeout=timeout)

    def resize(self, min_replicas: int, max_replicas: int) -> None:
        """Grow or shrink to other bounds; does not wait.

        Servers above the new bound drain: no session is lost.

        Raises:
            LocalProtocolError: The bounds are out of their range.
        """
        self._size = FleetSize(
            least=min_replicas,
            most=max_replicas,
            sessions=self._size.sessions,
            warm=self._size.warm,
        )
        if self._keeper is not None:
            self._policy.resize(self._size)
            self._keeper.turn()

    def _open_keeper(self) -> Keeper:
        keeper = self._keeper
        if keeper is None or self._is_closing:
            raise LocalProtocolError("expected an open fleet: use `async with`")
        if keeper.loop is not asyncio.get_running_loop():
            raise LocalProtocolError(
                "expected a call in the event loop that opened the fleet"
            )
        return keeper
