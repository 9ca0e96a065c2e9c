"""The floors of containers, fleet and coding environment, in their own numbers."""

from __future__ import annotations

import dataclasses
from typing import Final

from benchmarks.floors import Floor, Verdict, ratio
from benchmarks.rounds import Outcome

__all__ = ["container_floors", "container_verdicts"]

_NOISE: Final = 0.95
"""Not slower, as far as it can be told: equals differ by as much from run to run."""


def container_floors() -> tuple[Floor, ...]:
    """Return the floors, in the order of the table.

    The goal of a cold start is what a bare `docker run` of a Python server takes on
    the machine for which the floor was set.
    """
    return (
        _seconds("container, cold start to first reset, Unix socket", "start", "unix"),
        _seconds("the same, published port", "start", "tcp"),
        dataclasses.replace(
            _seconds("the same, coding environment, Unix socket", "start", "unix"),
            ours="sdk/start/code/n1/unix",
        ),
        _handout("warm fleet, `place` to open session, server that serves", "place"),
        _handout("the same, warm spare that steps in", "spare"),
        *(
            Floor(
                what=f"coding session start, {where}",
                ours=f"{contender}/reset/code/n1/unix",
                metric="p50_us",
                floor=30_000,
                goal=15_000,
            )
            for where, contender in (("local", "sdk-local"), ("container", "sdk"))
        ),
        _step("1 session", "awaited/code/n1"),
        _step("64 sessions, each 10 a second", "paced/code/n64"),
        _step("64 sessions, each as fast as it can", "awaited/code/n64"),
        *(
            _transport(mode, sessions)
            for sessions in (1, 64, 1024)
            for mode in ("awaited", "batch")
            if (mode, sessions) != ("batch", 1)
        ),
    )


def _seconds(what: str, mode: str, transport: str) -> Floor:
    return Floor(
        what=what,
        ours=f"sdk/{mode}/text/n1/{transport}",
        metric="seconds",
        floor=0.8,
        goal=0.45,
    )


def _handout(what: str, mode: str) -> Floor:
    return dataclasses.replace(_seconds(what, mode, "unix"), floor=0.02, goal=0.005)


def _step(what: str, case: str) -> Floor:
    return Floor(
        what=f"trivial coding step in a container, p50, {what}",
        ours=f"sdk/{case}/unix",
        metric="p50_us",
        floor=2_000,
        goal=1_000,
    )


def _transport(mode: str, sessions: int) -> Floor:
    metric = "p50_us" if mode == "awaited" else "steps_per_s"
    name = {"awaited": "`await env.step`, p50", "batch": "`batch.step`, steps/s"}[mode]
    return Floor(
        what=f"Unix socket to published port, sessions: {sessions}, {name}",
        ours=f"sdk/{mode}/text/n{sessions}/unix",
        theirs=f"sdk/{mode}/text/n{sessions}/tcp",
        metric=metric,
        floor=_NOISE,
        goal=1,
    )


def container_verdicts(medians: Outcome) -> list[Verdict]:
    """Compare medians with the floors."""
    return [
        Verdict(
            floor=floor,
            value=ratio(medians, floor.ours, floor.theirs, floor.metric)
            if floor.theirs
            else medians.get(floor.ours, {}).get(floor.metric),
        )
        for floor in container_floors()
    ]
