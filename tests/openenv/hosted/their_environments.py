"""Environments as OpenEnv's authors write them; imported where OpenEnv is installed."""

from __future__ import annotations

import asyncio
import datetime
import os
import threading
import time
from typing import Any, Optional

from fastmcp import FastMCP  # type: ignore[import-not-found]  # lives in a venv of its own
from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    CallToolAction,
    CallToolObservation,
    Environment,
    Observation,
    State,
    Transform,
    create_app,
)
from openenv.core.env_server.mcp_environment import (  # type: ignore[import-not-found]  # lives in a venv of its own
    MCPEnvironment,
)
from openenv.core.env_server.types import (  # type: ignore[import-not-found]  # lives in a venv of its own
    EnvironmentMetadata,
)
from openenv.core.rubrics import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Rubric,
)
from pydantic import Field, field_serializer, field_validator


class CountAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """Add a number, or misbehave."""

    delta: int = Field(ge=-10, le=10)
    mood: str = "well"
    sleep: float = 0.0

    @field_validator("delta")
    @classmethod
    def _not_seven(cls, delta: int) -> int:
        if delta == 7:
            raise ValueError("not seven")
        return delta


class CountObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """What the total is, and what kinds of values there are."""

    total: int = 0
    note: Optional[str] = None  # noqa: UP045 (as its authors write it)
    when: Optional[datetime.datetime] = None  # noqa: UP045 (as above)
    values: list[float] = Field(default_factory=list)
    process: int = 0
    thread: int = 0

    @field_serializer("note")
    def _note(self, note: str | None) -> str | None:
        return note and note.upper()


class CountState(State):  # type: ignore[misc]  # its classes are untyped here
    """Where the episode is."""

    total: int = 0


class Doubled(Rubric):  # type: ignore[misc]  # its classes are untyped here
    """Rewards the doubled number."""

    def forward(self, action: Any, observation: Any) -> float:
        """The reward."""
        return 2.0 * float(action.delta)


class Noted(Transform):  # type: ignore[misc]  # its classes are untyped here
    """Adds a note."""

    def __call__(self, observation: Any) -> Any:
        """Write it down."""
        observation.metadata = {**observation.metadata, "noted": True}
        return observation


class CountEnvironment(Environment[CountAction, CountObservation, CountState]):  # type: ignore[misc]  # its classes are untyped here
    """Counts up to ten, on one thread."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    shared = 0

    def __init__(self, goal: int = 10) -> None:
        super().__init__(transform=Noted(), rubric=Doubled())
        self._thread = threading.get_ident()
        self._goal = goal
        self._state = CountState()

    def _seen(self, **fields: Any) -> CountObservation:
        assert threading.get_ident() == self._thread, "called on another thread"
        return CountObservation(
            total=self._state.total,
            done=self._state.total >= self._goal,
            process=os.getpid(),
            thread=threading.get_ident(),
            **fields,
        )

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, start: int = 0
    ) -> CountObservation:
        """Begin at `start`."""
        if start < 0:
            raise RuntimeError("bad start")
        type(self).shared = 0
        self._state = CountState(episode_id=episode_id, step_count=0, total=start)
        return self._seen(note="reset", metadata={"seed": seed})

    def step(self, action: CountAction, **_: Any) -> CountObservation:
        """Add the number."""
        time.sleep(action.sleep)
        if action.mood == "bad":
            raise ValueError("in a bad mood")
        if action.mood == "strange":
            return {"total": 1}  # type: ignore[return-value]  # the mistake
        if action.mood == "deadly":
            os._exit(3)
        self._state.step_count += 1
        self._state.total += action.delta
        type(self).shared += 1
        observation = self._seen()
        if action.mood == "rich":
            observation.note = "rich"
            observation.when = datetime.datetime(2026, 1, 2, 3, 4, 5)
            observation.values = [1.0, float("nan")]
        if action.mood == "cut":
            observation.done = True
            observation.metadata = {"truncated": True}
        observation.reward = self._apply_rubric(action, observation)
        return self._apply_transform(observation)  # type: ignore[no-any-return]  # untyped

    @property
    def state(self) -> CountState:
        """Where the episode is."""
        return self._state

    def get_metadata(self) -> EnvironmentMetadata:
        """Describe it."""
        return EnvironmentMetadata(name="Count", description="Counts.", version="3.2")

    def list_splits(self) -> list[Any]:
        """The splits."""
        return ["train", {"name": "hard", "type": "test"}]

    def num_tasks(self, split: str) -> int:
        """How many tasks each has."""
        return {"train": 3, "hard": 1}[split]


class AsyncEnvironment(CountEnvironment):
    """The same, stepped on the event loop and reset on a thread."""

    async def step_async(self, action: CountAction, **_: Any) -> CountObservation:
        """Add the number, after a while."""
        await asyncio.sleep(action.sleep)
        self._thread = threading.get_ident()
        return self.step(action.model_copy(update={"sleep": 0.0}))

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, start: int = 0
    ) -> CountObservation:
        """Begin at `start`."""
        self._thread = threading.get_ident()
        return super().reset(seed, episode_id, start)


class LoneEnvironment(CountEnvironment):
    """One that is not made for company: its count is the class's."""

    SUPPORTS_CONCURRENT_SESSIONS = False

    @property
    def state(self) -> CountState:
        """Where all episodes are."""
        return CountState(step_count=type(self).shared)


