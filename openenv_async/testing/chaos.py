"""Faults on purpose: lines of a server in memory that lose, hold and repeat frames.

What may befall a frame depends on the seed, the direction, which connection it is and
how many frames came before on it, and on nothing else: the same traffic meets the same
faults. When a delay ends is up to the clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

from ..errors import LocalProtocolError
from ..memory import Direction

__all__ = ["CHAOS", "CLEAR", "Chaos", "Fault", "Faults"]

Fault: TypeAlias = Literal["drop", "delay", "duplicate", "reorder", "cut"]
"""What may befall a frame.

- `drop`: it is lost, and as in a TCP stream with a hole nothing behind it arrives;
  after `outage` the connection ends.
- `delay`: it waits for up to `hold`, and everything behind it as well.
- `duplicate`: it arrives twice.
- `reorder`: it arrives behind the next one, or after `hold` if none comes.
- `cut`: the connection ends at both ends without a goodbye, right before or right
  after the frame has arrived.

TCP neither repeats nor reorders: these two are for what stands in front of a server.
The greetings of the first connection are spared.
"""

_FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """How often frames of one direction meet faults: shares from 0 to 1.

    Args:
        drop: See `Fault`.
        delay: See `Fault`.
        duplicate: See `Fault`.
        reorder: See `Fault`.
        cut: See `Fault`.
        hold: Most seconds that a frame is held back.
        outage: Seconds until a connection ends that has lost a frame.
    """

    drop: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    cut: float = 0.0
    hold: float = 0.01
    outage: float = 0.01

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in _FAULTS}
        if min(shares.values()) < 0 or sum(shares.values()) > 1:
            raise LocalProtocolError(
                f"expected shares of frames that add up to 1 at most, got {shares!r}"
            )

    def choose(self, source: random.Random) -> Fault | None:
        """Decide what befalls a frame."""
        left = source.random()
        for name in _FAULTS:
            left -= getattr(self, name)
            if left < 0:
                return name
        return None


CLEAR: Final = Faults()
"""Nothing happens."""
CHAOS: Final = Faults(drop=0.01, delay=0.05, duplicate=0.05, reorder=0.05, cut=0.02)
"""Everything happens, now and then."""


class Chaos:
    """Lays lines with faults: `MemoryServer(..., lay=chaos.lay)`.

    Args:
        seed: Makes the faults repeatable.
        up: Faults of frames towards the server.
        down: Faults of frames towards the client; None takes those of `up`.
    """

    def __init__(
        self, seed: int = 0, *, up: Faults = CHAOS, down: Faults | None = None
    ) -> None:
        self.seed = seed
        self.faults: dict[Direction, Faults] = {
            "up": up,
            "down": up if down is None else down,
        }
        """May be changed while connections are open."""
        self.counts: Counter[Fault | Literal["frame", "connection"]] = Counter()
        """How many frames and connections there were, and how often each fault."""
        self._laid: Counter[Direction] = Counter()

    def calm(self) -> None:
        """Let everything pass from now on."""
        self.faults = {"up": CLEAR, "down": CLEAR}

    def lay(
        self,
        direction: Direction,
        deliver: Callable[[bytes], None],
        cut: Callable[[], None],
    ) -> ChaosLine:
        """Lay a line; see `Lay`."""
        number = self._laid[direction]
        self._laid[direction] += 1
        self.counts["connection"] += direction == "up"
        # A text, because it makes the same generator in every process.
        source = random.Random(f"{self.seed} {direction} {number}")
        is_first = number == 0
        return ChaosLine(
            self, direction, source, deliver=deliver, cut=cut, is_first=is_first
        )


class ChaosLine:
    """A `Line` on which frames meet faults."""

    def __init__(
        self,
        chaos: Chaos,
        direction: Direction,
        source: random.Random,
        *,
        deliver: Callable[[bytes], None],
        cut: Callable[[], None],
        is_first: bool,
    ) -> None:
        self._is_first = is_first
        self._chaos = chaos
        self._direction: Direction = direction
        self._source = source
        self._deliver = deliver
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, Fault | None, float]] = deque()
        """Frames with their fate, behind one that is delayed."""
        self._is_held = False
        self._overtaken: bytes | None = None
        self._has_hole = False
        self._timers: list[asyncio.TimerHandle] = []
        self._count = 0
        self._ended = False

    def send(self, frame: bytes) -> None:
        """See `Line.send`."""
        faults = self._chaos.faults[self._direction]
        fault, amount = faults.choose(self._source), self._source.random()
        if self._count == 0 and (self._is_first or fault in ("duplicate", "reorder")):
            # Who greets twice is a broken peer, not a broken network; and a client
            # whose very first greeting is lost has no session that could go on.
            fault = None
        self._count += 1
        self._chaos.counts["frame"] += 1
        self._waiting.append((frame, fault, amount))
        self._go_on()

    def end(self) -> None:
        """See `Line.end`."""
        self._ended = True
        self._waiting.clear()
        for timer in self._timers:
            timer.cancel()

    def _go_on(self) -> None:
        while self._waiting and not (self._is_held or self._ended or self._has_hole):
            frame, fault, amount = self._waiting.popleft()
            if fault is None:
                self._pass(frame)
            else:
                self._chaos.counts[fault] += 1
                self._strike(frame, fault, amount)

    def _strike(self, frame: bytes, fault: Fault, amount: float) -> None:
        faults = self._chaos.faults[self._direction]
        match fault:
            case "drop":
                self._has_hole = True
                self._later(faults.outage, self._cut)
            case "delay":
                self._is_held = True
                self._later(amount * faults.hold, lambda: self._release(frame))
            case "duplicate":
                self._pass(frame)
                self._pass(frame)
            case "reorder":
                self._flush_overtaken()
                self._overtaken = frame
                self._later(faults.hold, self._flush_overtaken)
            case "cut":
                if amount < 0.5:
                    self._pass(frame)
                # Behind the frame, which arrives in the next turn.
                self._loop.call_soon(self._cut)

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled()]
        self._timers.append(self._loop.call_later(seconds, then))

    def _release(self, frame: bytes) -> None:
        self._is_held = False
        self._pass(frame)
        self._go_on()

    def _pass(self, frame: bytes) -> None:
        self._deliver(frame)
        self._flush_overtaken()

    def _flush_overtaken(self) -> None:
        overtaken, self._overtaken = self._overtaken, None
        if overtaken is not None and not self._ended:
            self._deliver(overtaken)
