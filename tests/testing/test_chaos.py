"""Faults befall frames as they are asked for, and the same ones each time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import LocalProtocolError
from openenv_async.testing.chaos import CHAOS, CLEAR, Chaos, ChaosLine, Fault, Faults

_ALL: tuple[Fault, ...] = ("drop", "delay", "duplicate", "reorder", "cut")


class _Rig:
    """A line with what came out of it."""

    def __init__(self, chaos: Chaos, *, connection: int = 1) -> None:
        self.arrived: list[bytes] = []
        self.cuts = 0
        for _ in range(connection):
            # The first connection's greeting is spared.
            chaos.lay("up", self.arrived.append, self._cut)
        self.line: ChaosLine = chaos.lay("up", self.arrived.append, self._cut)

    def _cut(self) -> None:
        self.cuts += 1
        self.line.end()

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.line.send(frame)


async def _turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _rig(**faults: Any) -> _Rig:
    return _Rig(Chaos(up=Faults(**faults)))


async def test_nothing_befalls_frames_when_nothing_is_asked_for() -> None:
    """They pass at once, in order."""
    rig = _rig()
    rig.send(b"a", b"b", b"c")
    assert rig.arrived == [b"a", b"b", b"c"]


async def test_a_dropped_frame_takes_the_rest_along() -> None:
    """What follows a lost frame never arrives, and the connection ends."""
    rig = _rig(drop=1.0, outage=0.001)
    rig.send(b"a", b"b")
    assert (rig.arrived, rig.cuts) == ([], 0)
    await asyncio.sleep(0.01)
    assert (rig.arrived, rig.cuts) == ([], 1)


async def test_a_delayed_frame_holds_back_what_follows() -> None:
    """Everything arrives later, in order."""
    rig = _rig(delay=1.0, hold=0.005)
    rig.send(b"a", b"b", b"c")
    assert rig.arrived == []
    await asyncio.sleep(0.05)
    assert rig.arrived == [b"a", b"b", b"c"]


async def test_a_duplicated_frame_arrives_twice() -> None:
    """But never the greeting."""
    rig = _rig(duplicate=1.0)
    rig.send(b"hello", b"a", b"b")
    assert rig.arrived == [b"hello", b"a", b"a", b"b", b"b"]


async def test_a_reordered_frame_arrives_behind_the_next() -> None:
    """Or after a while, if none follows; the greeting stays in front."""
    rig = _rig(reorder=1.0, hold=0.002)
    rig.send(b"hello", b"a", b"b")
    assert rig.arrived == [b"hello", b"a"]
    await asyncio.sleep(0.02)
    assert rig.arrived == [b"hello", b"a", b"b"]
    chaos = Chaos(up=Faults(reorder=1.0))
    rig = _Rig(chaos)
    rig.send(b"hello", b"a")
    chaos.calm()
    rig.send(b"b")
    assert rig.arrived == [b"hello", b"b", b"a"]


async def test_a_cut_ends_the_connection() -> None:
    """The frame before it arrives in about half of the cases."""
    arrived = 0
    chaos = Chaos(up=Faults(cut=1.0))
    for _ in range(100):
        rig = _Rig(chaos)
        rig.send(b"a")
        await _turns()
        assert rig.cuts == 1
        arrived += len(rig.arrived)
    assert 25 < arrived < 75


async def test_nothing_arrives_once_a_line_has_ended() -> None:
    """Neither what waits nor what was overtaken."""
    for faults in ({"delay": 1.0}, {"reorder": 1.0}):
        rig = _rig(hold=0.001, **faults)
        rig.send(b"hello", b"a")
        await asyncio.sleep(0.005 if "delay" in faults else 0)
        before = len(rig.arrived)
        rig.send(b"b")
        rig.line.end()
        await asyncio.sleep(0.01)
        assert len(rig.arrived) <= before + 1


async def test_the_first_greeting_is_spared() -> None:
    """A client can connect at all, whatever is asked for."""
    for fault in _ALL:
        rig = _Rig(Chaos(up=Faults(**{fault: 1.0})), connection=0)
        rig.send(b"hello")
        assert rig.arrived == [b"hello"]


# Repeatable


def _fates(
    seed: int, direction: Any = "up", connections: int = 3
) -> list[Fault | None]:
    """What would befall frames, without letting it."""
    chaos = Chaos(seed)
    lines = [
        chaos.lay(direction, lambda _frame: None, lambda: None)
        for _ in range(connections)
    ]
    fates: list[Fault | None] = []
    for line in lines:
        for _ in range(100):
            fates.append(CHAOS.choose(line._source))
            line._source.random()
    return fates


async def test_faults_repeat_by_seed() -> None:
    """Seed, direction, connection and position decide, and nothing else."""
    assert _fates(1) == _fates(1)
    assert _fates(1) != _fates(2)
    assert _fates(1) != _fates(1, "down")
    once = _fates(1)
    assert once[:100] != once[100:200]
    assert _fates(1, connections=1) == once[:100]


async def test_every_fault_comes_as_often_as_asked_for() -> None:
    """Shares are kept, in the long run, and counted."""
    fates = [fate for seed in range(30) for fate in _fates(seed)]
    for fault in _ALL:
        share = fates.count(fault) / len(fates)
        assert share == pytest.approx(getattr(CHAOS, fault), rel=0.25)
    assert set(fates) == {*_ALL, None}


@pytest.mark.parametrize("faults", [{"drop": -0.1}, {"cut": 0.6, "drop": 0.6}])
def test_shares_add_up(faults: dict[str, float]) -> None:
    """Shares below 0, and more than everything, are errors."""
    with pytest.raises(LocalProtocolError, match="add up to 1"):
        Faults(**faults)


async def test_directions_have_faults_of_their_own() -> None:
    """One way may be clear while the other is not; calm() clears both."""
    chaos = Chaos(up=Faults(cut=1.0), down=CLEAR)
    assert chaos.faults["down"] is CLEAR
    assert Chaos(up=CHAOS).faults["down"] is CHAOS
    chaos.calm()
    assert chaos.faults == {"up": CLEAR, "down": CLEAR}
