"""The environment of the recorded transcripts, written for our own server."""

from __future__ import annotations

import asyncio
import threading
from typing import Annotated, Any, Literal

import msgspec

from openenv_async import Action, Environment, Observation, State

__all__ = [
    "BlockingCounting",
    "Count",
    "CountState",
    "Counted",
    "Counting",
    "OrderedCounting",
    "Unbuildable",
]


class Count(Action):
    """Adds to the total."""

    delta: Annotated[int, msgspec.Meta(ge=-10, le=10)]
    boom: bool = False
    sleep_s: float = 0.0
    reward_kind: Literal["float", "int", "bool", "none", "nan"] = "float"


class Counted(Observation):
    """Tells the total."""

    total: int = 0
    note: str | None = None


class CountState(State):
    """Where the count is."""

    total: int = 0


class Counting(Environment[Count, Counted, CountState]):
    """Counts, and keeps OpenEnv's loose order of calls."""

    name = "count_env"
    any_order = True

    def __init__(self) -> None:
        self._episode_id: str | None = None
        self._steps = 0
        self._total = 0

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Counted:
        """Start at `start`."""
        rest = dict(options or {})
        start = rest.pop("start", 0)
        if start < 0:
            raise RuntimeError("bad start")
        self._episode_id = episode_id or "ep-auto"
        self._steps, self._total = 0, start
        return Counted(
            total=start, note="reset", metadata={"seed": seed, "kw": sorted(rest)}
        )

    async def step(self, action: Count) -> Counted:
        """Add."""
        if action.sleep_s:
            await asyncio.sleep(action.sleep_s)
        return self.add(action)

    def add(self, action: Count) -> Counted:
        """Add, without waiting."""
        if action.boom:
            raise ValueError("kaboom in step")
        self._steps += 1
        self._total += action.delta
        reward = {
            "float": float(action.delta),
            "int": action.delta,
            "bool": True,
            "none": None,
            "nan": float("nan"),
        }[action.reward_kind]
        return Counted(total=self._total, reward=reward, terminated=self._total >= 10)

    def state(self) -> CountState:
        """Describe the count."""
        return CountState(
            episode_id=self._episode_id, step_count=self._steps, total=self._total
        )

    # Tasks, as OpenEnv's environments list them

    def list_splits(self) -> list[object]:
        """Two splits."""
        return ["train", {"name": "hard", "type": "test"}]

    def list_tasks(self, split: str) -> list[dict[str, str]]:
        """Three tasks."""
        return [{"id": f"{split}-{number}"} for number in range(3)]

    async def num_tasks(self, split: str) -> int:
        """How many."""
        return len(self.list_tasks(split))

    def get_task(self, split: str, index: int) -> dict[str, str]:
        """One of them."""
        return self.list_tasks(split)[index]

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, str]]:
        """Some of them."""
        return self.list_tasks(split)[start:stop]


class OrderedCounting(Counting):
    """The same with our own order of calls."""

    name = "ordered"
    any_order = False


class BlockingCounting(Environment[Count, Counted, CountState]):
    """The same in threads."""

    name = "blocking"
    any_order = True
    gate = threading.Event()
    """What a step with `sleep_s` waits for."""

    def __init__(self) -> None:
        self._counting = Counting()

    async def reset(self, **arguments: Any) -> Counted:
        """Start."""
        return await self._counting.reset(**arguments)

    def step(self, action: Count) -> Counted:
        """Add."""
        if action.sleep_s:
            self.gate.wait(action.sleep_s)
        return self._counting.add(action)

    def state(self) -> CountState:
        """Describe the count."""
        return self._counting.state()


class Unbuildable(Counting):
    """Cannot be built."""

    name = "unbuildable"

    def __init__(self) -> None:
        raise ValueError("factory boom")
