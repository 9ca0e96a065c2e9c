"""The floors: what this SDK must reach against OpenEnv in the same run."""

from __future__ import annotations

import dataclasses
import re

from benchmarks.rounds import Outcome

__all__ = ["Floor", "Verdict", "best_ceiling", "floors", "ratio", "verdicts"]

_LOWER_IS_BETTER = ("p50_us", "p99_us", "seconds", "bytes_per_session")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor:
    """One line of the table: a ratio to somebody, or a number of our own."""

    what: str
    ours: str
    metric: str
    floor: float
    goal: float
    theirs: str = ""
    """Whom the ratio is to; empty where the number itself has a limit."""
    ceiling: tuple[float, float] | None = None
    """Share of the bare ceiling that is asked for besides, as floor and goal."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """A floor, and what came out; values are None where a case has failed."""

    floor: Floor
    value: float | None
    share: float | None = None
    """Of the bare ceiling, where one is asked for."""

    def reaches(self, *, goal: bool) -> bool | None:
        """Tell whether the floor, or the goal beyond it, is met."""
        if self.value is None:
            return None
        limit = self.floor.goal if goal else self.floor.floor
        enough = self.value >= limit if self.floor.theirs else self.value < limit
        if self.floor.ceiling is None:
            return enough
        if self.share is None:
            return None
        return enough and self.share > self.floor.ceiling[goal]


def floors(*, idle_sdk: int) -> tuple[Floor, ...]:
    """Return the floors, in the order of the table.

    One session is also compared on one core, because waking an idle core costs both
    contenders the same, and more than either of them does.

    Args:
        idle_sdk: With how many sessions idle memory was measured.
    """
    return (
        _latency("TCP", "tcp", floor=2, goal=2.5),
        _latency("Unix socket", "unix", floor=3, goal=4),
        _latency("TCP, both ends on one core", "tcp/pinned", floor=2, goal=2.5),
        _latency("Unix socket, one core", "unix/pinned", floor=3, goal=4),
        dataclasses.replace(
            _steps("awaited", 256, floor=12, goal=35), ceiling=(0.5, 0.7)
        ),
        _steps("batch", 256, floor=25, goal=55),
        _steps("awaited", 1024, floor=18, goal=45),
        _steps("batch", 1024, floor=40, goal=110),
        Floor(
            what="connect + reset of 1024 sessions",
            ours="sdk/connect/text/n1024/tcp",
            theirs="openenv/connect/text/n1024/tcp",
            metric="seconds",
            floor=20,
            goal=100,
        ),
        Floor(
            what=f"server memory per idle session, {idle_sdk:,} sessions, KiB",
            ours=f"sdk/idle/text/n{idle_sdk}/tcp",
            metric="bytes_per_session",
            floor=12 * 1024,
            goal=4 * 1024,
        ),
        Floor(
            what="150 KiB observation, 16 sessions",
            ours="sdk/awaited/image/n16/tcp",
            theirs="openenv/awaited/list/n16/tcp",
            metric="steps_per_s",
            floor=10,
            goal=10,
            # "Memory-copy bound", as far as the bare ceiling is.
            ceiling=(0, 0.9),
        ),
        Floor(
            what="`import openenv_async`, s",
            ours="import/openenv_async",
            metric="seconds",
            floor=0.25,
            goal=0.15,
        ),
    )


def _latency(what: str, where: str, *, floor: float, goal: float) -> Floor:
    # OpenEnv's client knows TCP only.
    theirs = where.replace("unix", "tcp")
    return Floor(
        what=f"1 session, p50 of `await env.step`, {what}",
        ours=f"sdk/awaited/text/n1/{where}",
        theirs=f"openenv/awaited/text/n1/{theirs}",
        metric="p50_us",
        floor=floor,
        goal=goal,
    )


def _steps(mode: str, sessions: int, *, floor: float, goal: float) -> Floor:
    call = {"awaited": "await env.step", "batch": "batch.step"}[mode]
    return Floor(
        what=f"{sessions} sessions, `{call}`, steps/s",
        ours=f"sdk/{mode}/text/n{sessions}/tcp",
        # OpenEnv has nothing but its awaited step to put beside a batch.
        theirs=f"openenv/awaited/text/n{sessions}/tcp",
        metric="steps_per_s",
        floor=floor,
        goal=goal,
    )


def verdicts(medians: Outcome, *, idle_sdk: int) -> list[Verdict]:
    """Compare medians with the floors."""
    found = []
    for floor in floors(idle_sdk=idle_sdk):
        share = None
        if floor.theirs:
            value = ratio(medians, floor.ours, floor.theirs, floor.metric)
        else:
            value = medians.get(floor.ours, {}).get(floor.metric)
        if floor.ceiling is not None:
            share = _share(medians, floor.ours)
        found.append(Verdict(floor=floor, value=value, share=share))
    return found


def ratio(medians: Outcome, ours: str, theirs: str, metric: str) -> float | None:
    """Return how many times better than theirs ours is."""
    mine = medians.get(ours, {}).get(metric)
    other = medians.get(theirs, {}).get(metric)
    if not mine or not other:
        return None
    return other / mine if metric in _LOWER_IS_BETTER else mine / other


def best_ceiling(medians: Outcome, ours: str) -> tuple[str, float] | None:
    """Return the ceiling's best number of sockets for a case of ours, and its rate."""
    wanted = ["ceiling", *_without_sockets(ours)[1:]]
    rates = {
        key: metrics["steps_per_s"]
        for key, metrics in medians.items()
        if _without_sockets(key) == wanted
    }
    best = max(rates, key=lambda key: rates[key], default=None)
    return None if best is None else (best, rates[best])


def _without_sockets(key: str) -> list[str]:
    return [part for part in key.split("/") if not re.fullmatch(r"s\d+", part)]


def _share(medians: Outcome, ours: str) -> float | None:
    best = best_ceiling(medians, ours)
    mine = medians.get(ours, {}).get("steps_per_s")
    return mine / best[1] if mine and best else None
