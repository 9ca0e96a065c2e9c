"""Environments of the interoperability suite once more, written for our own server.

Field for field and step for step what `hosted/interop_environments.py` does with
OpenEnv's classes, on the same libraries. Fields have no defaults, because an untyped
client of ours does not see a field that has its default.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from smolagents import LocalPythonExecutor

from openenv_async import Action, Environment, Observation, State
from openenv_async.tools import EpisodeBegun, ToolEnvironment, ToolObservation, tool

__all__ = ["TWINS"]


class Echo(ToolEnvironment):
    """Tools: one that echoes, one that measures, one that fails."""

    any_order = True

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> ToolObservation:
        """Begin."""
        super().reset(seed=seed, episode_id=episode_id, options=options)
        return EpisodeBegun(reward=0.0)

    @tool
    async def echo_message(self, message: str) -> str:
        """Say it again."""
        return message

    @tool
    async def measure(self, message: str, times: int = 1) -> dict[str, Any]:
        """Say how long it is."""
        return {"message": message, "length": times * len(message)}

    @tool
    async def fail(self, message: str) -> str:
        """Fail."""
        raise ValueError(message)


class Code(Action):
    """Python to be run."""

    code: str


class Output(Observation):
    """What it printed."""

    stdout: str
    stderr: str
    exit_code: int


class CodingState(State):
    """How the last run ended."""

    last_exit_code: int


class Coding(Environment[Code, Output, CodingState]):
    """Runs Python as OpenEnv's executor does."""

    any_order = True

    def __init__(self) -> None:
        self._executor = LocalPythonExecutor(additional_authorized_imports=[])
        self._state = CodingState(last_exit_code=0)

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Output:
        """Forget all variables."""
        self._executor = LocalPythonExecutor(additional_authorized_imports=[])
        self._executor.send_tools({})
        self._state = CodingState(episode_id=episode_id, last_exit_code=0)
        return Output(stdout="", stderr="", exit_code=0)

    def step(self, action: Code) -> Output:
        """Run the code."""
        output = self._run(action.code)
        self._state = CodingState(
            episode_id=self._state.episode_id,
            step_count=self._state.step_count + 1,
            last_exit_code=output.exit_code,
        )
        return output

    def _run(self, code: str) -> Output:
        try:
            result = self._executor(code)
        except Exception as error:  # noqa: BLE001 (whatever the code raised)
            text = f"{type(error).__module__}.{type(error).__qualname__}: {error}"
            return Output(stdout="", stderr=text.splitlines()[-1], exit_code=1)
        shown = [result.logs] if result.logs else []
        if result.output is not None:
            shown.append(repr(result.output))
        return Output(stdout="\n".join(shown), stderr="", exit_code=0)

    def state(self) -> CodingState:
        """How the last run ended."""
        return self._state


class Walk(Action):
    """Where to go."""

    direction: int


class Place(Observation):
    """Where one is."""

    position: int


class Lake(Environment[Walk, Place, State]):
    """Gymnasium's slippery lake, whose ice is as the seed has it."""

    any_order = True

    def __init__(self) -> None:
        self._lake = gymnasium.make("FrozenLake-v1", is_slippery=True)
        self._episode_id: str | None = None
        self._steps = 0

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Place:
        """Begin in a corner."""
        self._episode_id, self._steps = episode_id, 0
        return Place(position=int(self._lake.reset(seed=seed)[0]))

    def step(self, action: Walk) -> Place:
        """Walk, or slip; raises for what is no direction."""
        position, reward, terminated, truncated, info = self._lake.step(
            action.direction
        )
        self._steps += 1
        return Place(
            position=int(position),
            reward=float(reward),
            terminated=terminated,
            truncated=truncated,
            metadata={"prob": round(float(info["prob"]), 6)},
        )

    def state(self) -> State:
        """How many steps there were."""
        return State(episode_id=self._episode_id, step_count=self._steps)


TWINS = {"echo": Echo, "coding": Coding, "lake": Lake}
"""By the name of what they are twins of."""
