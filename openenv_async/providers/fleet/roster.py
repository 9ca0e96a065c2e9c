"""The servers of a fleet: their states, and every change between them."""

from __future__ import annotations

import math
from typing import final

from ...errors import ServerDied
from .ledger import Ledger
from .members import HealthReport, Member, Plan, ReplicaState, Transition
from .settings import FleetSettings, FleetSize

__all__ = ["Roster"]

_SERVING = ReplicaState.SERVING
_OVER = (ReplicaState.STOPPING, ReplicaState.STOPPED)


@final
class Roster:
    """Knows the servers and changes their states; decides nothing.

    What a change asks for is collected until `fill` hands it out with a plan.

    Args:
        size: How many servers, and how many sessions on each.
        settings: Everything else.
    """

    def __init__(self, size: FleetSize, settings: FleetSettings) -> None:
        self.size = size
        self.settings = settings
        self.members: dict[int, Member] = {}
        """All that are not stopped, oldest first."""
        self.ledger = Ledger()
        self._last_id = 0
        self._stops: list[Member] = []
        self._aborts: list[Member] = []
        self._transitions: list[Transition] = []

    # Reading

    def of(self, *states: ReplicaState) -> list[Member]:
        """The members in these states, oldest first."""
        return [member for member in self.members.values() if member.state in states]

    def sound(self) -> list[Member]:
        """The members that serve and whose last check was good."""
        return [
            member
            for member in self.members.values()
            if member.state is _SERVING and not member.failures
        ]

    def room(self, member: Member) -> int:
        """Sessions that a member has room for."""
        return member.room(self.size.sessions)

    @property
    def sessions_each(self) -> int:
        """Sessions on a server: what was asked for, or what servers allow if less."""
        limits = (member.limit for member in self.members.values())
        return int(min(self.size.sessions, *limits, math.inf))

    # Changing

    def add(self, now: float) -> Member:
        """Begin the start of a server."""
        self._last_id += 1
        deadline = now + self.settings.start_timeout
        member = Member(id=self._last_id, began=now, deadline=deadline)
        self.members[member.id] = member
        self.ledger.starts += 1
        return member

    def ready(self, member: Member, state: ReplicaState, now: float) -> None:
        """It has started, and serves or is a spare."""
        seconds = now - member.began
        self.ledger.start_seconds.append(seconds)
        self.move(member, state, f"after {seconds:.3f} s at {member.url}")

    def move(self, member: Member, state: ReplicaState, text: str = "") -> None:
        """Let it serve, or be a spare."""
        member.state = state
        member.deadline = None
        member.may_return = False
        role = "serves" if state is _SERVING else "is a spare"
        self.note(member, f"{role} {text}".rstrip())

    def drain(self, member: Member, text: str, *, may_return: bool) -> None:
        """Give it no new sessions."""
        member.state = ReplicaState.DRAINING
        member.deadline = None
        member.may_return = may_return
        self.note(member, f"{text}, {member.placed} sessions are on it")

    def give_up(self, member: Member, text: str) -> None:
        """Stop it because it is not wanted."""
        if member.state is not ReplicaState.STARTING:
            self.ledger.drained += 1
        self.note(member, f"{text}; stops")
        self.end(member, self.death(member, text, "stopped by the fleet"))

    def end(self, member: Member, death: ServerDied) -> None:
        """Stop it, or its start; its sessions are told why."""
        member.death = death
        member.state = ReplicaState.STOPPING
        member.deadline = None
        (self._stops if member.url else self._aborts).append(member)

    def remove(self, member: Member) -> None:
        """It is gone."""
        member.state = ReplicaState.STOPPED
        self.members.pop(member.id, None)

    def learn(self, member: Member, report: HealthReport) -> None:
        """Take in what it says about itself."""
        if report.sessions is not None:
            # Places may have been taken or given back while the answer was under way.
            known = max(member.placed, member.placed_at_check)
            member.foreign = max(0, report.sessions - known)
        if report.max_sessions is not None and report.max_sessions > 0:
            if report.max_sessions < min(self.size.sessions, member.limit):
                limits = f"{report.max_sessions} of {self.size.sessions} sessions"
                self.trouble(member, f"allows only {limits}")
            member.limit = report.max_sessions
        if report.incarnation is not None:
            if member.incarnation not in (None, report.incarnation):
                self.ledger.restarts += 1
                lost = f"its {member.placed} sessions are lost"
                self.trouble(member, f"was restarted: {lost}")
            member.incarnation = report.incarnation

    def check(self, member: Member, now: float, plan: Plan) -> None:
        """Ask for its health."""
        member.checking = now
        member.placed_at_check = member.placed
        plan.checks.append(member)

    # Telling

    def note(self, member: Member | None, text: str) -> None:
        """Tell of a change; of the whole fleet without a member."""
        self._transitions.append(Transition(member, text))

    def trouble(self, member: Member | None, text: str) -> None:
        """Tell of one that somebody may have to look at."""
        self._transitions.append(Transition(member, text, is_trouble=True))

    @staticmethod
    def is_over(member: Member) -> bool:
        """Whether it is being stopped, or gone."""
        return member.state in _OVER

    @staticmethod
    def death(member: Member, text: str, cause: str) -> ServerDied:
        """Word why its sessions are gone."""
        where = f"replica {member.id}" + (f" at {member.url}" if member.url else "")
        return ServerDied(f"{where}: {text}", detail={"cause": cause})

    def fill(self, plan: Plan, now: float) -> None:
        """Hand out what the changes since the last time ask for."""
        for member in self._stops:
            member.deadline = now + self.settings.stop_timeout
        plan.stops, self._stops = self._stops, []
        plan.aborts, self._aborts = self._aborts, []
        plan.transitions, self._transitions = self._transitions, []
