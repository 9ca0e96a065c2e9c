"""Does what the policy of a fleet says, and tells it what came of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, final

import anyio

from ..._aio import Tasks, shielded
from ...errors import ProviderError, ServerDied
from ..base import Provider, Served
from .members import Member, Plan, ReplicaState, Ticket
from .policy import FleetPolicy
from .probe import ProbeFailed, probe
from .replica import Replica

__all__ = ["Keeper"]

_logger = logging.getLogger("openenv_async.fleet")

_DIAGNOSIS: Final = 3.0
"""Seconds for a provider to say whether a server is dead."""


@final
class Keeper:
    """Starts, checks and stops the servers of a fleet, each in a task of its own.

    So none holds up another. It works from its making until `aclose`, in the running
    event loop.

    Args:
        provider: Starts the servers.
        policy: Says what is to be done.
    """

    def __init__(self, provider: Provider, policy: FleetPolicy) -> None:
        self._provider = provider
        self._policy = policy
        self._settings = policy.settings
        self._replicas: dict[Member, Replica] = {}
        self._starts: dict[Member, anyio.CancelScope | None] = {}
        self._waiting: dict[Ticket, asyncio.Future[list[Replica]]] = {}
        self._tasks = Tasks()
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._is_over = False

    # For the fleet

    @property
    def now(self) -> float:
        """The time of the event loop."""
        return self.loop.time()

    def replicas(self, *states: ReplicaState) -> tuple[Replica, ...]:
        """The servers in these states, oldest first."""
        return tuple(
            self._replicas[member] for member in self._policy.roster.of(*states)
        )

    async def place(self, count: int, timeout: float) -> list[Replica]:
        """Wait for places; cancelling leaves nothing taken.

        Raises:
            AtCapacity: There was no room in time, or there never can be.
            ProviderError: Servers are needed that do not start.
            LocalProtocolError: The fleet was closed meanwhile.
        """
        ticket = self._policy.line.join(count, self.now, self.now + timeout)
        future: asyncio.Future[list[Replica]] = self.loop.create_future()
        self._waiting[ticket] = future
        self.turn()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception():
                # The places came in the same turn as the cancellation.
                self.release(future.result())
            self._policy.line.leave(ticket)
            self.turn()
            raise
        finally:
            del self._waiting[ticket]

    def release(self, places: Iterable[Replica]) -> None:
        """Take places back."""
        self._policy.release(place.member for place in places)
        self.turn()

    def turn(self) -> None:
        """Let the policy decide and do it; after everything that happens."""
        if self._is_over:
            return
        plan = self._policy.plan(self.now)
        self._log(plan)
        for member in plan.starts:
            self._begin(member)
        for member in plan.aborts:
            self._abort(member)
        for member in plan.stops:
            self._spawn(self._stop(self._replicas[member]), f"stop {member.id}")
        for member in plan.checks:
            self._spawn(self._check(self._replicas[member]), f"check {member.id}")
        self._answer(plan)
        self._set_timer(plan.wake)
        self._notify()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something holds, or all is over."""
        while not condition() and not self._is_over:
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop all servers, and leave those that do not stop in time."""
        self._policy.close()
        self.turn()
        with anyio.move_on_after(self._settings.stop_timeout):
            await self.until(lambda: not self._policy.roster.members)
        for member in self._policy.roster.members.values():
            _logger.warning("= replica %s was left: it does not stop", member.id)
        await self._tasks.aclose()
        self._is_over = True
        self._set_timer(math.inf)
        self._notify()

    async def _retire(self, replica: Replica) -> None:
        self._policy.retire(replica.member)
        self.turn()
        await self.until(lambda: replica.state is ReplicaState.STOPPED)

    async def _look(self, replica: Replica) -> None:
        """Find out whether a server is dead that somebody lost."""
        death = await self._ask_provider(replica)
        if death is not None:
            self._policy.died(replica.member, death, self.now)
        else:
            self._policy.suspect(replica.member, self.now)
        self.turn()

    async def _ask_provider(self, replica: Replica) -> ServerDied | None:
        try:
            with anyio.move_on_after(_DIAGNOSIS):
                return await replica.server.diagnose()
        except Exception:
            # A provider that breaks its promise must not stop the fleet.
            _logger.exception("= replica %s cannot be diagnosed", replica.id)
        return None

    # Doing what the policy says

    def _log(self, plan: Plan) -> None:
        for member, text, is_trouble in plan.transitions:
            subject = "the fleet" if member is None else f"replica {member.id}"
            level = logging.WARNING if is_trouble else logging.INFO
            _logger.log(level, "= %s %s", subject, text)

    def _answer(self, plan: Plan) -> None:
        for ticket, members in plan.grants:
            future = self._waiting[ticket]
            if future.cancelled():
                self._policy.release(members)
            else:
                future.set_result([self._replicas[member] for member in members])
        for ticket, error in plan.refusals:
            future = self._waiting[ticket]
            if not future.done():
                future.set_exception(error)

    def _set_timer(self, wake: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        is_set = not math.isinf(wake)
        self._timer = self.loop.call_at(wake, self.turn) if is_set else None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(
        self, coroutine: Coroutine[object, object, None], name: str
    ) -> asyncio.Task[None]:
        return self._tasks.spawn(coroutine, f"fleet: {name}")

    def _begin(self, member: Member) -> None:
        self._starts[member] = None
        task = self._spawn(self._start(member), f"start {member.id}")
        task.add_done_callback(lambda _: self._start_ended(member))

    async def _start(self, member: Member) -> None:
        if member not in self._starts:
            return  # aborted before it began
        server: Served | None = None
        cause: ProviderError | None = None
        # A scope and not `Task.cancel`, which breaks into what the provider shields.
        with anyio.CancelScope() as scope:
            self._starts[member] = scope
            try:
                server = await self._provider.start()
            except ProviderError as error:
                cause = error
            except Exception as error:
                # A provider that breaks its promise must not stop the fleet.
                _logger.exception("= replica %s could not be started", member.id)
                cause = ProviderError(f"could not start a server: {error!r}")
                cause.__cause__ = error
        if server is not None:
            await self._started(member, server)
        elif cause is not None:
            # From here on there is nothing to abort.
            self._starts.pop(member, None)
            self._policy.start_failed(member, cause, self.now)
            self.turn()

    async def _started(self, member: Member, server: Served) -> None:
        if member.state is not ReplicaState.STARTING:
            # The start was aborted and did not heed it.
            await shielded(server.stop(), timeout=self._settings.stop_timeout)
            return
        self._replicas[member] = Replica(member, server, self._look, self._retire)
        self._policy.started(member, server.url, self.now)
        self.turn()

    def _start_ended(self, member: Member) -> None:
        self._starts.pop(member, None)
        if member.state is ReplicaState.STOPPING and not member.url:
            # It was aborted, and now nothing of it is left.
            self._policy.stopped(member)
            self.turn()

    def _abort(self, member: Member) -> None:
        if member not in self._starts:
            self._policy.stopped(member)
        elif (scope := self._starts.pop(member)) is not None:
            scope.cancel()

    async def _stop(self, replica: Replica) -> None:
        failure: ProviderError | None = None
        try:
            await replica.server.stop()
        except ProviderError as error:
            failure = error
        except Exception as error:
            # A provider that breaks its promise must not stop the fleet.
            _logger.exception("= replica %s could not be stopped", replica.id)
            failure = ProviderError(f"could not stop a server: {error!r}")
        finally:
            self._policy.stopped(replica.member, failure)
            self._replicas.pop(replica.member, None)
            self.turn()

    async def _check(self, replica: Replica) -> None:
        member = replica.member
        try:
            report = await probe(replica.url, timeout=self._settings.health_timeout)
        except ProbeFailed as error:
            death = await self._ask_provider(replica)
            if death is None:
                self._policy.check_failed(member, str(error), self.now)
            else:
                self._policy.died(member, death, self.now)
        else:
            self._policy.reported(member, report, self.now)
        self.turn()
