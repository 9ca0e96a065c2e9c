"""Whatever happens to a fleet, in whatever order, some things always hold."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openenv_async import AtCapacity, ServerDied
from openenv_async.providers.fleet.members import Member, Ticket
from openenv_async.providers.fleet.settings import FleetSize
from tests.providers.fleet.world import World

_SESSIONS = 3
_CONCURRENT = 2


class FleetMachine(RuleBasedStateMachine):
    """Callers, servers and an operator who do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            1,
            3,
            sessions=_SESSIONS,
            warm=1,
            concurrent_starts=_CONCURRENT,
            shrink_after=20.0,
            start_timeout=5.0,
            replacement_burst=4,
        )
        self.held: list[list[Member]] = []
        self.asked: list[Ticket] = []

    @rule(count=st.integers(1, 10))
    def place(self, count: int) -> None:
        try:
            self.asked.append(self.world.place(count, timeout=30))
        except AtCapacity:
            most = self.world.policy.roster.size.most
            assert count > most * _SESSIONS

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        line = self.world.policy.line
        if line.tickets:
            ticket = data.draw(st.sampled_from(list(line.tickets)))
            line.leave(ticket)
            self.asked.remove(ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        places = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        count = data.draw(st.integers(1, len(places)))
        self.world.release(places[:count])
        if places[count:]:
            self.held.append(places[count:])

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.6, 3.0, 25.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(start=st.sampled_from(["well", "badly", "never"]))
    def change_starts(self, start: Any) -> None:
        self.world.starting = start

    @rule(stop=st.sampled_from(["well", "badly", "never"]))
    def change_stops(self, stop: Any) -> None:
        self.world.stopping = stop

    @rule(data=st.data(), deed=st.sampled_from(["ill", "well", "die", "suspect"]))
    def happen(self, data: st.DataObject, deed: str) -> None:
        world = self.world
        members = world.of("spare", "serving", "draining")
        if not members:
            return
        member = data.draw(st.sampled_from(members))
        if deed == "ill":
            world.ill.add(member)
        elif deed == "well":
            world.ill.discard(member)
        elif deed == "suspect":
            world.policy.suspect(member, world.now)
        else:
            world.policy.died(member, ServerDied("gone"), world.now)
        world.turn()

    @rule(data=st.data(), deed=st.sampled_from(["drain", "retire"]))
    def operate(self, data: st.DataObject, deed: str) -> None:
        members = self.world.of("spare", "serving", "draining")
        if members:
            member = data.draw(st.sampled_from(members))
            if deed == "drain":
                self.world.policy.drain(member, self.world.now + 10)
            else:
                self.world.policy.retire(member)
            self.world.turn()

    @rule(least=st.integers(0, 2), more=st.integers(0, 2))
    def resize(self, least: int, more: int) -> None:
        size = FleetSize(
            least=least, most=max(1, least + more), sessions=_SESSIONS, warm=1
        )
        self.world.policy.resize(size)
        self.world.turn()

    @invariant()
    def calls_end_in_order_and_once(self) -> None:
        world = self.world
        assert not set(world.granted) & set(world.refused)
        for ticket, places in world.granted.items():
            assert len(places) == ticket.count
            self.held.append(places)
            # Nobody who came before still waits.
            before = self.asked[: self.asked.index(ticket)]
            assert not set(before) & set(world.policy.line.tickets)
        for ticket in [*world.granted, *world.refused]:
            self.asked.remove(ticket)
        world.granted.clear()
        world.refused.clear()
        assert self.asked == list(world.policy.line.tickets)

    @invariant()
    def places_are_those_that_are_held(self) -> None:
        held = [place for places in self.held for place in places]
        for member in self.world.policy.roster.members.values():
            assert member.placed == held.count(member) <= _SESSIONS
        assert all(place.placed == held.count(place) for place in held)

    @invariant()
    def servers_are_within_bounds(self) -> None:
        world = self.world
        size = world.policy.roster.size
        sound = len(world.policy.roster.sound())
        unused = len(world.of("starting", "spare"))
        assert sound <= size.most
        assert sound + unused <= size.most + size.warm
        assert world.most_starting <= _CONCURRENT
        assert size.least <= world.policy.target <= size.most

    @invariant()
    def the_lost_are_told_why(self) -> None:
        for places in self.held:
            for place in places:
                is_gone = place.state in ("stopping", "stopped")
                assert is_gone == (place.death is not None)

    def teardown(self) -> None:
        """In a world where all goes well again, everybody is served."""
        world = self.world
        world.starting, world.stopping = "well", "well"
        world.ill.clear()
        while self.held or self.asked:
            for places in self.held:
                world.release(places)
            self.held.clear()
            world.run(5)
            self.calls_end_in_order_and_once()
        world.run(200)
        size = world.policy.roster.size
        assert not world.policy.line.tickets
        assert len(world.serving) == max(size.least, world.policy.target)
        assert len(world.of("spare")) == size.warm
        assert not world.of("draining", "starting")
        ticket = world.place(size.most * _SESSIONS)
        world.run(20)
        assert ticket in world.granted


FleetMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_fleet_keeps_its_promises = FleetMachine.TestCase
