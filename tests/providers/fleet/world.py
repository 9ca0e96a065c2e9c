"""A world of servers for a fleet's policy, in which time passes when a test says so."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, Literal

from openenv_async import ProviderError
from openenv_async.providers.fleet.members import (
    HealthReport,
    Member,
    Plan,
    ReplicaState,
    Ticket,
)
from openenv_async.providers.fleet.policy import FleetPolicy
from openenv_async.providers.fleet.settings import FleetSettings, FleetSize

__all__ = ["World", "ramped"]

START_SECONDS = 0.5
CHECK_SECONDS = 0.002
STOP_SECONDS = 0.1


class World:
    """Does what a policy says, with servers that behave as a test wants.

    Args:
        least: Fewest servers.
        most: Most servers; by default as many.
        sessions: On each.
        warm: Spares.
        settings: Fields of `FleetSettings`.
    """

    def __init__(
        self,
        least: int = 1,
        most: int | None = None,
        *,
        sessions: int = 4,
        warm: int = 0,
        **settings: Any,
    ) -> None:
        self.size = FleetSize(
            least=least, most=most or max(1, least), sessions=sessions, warm=warm
        )
        self.settings = FleetSettings(**settings)
        self.policy = FleetPolicy(self.size, self.settings, 0.0)
        self.now = 0.0
        self.starting: Literal["well", "badly", "never"] = "well"
        """How servers start."""
        self.stopping: Literal["well", "badly", "never"] = "well"
        self.ill: set[Member] = set()
        """Those whose checks fail."""
        self.mute: set[Member] = set()
        """Those whose checks are never answered."""
        self.report: Callable[[Member], HealthReport] = lambda member: HealthReport(
            sessions=member.placed
        )
        self.starts: list[float] = []
        """When servers were started."""
        self.most_starting = 0
        self.checked: list[Member] = []
        self.texts: list[str] = []
        self.granted: dict[Ticket, list[Member]] = {}
        self.refused: dict[Ticket, Exception] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()

    # What a test does

    def place(self, count: int = 1, timeout: float = 60.0) -> Ticket:
        """Ask for places; see `granted` and `refused`."""
        ticket = self.policy.line.join(count, self.now, self.now + timeout)
        self.turn()
        return ticket

    def placed(self, count: int = 1) -> list[Member]:
        """Get places that must be there soon."""
        ticket = self.place(count)
        self.run(0.05)
        return self.granted[ticket]

    def release(self, members: list[Member]) -> None:
        """Give places back."""
        self.policy.release(members)
        self.turn()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        for _ in range(20_000):
            wake = self.turn()
            if self._events:
                wake = min(wake, self._events[0][0])
            if wake > end:
                self.now = end
                self.turn()
                return
            self.now = max(self.now, wake)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
        raise AssertionError("the policy asks for one turn after the other")

    def turn(self) -> float:
        """Do what the policy says now; returns when it wants to be asked again."""
        plan = self.policy.plan(self.now)
        for member in plan.starts:
            self._start(member)
        for member in plan.aborts:
            self.policy.stopped(member)
        for member in plan.stops:
            self._stop(member)
        for member in plan.checks:
            self._check(member)
        self.most_starting = max(self.most_starting, len(self.of("starting")))
        self._note(plan)
        return plan.wake

    def of(self, *states: str) -> list[Member]:
        """The members in these states."""
        return self.policy.roster.of(*map(ReplicaState, states))

    @property
    def serving(self) -> list[Member]:
        """The members that serve."""
        return self.of("serving")

    def loads(self) -> list[int]:
        """Sessions on those that serve."""
        return [member.placed for member in self.serving]

    # What the world does

    def _start(self, member: Member) -> None:
        self.starts.append(self.now)

        def started() -> None:
            self.policy.started(member, f"ws://server-{member.id}", self.now)

        def failed() -> None:
            cause = ProviderError("out of luck", detail={"log": "last words"})
            self.policy.start_failed(member, cause, self.now)

        if self.starting != "never":
            self._after(START_SECONDS, started if self.starting == "well" else failed)

    def _check(self, member: Member) -> None:
        self.checked.append(member)

        def answered() -> None:
            if member in self.ill:
                self.policy.check_failed(member, "no answer", self.now)
            else:
                self.policy.reported(member, self.report(member), self.now)

        if member not in self.mute:
            self._after(CHECK_SECONDS, answered)

    def _stop(self, member: Member) -> None:
        error = ProviderError("stuck") if self.stopping == "badly" else None
        if self.stopping != "never":
            self._after(STOP_SECONDS, lambda: self.policy.stopped(member, error))

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._serial), event))

    def _note(self, plan: Plan) -> None:
        self.granted.update(plan.grants)
        self.refused.update(plan.refusals)
        self.texts += [text for _, text, _ in plan.transitions]


def ramped(
    least: int,
    most: int | None = None,
    *,
    sessions: int = 4,
    warm: int = 0,
    **settings: float,
) -> World:
    """A world whose servers have started."""
    world = World(least, most, sessions=sessions, warm=warm, **settings)
    world.run(10)
    return world
