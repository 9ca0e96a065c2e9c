"""Where the time of a run goes, and what to change to make it faster."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from time import perf_counter_ns
from typing import Final, Literal, final

import anyio
import msgspec

from .live import LiveEpisode, Phase

__all__ = [
    "Bottleneck",
    "Latency",
    "Load",
    "Meter",
    "RunStatistics",
    "SlowSession",
    "TimeShares",
    "find_bottleneck",
]

BoundBy = Literal["connection", "policy", "environment", "wire", "consumer", "tasks"]

_SAMPLES: Final = 4096
"""Latest durations that percentiles look at."""
_RATE_WINDOW_NS: Final = 5_000_000_000
"""How far back the current rates look."""
_BLOCKED: Final = 0.25
"""Share of the time without a start above which whoever holds it up is the cause."""
_BUSY: Final = 0.85
"""Share of the time above which a policy counts as saturated."""
_UPTIME: Final = "the server's uptime"
_NO_SERVER: Final = "sessions had no server"
_FULL: Final = 0.9
"""Share of `batching.max` above which batches count as full."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took lately, in seconds; all 0 if it never happened."""

    count: int = 0
    """How many of the latest are looked at."""
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, samples_ns: Iterable[int]) -> Latency:
        """Summarise durations in nanoseconds; each value is one that was measured."""
        ordered = sorted(samples_ns)
        if not ordered:
            return cls()

        def at(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)] / 1e9

        return cls(
            count=len(ordered), p50=at(0.5), p99=at(0.99), longest=ordered[-1] / 1e9
        )


class TimeShares(msgspec.Struct, frozen=True, kw_only=True):
    """Where the episodes' time went, as shares that add up to 1; all 0 before any."""

    policy: float = 0.0
    """In the policy."""
    wire: float = 0.0
    """On the way, both event loops included."""
    queue: float = 0.0
    """Waiting on the server for the environment."""
    environment: float = 0.0
    """In the environment's code."""
    idle: float = 0.0
    """Waiting for the policy, or paused."""


class SlowSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session, and how long it has been waiting for the same thing."""

    session: str
    """Public id."""
    episode: str
    step: int
    """Steps that its episode has so far."""
    phase: str
    """What it waits for: `reset`, `waiting` (for the policy's call), `policy` or
    `environment`."""
    seconds: float


class Bottleneck(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps the run from being faster."""

    bound_by: BoundBy
    knob: str
    """The number to raise."""
    share: float
    """How much of the time speaks for it, from 0 to 1."""
    text: str
    """The same for humans."""


class RunStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A run at one moment; what counts events counts since its start."""

    elapsed: float
    """Seconds since the start."""
    episodes: int
    """That have ended for good, failed ones included."""
    steps: int
    """Of all attempts, unfinished ones included."""
    retries: int
    outcomes: dict[str, int]
    """How many episodes ended how; failures by kind, as in `infrastructure_failed:
    session_lost`."""
    live: int
    """Episodes that are being played."""
    queued: int
    """Finished episodes that the consumer has not taken."""
    pending: int
    """Episodes that could start as soon as there is room."""
    lost: int
    """Sessions that are being replaced."""
    unreachable: int
    """Sessions whose connection is lost, while it is tried again, or whose server is
    silent."""
    silent_for: float
    """Seconds for which a server has said nothing, though it was asked; 0 while all
    answer."""
    unreachable_for: float
    """Seconds since no session has been reachable; 0 while one is."""
    gives_up_after: float
    """Seconds without any reachable session after which the run fails."""
    limit: int
    """Episodes at a time, now."""
    paused: bool
    steps_per_second: float
    """Over the last seconds."""
    episodes_per_second: float
    """Over the last seconds."""
    policy_calls: int
    policy_batch: float
    """Mean number of episodes in a call."""
    policy_busy: float
    """Share of the time in which a call of the policy was running; for an agent, in
    which one was playing."""
    step_latency: Latency
    """Round trips of steps."""
    policy_latency: Latency
    """Calls of the policy."""
    time: TimeShares
    bottleneck: Bottleneck | None
    """None before any step."""
    slowest: list[SlowSession]
    """The sessions that have been waiting for longest, the longest first."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict looks at."""

    time: TimeShares
    away: float = 0.0
    """Share of the sessions' time in which they had no server."""
    blocked: float = 0.0
    """Share of the time in which a session was free, but the consumer's queue full."""
    starved: float = 0.0
    """Share of the time in which a session was free, but there was no task yet."""
    policy_busy: float = 0.0
    fullness: float | None = None
    """Mean share of `batching.max` that a call had; None for other policies."""


@final
class Meter:
    """Counts what happens in a run.

    Args:
        max_batch: Observations of one policy call at most, where that has a bound.
        batches: Whether one policy call serves many episodes.
    """

    def __init__(self, *, max_batch: int | None, batches: bool) -> None:
        self._max_batch = max_batch
        self._batches = batches
        self.started_ns = perf_counter_ns()
        self.episodes = 0
        self.retries = 0
        self.outcomes: Counter[str] = Counter()
        self._steps = 0
        self._sums = [0, 0, 0, 0, 0]
        self.round_trips_ns: deque[int] = deque(maxlen=_SAMPLES)
        self._policy_ns: deque[int] = deque(maxlen=_SAMPLES)
        self._calls = 0
        self._called = 0
        """Episodes in all calls."""
        self._running = 0
        self._since_ns = 0
        self._busy_ns = 0
        self._quiet: anyio.Event | None = None
        self._held: Literal["", "consumer", "tasks"] = ""
        self._held_since_ns = self.started_ns
        self._held_ns = {"consumer": 0, "tasks": 0, "": 0}
        self._away = 0.0
        self._away_since_ns = self.started_ns
        self._away_ns = 0.0
        self._history: deque[tuple[int, int, int]] = deque()

    # Events

    def finished(self, live: LiveEpisode, now_ns: int) -> None:
        """An attempt is over."""
        self._steps += len(live.steps)
        for position, part in enumerate(_parts(live, now_ns)):
            self._sums[position] += part

    def policy_began(self, now_ns: int, count: int) -> None:
        """A call of the policy begins."""
        if not self._running:
            self._since_ns = now_ns
        self._running += 1
        self._calls += 1
        self._called += count

    def policy_ended(self, began_ns: int, now_ns: int) -> None:
        """A call of the policy is over."""
        self._running -= 1
        self._policy_ns.append(now_ns - began_ns)
        if not self._running:
            self._busy_ns += now_ns - self._since_ns
            if self._quiet is not None:
                self._quiet.set()
                self._quiet = None

    async def wait_quiet(self) -> None:
        """Wait until no call of the policy is running."""
        while self._running:
            if self._quiet is None:
                self._quiet = anyio.Event()
            await self._quiet.wait()

    def held(self, by: Literal["", "consumer", "tasks"], now_ns: int) -> None:
        """Who keeps free sessions from starting an episode; nobody if empty."""
        if by != self._held:
            self._held_ns[self._held] += now_ns - self._held_since_ns
            self._held, self._held_since_ns = by, now_ns

    def away(self, share: float, now_ns: int) -> None:
        """Which share of the sessions has no server, from now on."""
        self._away_ns += self._away * (now_ns - self._away_since_ns)
        self._away, self._away_since_ns = share, now_ns

    # Sums

    def sums(self, lives: Iterable[LiveEpisode], now_ns: int) -> list[int]:
        """Nanoseconds in policy, wire, queue, environment and idle, of all episodes."""
        sums = list(self._sums)
        for live in lives:
            for position, part in enumerate(_parts(live, now_ns)):
                sums[position] += part
        return sums

    def steps(self, lives: Iterable[LiveEpisode]) -> int:
        """Steps of all attempts so far."""
        return self._steps + sum(len(live.steps) for live in lives)

    def busy_share(self, now_ns: int) -> float:
        """Share of the time since the start in which the policy was called."""
        busy_ns = self._busy_ns
        if self._running:
            busy_ns += now_ns - self._since_ns
        return busy_ns / max(1, now_ns - self.started_ns)

    def note(self, lives: Sequence[LiveEpisode], now_ns: int) -> None:
        """Remember where the counters stand, for the current rates."""
        history = self._history
        history.append((now_ns, self.steps(lives), self.episodes))
        while len(history) > 2 and now_ns - history[1][0] >= _RATE_WINDOW_NS:
            history.popleft()

    def snapshot(
        self,
        lives: Sequence[LiveEpisode],
        *,
        now_ns: int,
        queued: int,
        pending: int,
        lost: int,
        unreachable: int,
        silent_for: float,
        unreachable_for: float,
        gives_up_after: float,
        limit: int,
        paused: bool,
        slowest: int,
    ) -> RunStatistics:
        """Everything at this moment."""
        steps = self.steps(lives)
        shares = _shares(self.sums(lives, now_ns))
        steps_rate, episodes_rate = self._rates(steps, now_ns)
        return RunStatistics(
            elapsed=(now_ns - self.started_ns) / 1e9,
            episodes=self.episodes,
            steps=steps,
            retries=self.retries,
            outcomes=dict(self.outcomes),
            live=len(lives),
            queued=queued,
            pending=pending,
            lost=lost,
            unreachable=unreachable,
            silent_for=silent_for,
            unreachable_for=unreachable_for,
            gives_up_after=gives_up_after,
            limit=limit,
            paused=paused,
            steps_per_second=steps_rate,
            episodes_per_second=episodes_rate,
            policy_calls=self._calls,
            policy_batch=self._called / self._calls if self._calls else 0.0,
            policy_busy=self.busy_share(now_ns),
            step_latency=Latency.of(self.round_trips_ns),
            policy_latency=Latency.of(self._policy_ns),
            time=shares,
            bottleneck=self._bottleneck(shares, now_ns) if steps else None,
            slowest=_slowest(lives, slowest, now_ns),
        )

    def _rates(self, steps: int, now_ns: int) -> tuple[float, float]:
        past = self._history[0] if self._history else (self.started_ns, 0, 0)
        seconds = max(1, now_ns - past[0]) / 1e9
        return (steps - past[1]) / seconds, (self.episodes - past[2]) / seconds

    def _bottleneck(self, shares: TimeShares, now_ns: int) -> Bottleneck:
        return find_bottleneck(self._load(shares, now_ns))

    def _load(self, shares: TimeShares, now_ns: int) -> Load:
        held_ns = dict(self._held_ns)
        held_ns[self._held] += now_ns - self._held_since_ns
        elapsed_ns = max(1, now_ns - self.started_ns)
        fullness = None
        if self._batches:
            mean = self._called / max(1, self._calls)
            fullness = 0.0 if self._max_batch is None else mean / self._max_batch
        self.away(self._away, now_ns)
        return Load(
            time=shares,
            away=self._away_ns / elapsed_ns,
            blocked=held_ns["consumer"] / elapsed_ns,
            starved=held_ns["tasks"] / elapsed_ns,
            policy_busy=self.busy_share(now_ns),
            fullness=fullness,
        )


def find_bottleneck(load: Load) -> Bottleneck:
    """Say what a run is bound by, and which number to raise."""
    time = load.time
    if load.away > _BLOCKED:
        return _bottleneck("connection", _UPTIME, load.away, _NO_SERVER)
    if load.blocked > _BLOCKED:
        return _bottleneck(
            "consumer", "the consumer's speed", load.blocked, "its queue was full"
        )
    if load.starved > _BLOCKED:
        return _bottleneck(
            "tasks", "the source of tasks", load.starved, "sessions had no task"
        )
    if load.fullness is not None and load.policy_busy > _BUSY:
        knob = "batching.max" if load.fullness > _FULL else "the policy's speed"
        return _bottleneck("policy", knob, load.policy_busy, "the policy was busy")
    if load.fullness is not None:
        idle = _bottleneck(
            "policy", "batching.calls", time.idle, "observations waited for a call"
        )
    else:
        # Without batches an observation waits for nothing but the event loop.
        idle = _bottleneck(
            "wire", "client processes", time.idle, "this process was busy"
        )
    wire = max(0.0, time.wire - load.away)
    shares: list[tuple[float, BoundBy, str, str]] = [
        (time.policy, "policy", "the policy's speed", "episodes waited for actions"),
        # Whoever waits for a server that is away waits on the wire, too.
        (wire, "wire", "sockets", "messages were on their way"),
        (load.away, "connection", _UPTIME, _NO_SERVER),
        (time.queue, "environment", "workers or replicas", "steps were queued"),
        (time.environment, "environment", "concurrency", "environments computed"),
    ]
    share, bound_by, knob, what = max(shares)
    if time.idle > share:
        return idle
    return _bottleneck(bound_by, knob, share, what)


def _bottleneck(bound_by: BoundBy, knob: str, share: float, what: str) -> Bottleneck:
    return Bottleneck(
        bound_by=bound_by,
        knob=knob,
        share=share,
        text=f"bound by {bound_by}: {share:.0%} of the time {what}; raise {knob}",
    )


def _parts(live: LiveEpisode, now_ns: int) -> tuple[int, int, int, int, int]:
    known = live.policy_ns + live.wire_ns + live.queue_ns + live.environment_ns
    total = live.last_ns - live.started_ns
    policy, wire = live.policy_ns, live.wire_ns
    environment, idle = live.environment_ns, total - known
    # What it waits for now counts too: a run that hangs has to show where.
    waited = now_ns - live.since_ns
    if live.phase is Phase.POLICY:
        policy += waited
    elif live.phase is Phase.WAITING:
        idle += waited
    elif live.is_away:
        wire += waited
    elif live.phase is not Phase.OVER:
        environment += waited
    return policy, wire, live.queue_ns, environment, max(0, idle)


def _shares(sums: list[int]) -> TimeShares:
    total = sum(sums)
    if not total:
        return TimeShares()
    policy, wire, queue, environment, idle = (part / total for part in sums)
    return TimeShares(
        policy=policy, wire=wire, queue=queue, environment=environment, idle=idle
    )


def _slowest(
    lives: Sequence[LiveEpisode], count: int, now_ns: int
) -> list[SlowSession]:
    longest = sorted(lives, key=lambda live: live.since_ns)[:count]
    return [
        SlowSession(
            session=live.session,
            episode=live.context.id,
            step=len(live.steps),
            phase=live.phase.value,
            seconds=(now_ns - live.since_ns) / 1e9,
        )
        for live in longest
    ]
