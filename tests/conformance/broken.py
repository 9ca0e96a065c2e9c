"""One sound environment, and others that differ from it in one thing each."""

from __future__ import annotations

import os
import random
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from openenv_async import Action, Environment, InvalidAction, Observation, State
from openenv_async.environment import AnyEnvironment

__all__ = ["BROKEN", "Sound", "descriptors", "hoard"]

_LENGTH = 6

hoard: list[AnyEnvironment] = []
"""Instances that nobody lets go."""
descriptors: list[int] = []
"""Files that nobody closes."""


class Move(Action):
    """Moves by some fields."""

    by: Annotated[int, Meta(ge=-9, le=9)]
    note: str = ""


class Loose(Action):
    """Says that it has a range, but lets everything in."""

    by: Annotated[int, Meta(extra_json_schema={"minimum": -9, "maximum": 9})]


class Seen(Observation):
    """Where the walk is."""

    at: int
    luck: float


class Sound(Environment[Move, Seen, State]):
    """Walks along a line, with some luck; ends after six steps."""

    name = "walk"
    places: ClassVar[list[int]] = [0]

    def __init__(self) -> None:
        self._random = random.Random()
        self._at = 0
        self._steps = 0
        self._episode: str | None = None

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Seen:
        self._begin(seed)
        self._steps = 0
        self._episode = episode_id
        return self._seen()

    def _begin(self, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._at = 0

    async def step(self, action: Move) -> Seen:
        self._refuse(action)
        self._at += action.by
        self._steps += 1
        return self._seen()

    def _refuse(self, action: Move) -> None:
        """Refuse nothing."""

    def _seen(self) -> Seen:
        return Seen(
            at=self._at,
            luck=self._random.random(),
            reward=float(self._at),
            terminated=self._steps >= _LENGTH,
        )

    def state(self) -> State:
        return State(episode_id=self._episode, step_count=self._steps)


class _WrongObservation(Sound):
    def _seen(self) -> Seen:
        return Seen(at="here", luck=0.0)  # type: ignore[arg-type]  # on purpose


class _WrongState(Sound):
    def state(self) -> State:
        return State(
            episode_id=self._episode,
            step_count=float(self._steps) + 0.5 if self._steps > 3 else self._steps,  # type: ignore[arg-type]  # on purpose
        )


class _Picky(Sound):
    def _refuse(self, action: Move) -> None:
        if action.by not in (0, 9):
            raise InvalidAction("not far enough")


class _Forgetful(Sound):
    def state(self) -> State:
        return State(episode_id=self._episode)


class _Nameless(Sound):
    def state(self) -> State:
        return State(step_count=self._steps)


class _Crashing(Environment[Loose, Seen, State]):
    """Fails where it should refuse."""

    name = "walk"

    def __init__(self) -> None:
        self._sound = Sound()

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Seen:
        return await self._sound.reset(seed=seed, episode_id=episode_id)

    async def step(self, action: Loose) -> Seen:
        self._check(action)
        return await self._sound.step(Move(by=action.by))

    def _check(self, action: Loose) -> None:
        if abs(action.by) > 9:
            raise ValueError("too far")

    def state(self) -> State:
        return self._sound.state()


class _Credulous(_Crashing):
    def _check(self, action: Loose) -> None:
        """Let everything in, whatever the schema says."""


class _Lingering(Sound):
    def _begin(self, seed: int | None) -> None:
        self._random = random.Random(seed)


class _Random(Sound):
    def _begin(self, seed: int | None) -> None:
        self._random = random.Random()
        self._at = 0


class _Touchy(Sound):
    def state(self) -> State:
        self._random.random()
        return super().state()


class _Shared(Sound):
    """All sessions walk on the same line."""

    def _begin(self, seed: int | None) -> None:
        super()._begin(seed)
        self.places[0] = 0

    async def step(self, action: Move) -> Seen:
        self.places[0] += action.by
        seen = await super().step(action)
        return Seen(at=self.places[0], luck=seen.luck, terminated=seen.terminated)


class _Clinging(Sound):
    async def close(self) -> None:
        raise RuntimeError("not yet")


class _ClingingLater(Sound):
    async def close(self) -> None:
        if self._steps:
            raise RuntimeError("not in the middle")


class _Hoarded(Sound):
    def __init__(self) -> None:
        super().__init__()
        hoard.append(self)


class _Spilling(Sound):
    def __init__(self) -> None:
        super().__init__()
        descriptors.append(os.open(os.devnull, os.O_RDONLY))


BROKEN: list[tuple[type[AnyEnvironment], str, str]] = [
    (_WrongObservation, "schema", r"observation 1 .*\$\.at: expected integer"),
    (_WrongState, "schema", r"state .*\$\.step_count: expected integer, got 6\.5"),
    (_Picky, "actions", "2 of 16|1 of 16|0 of 16|3 of 16"),
    (_Forgetful, "state", "expected step_count 3 in the state, got 0"),
    (_Nameless, "state", "expected episode_id 'mine'"),
    (_Crashing, "invalid action", "got EnvironmentFailed: .*too far"),
    (_Credulous, "invalid action", "but it was executed"),
    (_Lingering, "reset twice", r"at reset, \$\.at: "),
    (_Random, "determinism by seed", r"seed 0 .* at reset, \$\.luck: "),
    (_Touchy, "state changes nothing", r"at step 1, \$\.luck: "),
    (_Shared, "concurrency", r"7 others .* at step \d, \$\.at: "),
    (_Clinging, "clean close", "before a reset|in an episode"),
    (_ClingingLater, "clean close", "in an episode, got .*not in the middle"),
    (_Hoarded, "no leak", "8 that something still refers to"),
    (_Spilling, "no leak", r"\d+ more open files"),
]
"""What is wrong with each: the check that fails, and what it says."""
