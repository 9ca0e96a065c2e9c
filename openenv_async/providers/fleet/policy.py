"""What a fleet decides, as a function of what happened and of the time.

Nothing here waits, reads a clock or talks to a server: `FleetPolicy` is told what
happened, and `plan` says what to do about it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, final

from ...errors import LocalProtocolError, ProviderError, ServerDied
from .breaker import Breaker, BreakerState, TokenBucket
from .demand import DemandWindow
from .ledger import cause_of
from .line import WaitingLine
from .members import HealthReport, Member, Plan, ReplicaState
from .roster import Roster
from .settings import FleetSettings, FleetSize
from .statistics import FleetStatistics, Percentiles, ReplicaStatistics

__all__ = ["FleetPolicy"]

_RECHECK: Final = 1.0
"""Seconds after a failed check until the next one, at most."""
_FIRST_RECHECK: Final = 0.05
"""The same while a server starts."""

_STARTING = ReplicaState.STARTING
_SPARE = ReplicaState.SPARE
_SERVING = ReplicaState.SERVING
_DRAINING = ReplicaState.DRAINING


@final
class FleetPolicy:
    """The state machine of a fleet. Each method that takes `now` gets the time.

    Args:
        size: How many servers, and how many sessions on each.
        settings: Everything else.
        now: The time.
    """

    def __init__(self, size: FleetSize, settings: FleetSettings, now: float) -> None:
        self.settings = settings
        self.roster = Roster(size, settings)
        self.breaker = Breaker(
            settings.breaker_failures,
            settings.breaker_pause,
            settings.breaker_longest_pause,
        )
        self.line = WaitingLine(self.roster, self.breaker)
        self.target = size.least
        """Servers that should serve."""
        burst = settings.replacement_burst or max(4, size.most + size.warm)
        self._bucket = TokenBucket(settings.replacement_rate, burst, now)
        self._window = DemandWindow(settings.shrink_after)
        self._owed = 0
        """Servers to replace; each replacement takes a token."""
        self._closed = False

    # What is asked for

    def release(self, members: Iterable[Member]) -> None:
        """Take places back, one entry a session.

        Raises:
            LocalProtocolError: One was given back before; none is taken back then.
        """
        counts = Counter(members)
        for member, count in counts.items():
            if member.placed < count:
                raise LocalProtocolError(
                    f"expected at most {member.placed} places to come back to replica "
                    f"{member.id}, got {count}: one was given back before"
                )
        for member, count in counts.items():
            member.placed -= count

    def drain(self, member: Member, deadline: float | None) -> None:
        """Give it no new sessions; stop it when it has none, or at a deadline."""
        if member.is_ready or member.state is _DRAINING:
            self.roster.drain(member, "drains", may_return=False)
            member.deadline = deadline

    def retire(self, member: Member) -> None:
        """Stop it now, whatever is on it."""
        if not self.roster.is_over(member):
            self.roster.give_up(member, "is told to stop")

    def resize(self, size: FleetSize) -> None:
        """Grow or shrink to other bounds."""
        self.roster.size = size
        self.roster.note(None, f"resized to {size.least} to {size.most} servers")

    def close(self) -> None:
        """Stop everything; nothing is started any more."""
        self._closed = True
        for member in list(self.roster.members.values()):
            if not self.roster.is_over(member):
                self.roster.give_up(member, "the fleet was closed")

    # What happened

    def started(self, member: Member, url: str, now: float) -> None:
        """The provider has started it; a good check makes it ready."""
        member.url = url
        member.next_check = now

    def start_failed(self, member: Member, cause: ProviderError, now: float) -> None:
        """It could not be started."""
        if member.state is not _STARTING:
            return
        roster, breaker = self.roster, self.breaker
        before = breaker.state(now)
        roster.ledger.start_failures += 1
        self._owed += 1
        breaker.failed(member.id, cause, now)
        roster.trouble(member, f"could not be started: {cause.message}")
        roster.end(member, roster.death(member, "could not be started", "no start"))
        if breaker.state(now) is BreakerState.OPEN and before is not BreakerState.OPEN:
            pause = breaker.until - now
            roster.trouble(
                None,
                f"starts nothing for {pause:.3g} s: {breaker.failures} starts failed "
                "in a row",
            )

    def reported(self, member: Member, report: HealthReport, now: float) -> None:
        """A check was answered."""
        began, member.checking = member.checking, None
        if self.roster.is_over(member):
            return
        if member.state is _STARTING and report.draining:
            self.check_failed(member, "it is shutting down", now)
            return
        member.failures = 0
        member.last_good = now
        member.good_since = now if began is None else began
        member.next_check = now + self.settings.health_interval
        self.roster.learn(member, report)
        if member.state is _STARTING:
            self.breaker.succeeded()
            is_short = len(self.roster.sound()) < self.target
            self.roster.ready(member, _SERVING if is_short else _SPARE, now)
        elif report.draining and (member.is_ready or member.may_return):
            self.roster.drain(member, "is shutting down by itself", may_return=False)

    def check_failed(self, member: Member, why: str, now: float) -> None:
        """A check was not answered, or not well; nobody knows of a death."""
        member.checking = None
        if self.roster.is_over(member):
            return
        member.failures += 1
        is_starting = member.state is _STARTING
        pause = _FIRST_RECHECK if is_starting else _RECHECK
        member.next_check = now + min(self.settings.health_interval, pause)
        if is_starting:
            return
        self.roster.trouble(member, f"failed a health check: {why}")
        if member.failures >= self.settings.health_failures:
            text = f"failed {member.failures} health checks in a row, the last: {why}"
            self.died(member, self.roster.death(member, text, "unhealthy"), now)

    def died(self, member: Member, death: ServerDied, now: float) -> None:
        """It ended by itself, or has to be given up for dead."""
        if self.roster.is_over(member):
            return
        if member.state is _STARTING:
            self.start_failed(member, death, now)
            return
        self.roster.ledger.deaths[cause_of(death)] += 1
        if member.is_ready:
            self._owed += 1
        lost = f"died with {member.placed} sessions"
        self.roster.trouble(member, f"{lost}: {death.message}")
        self.roster.end(member, death)

    def suspect(self, member: Member, now: float) -> None:
        """Somebody lost a connection to it: believe no older check."""
        if member.is_ready or member.state is _DRAINING:
            member.last_good = member.good_since = -math.inf
            member.next_check = now

    def stopped(self, member: Member, error: ProviderError | None = None) -> None:
        """It is gone, or could not be stopped."""
        if error is not None:
            self.roster.ledger.stop_failures += 1
            self.roster.trouble(member, f"could not be stopped: {error.message}")
        self.breaker.forget(member.id)
        self.roster.remove(member)

    # Deciding

    @property
    def is_complete(self) -> bool:
        """Whether as many serve as should."""
        return len(self.roster.sound()) >= self.target

    def plan(self, now: float) -> Plan:
        """Say what to do now. The caller does all of it, and tells what came of it."""
        plan = Plan()
        self._expire_starts(now, plan)
        if self._closed:
            self.line.close(plan)
        else:
            self._adjust(now, plan)
            self._finish_draining(now, plan)
            self.line.serve(now, plan)
            self._start_missing(now, plan)
            self.line.refuse(now, plan)
            self._check_due(now, plan)
        self.roster.fill(plan, now)
        return plan

    def _expire_starts(self, now: float, plan: Plan) -> None:
        for member in self.roster.of(_STARTING):
            assert member.deadline is not None
            if now < member.deadline:
                plan.wake_at(member.deadline)
                continue
            timeout = self.settings.start_timeout
            text = f"expected a server within {timeout:.3g} s, got none"
            self.start_failed(member, ProviderError(text, retryable=True), now)

    def _adjust(self, now: float, plan: Plan) -> None:
        """Let as many serve as are needed, and keep the spares that are wanted."""
        roster = self.roster
        self.target = self._needed(now)
        if (time := self._window.changes_at()) is not None:
            plan.wake_at(time)
        # Spares step in for those in doubt, and step back when these recover.
        sound = roster.sound()
        short = self.target - len(sound)
        for member in self._reserves()[: max(0, short)]:
            roster.move(member, _SERVING)
        if short < 0:
            sound.sort(key=lambda member: (member.load, -member.id))
            for member in sound[:-short]:
                self._step_back(member)
        # Spares that are too many go, and before them what is only on its way.
        extra = len(roster.of(_STARTING, _SPARE, _SERVING)) - self._wanted()
        unused = roster.of(_STARTING)[::-1] + roster.of(_SPARE)[::-1]
        for member in unused[: max(0, extra)]:
            roster.give_up(member, "is not needed any more")

    def _needed(self, now: float) -> int:
        size, each = self.roster.size, self.roster.sessions_each
        serving = self.roster.of(_SERVING)
        demand = self.line.sessions + sum(member.load for member in serving)
        needed = self._window.note(-(-demand // each), now)
        return min(size.most, max(size.least, needed))

    def _reserves(self) -> list[Member]:
        """Who may serve next: first who still has sessions, then spares."""
        draining = self.roster.of(_DRAINING)
        back = [one for one in draining if one.may_return and not one.failures]
        back.sort(key=lambda member: (-member.load, member.id))
        spares = [one for one in self.roster.of(_SPARE) if not one.failures]
        return back + spares

    def _step_back(self, member: Member) -> None:
        roster = self.roster
        if not member.load and len(roster.of(_SPARE)) < roster.size.warm:
            roster.move(member, _SPARE)
        else:
            text = "is not needed any more and drains"
            roster.drain(member, text, may_return=True)

    def _finish_draining(self, now: float, plan: Plan) -> None:
        for member in self.roster.of(_DRAINING):
            if not member.placed:
                self.roster.give_up(member, "was drained")
            elif member.deadline is None:
                continue
            elif now < member.deadline:
                plan.wake_at(member.deadline)
            else:
                text = f"had {member.placed} sessions when its draining had to end"
                self.roster.give_up(member, text)

    def _start_missing(self, now: float, plan: Plan) -> None:
        present = len(self.roster.of(_STARTING, _SPARE, _SERVING))
        missing = max(0, self._wanted() - present)
        starting = len(self.roster.of(_STARTING))
        self._owed = min(self._owed, missing)
        while missing > 0 and starting < self.settings.concurrent_starts:
            if not self.breaker.allows(now):
                if now < self.breaker.until:
                    plan.wake_at(self.breaker.until)
                return
            if self._owed and not self._bucket.take(now):
                plan.wake_at(self._bucket.ready_at())
                return
            self._owed = max(0, self._owed - 1)
            missing -= 1
            starting += 1
            member = self.roster.add(now)
            self.breaker.began(member.id)
            plan.starts.append(member)
            assert member.deadline is not None
            plan.wake_at(member.deadline)

    def _wanted(self) -> int:
        """Servers that should be there or on their way."""
        roster = self.roster
        wanted = self.target + roster.size.warm
        if self.line.tickets:
            # Nobody is sent to one in doubt: while others wait, it does not count.
            wanted += len(roster.of(_SERVING)) - len(roster.sound())
        return min(wanted, roster.size.most + roster.size.warm)

    def _check_due(self, now: float, plan: Plan) -> None:
        for member in self.roster.members.values():
            if self.roster.is_over(member) or not member.url:
                continue
            if member.checking is not None:
                continue
            if now >= member.next_check:
                self.roster.check(member, now, plan)
            else:
                plan.wake_at(member.next_check)

    # Telling

    def statistics(self, now: float) -> FleetStatistics:
        """What there is and what there was, in numbers."""
        roster, ledger, breaker = self.roster, self.roster.ledger, self.breaker
        members = list(roster.members.values())
        serving = roster.of(_SERVING)
        shown = [state for state in ReplicaState if state is not ReplicaState.STOPPED]
        return FleetStatistics(
            replicas={str(state): len(roster.of(state)) for state in shown},
            overdue_stops=sum(
                roster.is_over(member) and now > (member.deadline or math.inf)
                for member in members
            ),
            least=roster.size.least,
            most=roster.size.most,
            target=self.target,
            warm=roster.size.warm,
            sessions=sum(member.placed for member in members),
            places=sum(member.load + roster.room(member) for member in serving),
            waiting_calls=len(self.line.tickets),
            waiting_sessions=self.line.sessions,
            placed=ledger.placed,
            refused=ledger.refused,
            starts=ledger.starts,
            start_failures=ledger.start_failures,
            stop_failures=ledger.stop_failures,
            deaths=dict(ledger.deaths),
            restarts=ledger.restarts,
            drained=ledger.drained,
            breaker=str(breaker.state(now)),
            failures_in_a_row=breaker.failures,
            retry_after=max(0.0, breaker.until - now),
            start_seconds=Percentiles.of(ledger.start_seconds),
            place_seconds=Percentiles.of(ledger.place_seconds),
            servers=tuple(self._describe(member, now) for member in members),
        )

    @staticmethod
    def _describe(member: Member, now: float) -> ReplicaStatistics:
        return ReplicaStatistics(
            id=member.id,
            url=member.url,
            state=str(member.state),
            sessions=member.placed,
            foreign=member.foreign,
            failed_checks=member.failures,
            age=now - member.began,
        )
