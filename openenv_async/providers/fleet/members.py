"""The servers of a fleet as its policy sees them, and what it wants done."""

from __future__ import annotations

import dataclasses
import enum
import heapq
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

import msgspec

from ...errors import OpenEnvError, ServerDied

__all__ = [
    "HealthReport",
    "Member",
    "Plan",
    "ReplicaState",
    "Ticket",
    "Transition",
    "spread",
]


@final
class ReplicaState(enum.StrEnum):
    """Where a server is in its life."""

    STARTING = "starting"
    SPARE = "spare"
    """Ready, without sessions, to step in."""
    SERVING = "serving"
    DRAINING = "draining"
    """Keeps its sessions and gets no new ones."""
    STOPPING = "stopping"
    """Dead, or no longer wanted."""
    STOPPED = "stopped"


_READY = (ReplicaState.SPARE, ReplicaState.SERVING)


@final
@dataclasses.dataclass(eq=False, kw_only=True)
class Member:
    """One server: its state, what is on it and what its checks said."""

    id: int
    began: float
    """When its start began."""
    state: ReplicaState = ReplicaState.STARTING
    url: str = ""
    """Empty until the provider has started it."""
    placed: int = 0
    foreign: int = 0
    """Sessions beyond those placed here, as the last check told."""
    limit: float = math.inf
    """Sessions that the server itself allows."""
    incarnation: str | None = None
    failures: int = 0
    """Failed checks since the last good one."""
    last_good: float = -math.inf
    """When the last good check was answered."""
    good_since: float = -math.inf
    """When that check began."""
    checking: float | None = None
    """Since when a check is under way."""
    placed_at_check: int = 0
    next_check: float = 0.0
    deadline: float | None = None
    """Of its start, its draining or its stop, as its state is."""
    may_return: bool = False
    """Whether it drains only because it is not needed."""
    death: ServerDied | None = None
    """Why its sessions are gone; None while it lives."""

    @property
    def is_ready(self) -> bool:
        """Whether it has started, and is to stay."""
        return self.state in _READY

    @property
    def load(self) -> int:
        """Sessions on it."""
        return self.placed + self.foreign

    def room(self, sessions: int) -> int:
        """Sessions that it has room for, when it may have so many."""
        return max(0, int(min(sessions, self.limit)) - self.load)


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself; servers of others may say less."""

    status: str = "healthy"
    sessions: int | None = None
    """Sessions that it has, whoever opened them."""
    max_sessions: int | None = None
    incarnation: str | None = None
    """Changes when the server was restarted."""

    @property
    def draining(self) -> bool:
        """Whether it is about to end and takes no new sessions."""
        return self.status == "draining"


@final
@dataclasses.dataclass(eq=False, frozen=True)
class Ticket:
    """A call of `place` that waits."""

    count: int
    asked: float
    deadline: float


class Transition(NamedTuple):
    """A change that is worth a line in the log."""

    member: Member | None
    """None for the fleet as a whole."""
    text: str
    is_trouble: bool = False


@final
@dataclasses.dataclass(kw_only=True)
class Plan:
    """What is to be done now, and when to ask again."""

    starts: list[Member] = dataclasses.field(default_factory=list[Member])
    aborts: list[Member] = dataclasses.field(default_factory=list[Member])
    """Starts to cancel."""
    stops: list[Member] = dataclasses.field(default_factory=list[Member])
    checks: list[Member] = dataclasses.field(default_factory=list[Member])
    grants: list[tuple[Ticket, list[Member]]] = dataclasses.field(
        default_factory=list[tuple[Ticket, list[Member]]]
    )
    """Places, one entry a session."""
    refusals: list[tuple[Ticket, OpenEnvError]] = dataclasses.field(
        default_factory=list[tuple[Ticket, OpenEnvError]]
    )
    transitions: list[Transition] = dataclasses.field(default_factory=list[Transition])
    wake: float = math.inf
    """When to ask again at the latest, if nothing happens before."""

    def wake_at(self, time: float) -> None:
        """Ask again at a time, or before."""
        self.wake = min(self.wake, time)


def spread(count: int, members: Iterable[Member], sessions: int) -> list[Member]:
    """Choose members for sessions, each time the one with the least load.

    The entries of one member follow each other: neighbours then share a socket. There
    must be room for all.

    Args:
        count: Sessions to place.
        members: Where they may go.
        sessions: How many a member may have.
    """
    heap: list[tuple[int, int, int, Member]] = [
        (member.load, member.id, member.room(sessions), member) for member in members
    ]
    heap = [entry for entry in heap if entry[2]]
    heapq.heapify(heap)
    chosen: dict[Member, int] = {}
    for _ in range(count):
        load, key, room, member = heap[0]
        chosen[member] = chosen.get(member, 0) + 1
        if room > 1:
            heapq.heapreplace(heap, (load + 1, key, room - 1, member))
        else:
            heapq.heappop(heap)
    return _flatten(sorted(chosen.items(), key=lambda item: item[0].id))


def _flatten(shares: Sequence[tuple[Member, int]]) -> list[Member]:
    return [member for member, share in shares for _ in range(share)]
