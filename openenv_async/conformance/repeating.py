"""Checks that play an episode again: by seed, after a reset, beside other sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio

from ..client import StepResult
from .subject import Session, Subject, Trace
from .verdicts import Broken, Unchecked

__all__ = [
    "check_concurrency",
    "check_determinism",
    "check_reset_twice",
    "check_state_changes_nothing",
]

_SEEDS: Final = (0, 1, 2)
_SESSIONS: Final = 8


async def check_determinism(subject: Subject) -> str:
    """The same seed and actions give the same episode, in sessions of their own."""
    steps = 0
    for seed in _SEEDS:
        actions = subject.actions(seed)
        first = await subject.episode(seed, actions)
        second = await subject.episode(seed, actions)
        found = subject.difference(first, second)
        if found is not None:
            raise Broken(f"seed {seed} gave two different episodes: {found}")
        steps += len(first.actions)
    return f"{len(_SEEDS)} seeds, {steps} steps, each twice"


async def check_reset_twice(subject: Subject) -> str:
    """A reset during an episode begins anew: nothing of the old one is left."""
    seed, actions = _SEEDS[0], subject.actions(_SEEDS[0])
    fresh = await _deterministic(subject, seed, actions)
    async with subject.session() as session:
        await subject.play(session, seed + 1, actions[: max(1, len(actions) // 2)])
        again = await subject.play(session, seed, actions)
    found = subject.difference(fresh, again)
    if found is not None:
        raise Broken(f"an episode differs when another came before it: {found}")
    return f"{len(again.actions)} steps after an unfinished episode"


async def check_state_changes_nothing(subject: Subject) -> str:
    """state() between steps changes nothing of an episode."""
    seed, actions = _SEEDS[0], subject.actions(_SEEDS[0])
    fresh = await _deterministic(subject, seed, actions)
    async with subject.session() as session:
        looking = _Looking(session)
        looked_at = await subject.play(looking, seed, actions)
    found = subject.difference(fresh, looked_at)
    if found is not None:
        raise Broken(f"an episode differs when state() is called in it: {found}")
    return f"{looking.looks} calls of state() between {len(actions)} steps"


class _Looking:
    """A session that asks for the state around every call."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.looks = 0

    async def _look(self) -> None:
        for _ in range(2):
            await self._session.state()
            self.looks += 1

    async def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> StepResult[Any]:
        """As the session's."""
        result = await self._session.reset(seed=seed, options=options)
        await self._look()
        return result

    async def step(self, action: Any) -> StepResult[Any]:
        """As the session's."""
        result = await self._session.step(action)
        await self._look()
        return result


async def check_concurrency(subject: Subject) -> str:
    """Sessions that run at the same time do not see each other."""
    seeds = range(_SESSIONS)
    actions = [subject.actions(seed) for seed in seeds]
    alone = [
        await _deterministic(subject, seed, plan)
        for seed, plan in zip(seeds, actions, strict=True)
    ]
    together: dict[int, Trace] = {}
    everybody = _Rendezvous(_SESSIONS)

    async def play(seed: int) -> None:
        async with subject.session() as session:
            await everybody.arrive()
            together[seed] = await subject.play(session, seed, actions[seed])

    async with anyio.create_task_group() as group:
        for seed in seeds:
            group.start_soon(play, seed)
    for seed in seeds:
        found = subject.difference(alone[seed], together[seed])
        if found is not None:
            raise Broken(
                f"the episode of seed {seed} differs when {_SESSIONS - 1} others run "
                f"beside it: {found}"
            )
    return f"{_SESSIONS} sessions at the same time"


class _Rendezvous:
    """Lets nobody go on before everybody is there."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._complete = anyio.Event()

    async def arrive(self) -> None:
        """Wait for the others."""
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        await self._complete.wait()


async def _deterministic(subject: Subject, seed: int, actions: Sequence[Any]) -> Trace:
    """An episode that can be compared with others.

    Raises:
        Unchecked: It never goes the same way twice, which is another check's finding.
    """
    first = await subject.episode(seed, actions)
    found = subject.difference(first, await subject.episode(seed, actions))
    if found is not None:
        raise Unchecked(f"needs an environment that repeats itself by seed: {found}")
    return first
