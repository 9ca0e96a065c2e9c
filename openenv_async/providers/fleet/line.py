"""The line of those who wait for places: first come, first served."""

from __future__ import annotations

from collections import deque
from typing import Final, final

from ...errors import AtCapacity, LocalProtocolError, OpenEnvError, ProviderError
from .breaker import Breaker, BreakerState
from .members import Member, Plan, ReplicaState, Ticket, spread
from .roster import Roster

__all__ = ["WaitingLine"]

_HOLD: Final = 0.1
"""Seconds that a hand-out waits for a check before it passes the server over."""


@final
class WaitingLine:
    """Gives places out, all or nothing; nobody is overtaken.

    Args:
        roster: The servers.
        breaker: Whether more of them can come.
    """

    def __init__(self, roster: Roster, breaker: Breaker) -> None:
        self._roster = roster
        self._breaker = breaker
        self.tickets: deque[Ticket] = deque()

    @property
    def sessions(self) -> int:
        """How many sessions are waited for."""
        return sum(ticket.count for ticket in self.tickets)

    def join(self, count: int, now: float, deadline: float) -> Ticket:
        """Queue up.

        Raises:
            AtCapacity: There can never be room for so many.
        """
        roster = self._roster
        most = roster.size.most * roster.sessions_each
        if count > most:
            roster.ledger.refused += 1
            raise self._at_capacity(
                f"expected at most {most} sessions on {roster.size.most} servers, got "
                f"{count}",
                retryable=False,
            )
        ticket = Ticket(count, now, deadline)
        self.tickets.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up waiting; one who was served already is not in the line."""
        if ticket in self.tickets:
            self.tickets.remove(ticket)

    def serve(self, now: float, plan: Plan) -> None:
        """Give out what there is, after a look at who is alive."""
        roster = self._roster
        while self.tickets:
            ticket = self.tickets[0]
            candidates = [
                member
                for member in roster.sound()
                if roster.room(member) and not _is_mute(member, now)
            ]
            if sum(map(roster.room, candidates)) < ticket.count:
                return
            places = spread(ticket.count, candidates, roster.size.sessions)
            if not self._are_alive(set(places), ticket, now, plan):
                return
            self.tickets.popleft()
            for member in places:
                member.placed += 1
            roster.ledger.placed += ticket.count
            roster.ledger.place_seconds.append(now - ticket.asked)
            plan.grants.append((ticket, places))

    def _are_alive(
        self, members: set[Member], ticket: Ticket, now: float, plan: Plan
    ) -> bool:
        """Whether all are known to live; if not, they are asked."""
        oldest = now - self._roster.settings.freshness
        doubtful = [
            member
            for member in members
            if member.last_good <= oldest and member.good_since < ticket.asked
        ]
        for member in doubtful:
            if member.checking is None:
                self._roster.check(member, now, plan)
            assert member.checking is not None
            plan.wake_at(member.checking + _HOLD)
        return not doubtful

    def refuse(self, now: float, plan: Plan) -> None:
        """End the wait of those whose time is up, or for whom nothing can come."""
        roster = self._roster
        is_open = self._breaker.state(now) is BreakerState.OPEN
        running = roster.of(
            ReplicaState.STARTING, ReplicaState.SPARE, ReplicaState.SERVING
        )
        places = roster.sessions_each * len(running)
        for ticket in list(self.tickets):
            if now >= ticket.deadline:
                error: OpenEnvError = self._too_late(ticket, now)
            elif is_open and ticket.count > places:
                error = self.breaker_error(now)
            else:
                plan.wake_at(ticket.deadline)
                continue
            self.tickets.remove(ticket)
            roster.ledger.refused += 1
            plan.refusals.append((ticket, error))

    def close(self, plan: Plan) -> None:
        """End everybody's wait."""
        while self.tickets:
            error = LocalProtocolError("the fleet was closed during the call")
            plan.refusals.append((self.tickets.popleft(), error))

    # Errors with numbers

    def breaker_error(self, now: float) -> ProviderError:
        """What to tell whoever needs a server while none is started."""
        breaker = self._breaker
        pause, cause = max(0.0, breaker.until - now), breaker.cause
        error = ProviderError(
            f"expected a server to start, but {breaker.failures} starts failed in a "
            f"row and the next is tried in {pause:.3g} s; the last said: "
            f"{'nothing' if cause is None else cause.message}",
            retryable=True,
            detail={
                "failures": breaker.failures,
                "retry_after": pause,
                "log": "" if cause is None else cause.log,
            },
        )
        error.__cause__ = cause
        return error

    def _too_late(self, ticket: Ticket, now: float) -> AtCapacity:
        roster = self._roster
        serving = roster.of(ReplicaState.SERVING)
        taken = sum(member.load for member in serving)
        error = self._at_capacity(
            f"expected room for {ticket.count} sessions within "
            f"{now - ticket.asked:.3g} s, got none: {taken} of "
            f"{taken + sum(map(roster.room, serving))} places are taken on "
            f"{len(serving)} servers of at most {roster.size.most}, and "
            f"{len(roster.of(ReplicaState.STARTING))} are starting",
            retryable=True,
        )
        error.__cause__ = self._breaker.cause
        return error

    def _at_capacity(self, text: str, *, retryable: bool) -> AtCapacity:
        roster = self._roster
        serving = roster.of(ReplicaState.SERVING)
        return AtCapacity(
            text,
            retryable=retryable,
            detail={
                "sessions": sum(member.load for member in serving),
                "max_sessions": roster.size.most * roster.sessions_each,
                "replicas": len(serving),
                "max_replicas": roster.size.most,
                "starting": len(roster.of(ReplicaState.STARTING)),
                "waiting": len(self.tickets),
            },
        )


def _is_mute(member: Member, now: float) -> bool:
    """Whether it takes long to answer a check, so that nobody should be sent there."""
    return member.checking is not None and now >= member.checking + _HOLD