class BrowserEnvironment(CountEnvironment):
    """One whose sessions have to be on one thread."""

    REQUIRES_SINGLE_THREAD_EXECUTOR = True


class BrokenEnvironment(CountEnvironment):
    """One that cannot be built."""

    def __init__(self) -> None:
        raise RuntimeError("no browser here")


class ToolsEnvironment(MCPEnvironment):  # type: ignore[misc]  # untyped here
    """Tools of FastMCP's."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("tools")
        self._state = State(step_count=0)

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def add(a: int, b: int = 1) -> int:
            """Add two numbers."""
            return a + b

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def fail() -> str:
            """Fail."""
            raise ValueError("as it does")

        super().__init__(server)

    def reset(self, **_: Any) -> Observation:
        """Begin."""
        self._state = State(step_count=0)
        return Observation(metadata={"status": "ready"})

    def _step_impl(self, action: Any, **_: Any) -> Observation:
        return Observation(metadata={"unknown": type(action).__name__})

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state


class RecordedEnvironment(MCPEnvironment):  # type: ignore[misc]  # untyped here
    """The environment of the recorded conversation about tools."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("recorded")
        self._state = State(episode_id="e1", step_count=0)

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def echo_message(message: str) -> str:
            """Echo a message"""
            return message

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def stats(message: str, n: int = 2) -> dict[str, Any]:
            """Some stats"""
            return {"len": len(message), "n": n}

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def fail(message: str) -> str:
            """Always fails"""
            raise ValueError(f"tool failure: {message}")

        super().__init__(server)

    def reset(self, **_: Any) -> Observation:
        """Begin."""
        self._state = State(episode_id="e1", step_count=0)
        return Observation(reward=0.0, metadata={"status": "ready"})

    async def step_async(self, action: Any, **rest: Any) -> Observation:
        """Count whatever comes."""
        self._state.step_count += 1
        return await super().step_async(action, **rest)

    def _step_impl(self, action: Any, **_: Any) -> Observation:
        return Observation(metadata={"unknown": type(action).__name__})

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state


def make_counting(goal: int = 2) -> CountEnvironment:
    """A factory that is no class."""
    return CountEnvironment(goal=goal)


def choose_class(limit: int = 3) -> type[CountEnvironment]:
    """A function that returns a class."""

    class ChosenEnvironment(CountEnvironment):
        """Counts up to what was chosen."""

        def __init__(self) -> None:
            super().__init__(goal=limit)

    return ChosenEnvironment


def make_app() -> Any:
    """A factory of applications."""
    return create_app(make_counting, CountAction, CountObservation, env_name="made_app")


app = create_app(
    CountEnvironment,
    CountAction,
    CountObservation,
    env_name="counting",
    max_concurrent_envs=64,
    state_cls=CountState,
)
tools_app = create_app(
    ToolsEnvironment,
    CallToolAction,
    CallToolObservation,
    env_name="tools",
    max_concurrent_envs=64,
)
recorded_app = create_app(
    RecordedEnvironment,
    CallToolAction,
    CallToolObservation,
    env_name="recorded",
    max_concurrent_envs=64,
)
