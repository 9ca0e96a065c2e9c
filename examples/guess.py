"""An environment of one's own, with its client, in one file.

Run, it starts a server for itself. `openenv-async serve guess:GuessEnvironment`, in
this folder, serves it to others.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from openenv_async import (
    Action,
    EnvClient,
    Environment,
    LocalProvider,
    Observation,
    State,
)


class Guess(Action):
    """A guess from 0 to 99."""

    number: int


class Hint(Observation):
    """Where the number is, seen from the guess."""

    hint: str


class GuessEnvironment(Environment[Guess, Hint, State]):
    """Find the number; every guess costs one."""

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Hint:
        """Think of a number."""
        self.number = random.Random(seed).randrange(100)
        self.steps = 0
        return Hint(hint="guess")

    async def step(self, action: Guess) -> Hint:
        """Compare."""
        self.steps += 1
        if action.number == self.number:
            return Hint(hint="found", reward=0.0, terminated=True)
        higher = action.number < self.number
        return Hint(hint="higher" if higher else "lower", reward=-1.0)

    def state(self) -> State:
        """Count the guesses."""
        return State(step_count=self.steps)


class GuessEnv(EnvClient[Guess, Hint, State]):
    """A session of it."""


async def main() -> None:
    """Find the number by halving."""
    here = str(Path(__file__).parent)
    provider = LocalProvider("guess:GuessEnvironment", environment={"PYTHONPATH": here})
    async with GuessEnv(provider=provider) as env:
        result = await env.reset(seed=7)
        low, high = 0, 100
        while not result.done:
            number = (low + high) // 2
            result = await env.step(Guess(number=number))
            print(number, result.observation.hint)
            if result.observation.hint == "higher":
                low = number + 1
            else:
                high = number


if __name__ == "__main__":
    asyncio.run(main())
