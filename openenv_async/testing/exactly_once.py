"""Does every step run at most once, and does every answer say so truthfully?"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from time import perf_counter
from typing import Any, Final

import anyio

from ..client import EnvClient
from ..conformance import Check
from ..environment import Action, Environment, EnvironmentSpec, Observation, State
from ..errors import Executed, OpenEnvError, SessionClosed
from ..memory import Lay, MemoryServer

__all__ = ["TallyAction", "TallyEnv", "TallyObservation", "check_exactly_once"]

_TIMEOUT: Final = 10.0
"""Seconds after which a call counts as hanging."""
_MOST_FAILURES: Final = 100
"""Failed openings after which a session counts as one that makes no progress."""


class TallyAction(Action):
    """A step that can be told from all others."""

    token: str


class TallyObservation(Observation):
    """What the environment has done so far."""

    token: str = ""
    count: int = 0
    """Steps of the episode that were executed."""


class TallyEnv(EnvClient[TallyAction, TallyObservation, State]):
    """A session whose steps are tallied."""


def _tallying(executions: Counter[str]) -> type[Environment[Any, Any, Any]]:
    """An environment that writes down what it executes."""

    class Tally(Environment[TallyAction, TallyObservation, State]):
        def __init__(self) -> None:
            self._count = 0

        async def reset(
            self,
            *,
            seed: int | None = None,
            episode_id: str | None = None,
            options: dict[str, Any] | None = None,
        ) -> TallyObservation:
            self._count = 0
            return TallyObservation()

        async def step(self, action: TallyAction) -> TallyObservation:
            executions[action.token] += 1
            self._count += 1
            if self._count % 3 == 0:
                # Some steps suspend, so that faults meet them while they run.
                await anyio.sleep(0.001)
            return TallyObservation(token=action.token, count=self._count, reward=1.0)

        def state(self) -> State:
            return State(step_count=self._count)

    return Tally


@dataclasses.dataclass
class _Ledger:
    """What callers were told, beside what was executed."""

    executions: Counter[str] = dataclasses.field(default_factory=Counter[str])
    told: dict[str, Executed] = dataclasses.field(default_factory=dict[str, Executed])
    """By token: whether the step was executed."""
    faults: list[str] = dataclasses.field(default_factory=list[str])
    losses: int = 0
    """Sessions that were lost, or could not be opened."""

    def settle(self) -> None:
        """Compare both; what was executed twice matters most."""
        found: list[str] = []
        for token, count in self.executions.items():
            if count > 1:
                found.append(f"step {token} was executed {count} times")
        for token, told in self.told.items():
            count = self.executions[token]
            if (told, count) in (("yes", 0), ("no", 1)):
                found.append(
                    f"step {token} was executed {count} times, its caller was told "
                    f"{told!r}"
                )
        self.faults[:0] = found


async def check_exactly_once(
    lay: Lay | None = None, *, seed: int = 0, sessions: int = 8, steps: int = 50
) -> Check:
    """Play over lines with faults, and compare what was executed with what was told.

    A step may run once at most. Its reply is the right one, or its caller gets an
    error that says truthfully whether it ran; a lost session is never a fresh one.
    Cancelling it leaves nothing behind.

    Args:
        lay: Lays the lines, such as `Chaos(...).lay`.
        seed: Of the pauses between steps.
        sessions: How many play at the same time.
        steps: Of each of them.
    """
    began = perf_counter()
    ledger = _Ledger()
    spec = EnvironmentSpec.of(_tallying(ledger.executions), name="tally")
    async with MemoryServer(spec, lay=lay, lease=5.0) as server:
        async with anyio.create_task_group() as group:
            for place in range(sessions):
                group.start_soon(_play, server.url, place, seed, steps, ledger)
        requests = server.core.capacity()["requests"]
    ledger.settle()
    told = Counter(ledger.told.values())
    summary = (
        f"{sum(ledger.executions.values())} steps executed of {len(ledger.told)} asked "
        f"for in {requests} requests; told yes {told['yes']}, no {told['no']}, unknown "
        f"{told['unknown']}; {ledger.losses} sessions lost or not opened"
    )
    return Check(
        name="exactly once",
        passed=not ledger.faults,
        detail="; ".join(ledger.faults[:3]) or summary,
        seconds=round(perf_counter() - began, 6),
    )


async def _play(url: str, place: int, seed: int, steps: int, ledger: _Ledger) -> None:
    """Play all steps, in as many sessions as it takes."""
    source = random.Random(f"{seed} {place}")
    done = failures = 0
    while done < steps:
        try:
            async with TallyEnv(url, timeout=_TIMEOUT) as env:
                await env.reset()
                done = await _steps(env, place, done, steps, source, ledger)
        except OpenEnvError as error:
            # Opening or resetting failed: nothing that a caller was told to rely on.
            ledger.losses += 1
            failures += 1
            if failures > _MOST_FAILURES:
                ledger.faults.append(f"session {place} cannot be opened: {error}")
                return
            await anyio.sleep(0.001)


async def _steps(
    env: TallyEnv,
    place: int,
    done: int,
    steps: int,
    source: random.Random,
    ledger: _Ledger,
) -> int:
    """Step until the end or a loss; returns how many steps were asked for by then."""
    count = 0
    while done < steps:
        token = f"{place}/{done}"
        done += 1
        try:
            observation = (await env.step(TallyAction(token=token))).observation
        except OpenEnvError as error:
            ledger.told[token] = error.executed
            if isinstance(error, SessionClosed) or error.executed != "no":
                ledger.losses += 1
                return done
            continue
        ledger.told[token] = "yes"
        count += 1
        if (observation.token, observation.count) != (token, count):
            ledger.faults.append(
                f"step {token} is number {count} of its episode, its reply was that to "
                f"{observation.token}, number {observation.count}"
            )
            count = observation.count
        if source.random() < 0.2:
            await anyio.sleep(source.random() * 0.002)
    return done
