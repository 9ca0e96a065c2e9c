"""A server of OpenEnv's own, for clients of ours; run by an interpreter that has it.

`python count_server.py` reads a JSON object of options from its arguments, and prints
the port when it listens.
"""

from __future__ import annotations

import inspect
import json
import socket
import sys
import time
from typing import Any

import uvicorn
from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    Environment,
    Observation,
    State,
    create_app,
)
from pydantic import Field, field_validator

OPTIONS: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


class CountAction(Action):  # type: ignore[misc]  # its classes are untyped here
    """Add a number, or misbehave."""

    delta: int = Field(default=1, ge=-10, le=10)
    sleep: float = 0.0
    fail: str = ""
    reward: Any = None
    note: str = ""
    size: int = 0

    @field_validator("delta")
    @classmethod
    def _not_seven(cls, delta: int) -> int:
        if delta == 7:
            raise ValueError("seven ends the session, as OpenEnv does it")
        return delta


class CountObservation(Observation):  # type: ignore[misc]  # its classes are untyped here
    """What the total is now."""

    total: int = 0
    note: str = ""
    instance: int = 0


class CountState(State):  # type: ignore[misc]  # its classes are untyped here
    """What the total is now."""

    total: int = 0
    closed: int = 0


class CountEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Counts up to ten."""

    SUPPORTS_CONCURRENT_SESSIONS = True
    made = 0
    closed = 0

    def __init__(self) -> None:
        super().__init__()
        CountEnvironment.made += 1
        self._instance = CountEnvironment.made
        self._state = CountState()
        self._counts = True

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **options: Any
    ) -> CountObservation:
        """Begin at `start`."""
        if options.get("fail"):
            raise RuntimeError(options["fail"])
        self._counts = options.get("counts", True)
        time.sleep(options.get("sleep", 0.0))
        self._state = CountState(
            episode_id=episode_id, total=options.get("start", 0), step_count=0
        )
        metadata = {"seed": seed, "options": sorted(options)}
        return self._observe(reward=None, note="reset", metadata=metadata)

    def step(self, action: CountAction, **_: Any) -> CountObservation:
        """Add the number."""
        if action.fail == "before":
            raise RuntimeError("failed before it counted")
        if self._counts:
            self._state.step_count += 1
        self._state.total += action.delta
        time.sleep(action.sleep)
        if action.fail:
            raise RuntimeError(action.fail)
        reward = float(action.delta) if action.reward is None else action.reward
        return self._observe(reward=reward, note=action.note or "x" * action.size)

    def _observe(self, **fields: Any) -> CountObservation:
        total = self._state.total
        return CountObservation(
            total=total, done=total >= 10, instance=self._instance, **fields
        )

    @property
    def state(self) -> CountState:
        """Where the episode is."""
        self._state.closed = CountEnvironment.closed
        return self._state

    def close(self) -> None:
        """Count that, too."""
        CountEnvironment.closed += 1


def tools_app() -> Any:
    """An environment of tools."""
    from fastmcp import FastMCP  # type: ignore[import-not-found]  # noqa: PLC0415 (only this one needs it)
    from openenv.core.env_server import (  # noqa: PLC0415 (as above)
        CallToolAction,
        CallToolObservation,
    )
    from openenv.core.env_server.mcp_environment import (  # type: ignore[import-not-found]  # noqa: PLC0415 (as above)
        MCPEnvironment,
    )

    class ToolsEnvironment(MCPEnvironment):  # type: ignore[misc]  # untyped here
        """One tool that works, one that fails."""

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

    return create_app(
        ToolsEnvironment,
        CallToolAction,
        CallToolObservation,
        env_name="tools",
        max_concurrent_envs=OPTIONS.get("sessions", 64),
    )


def count_app() -> Any:
    """The environment that counts."""
    # Version 0.2.3 knows no other.
    takes_state = "state_cls" in inspect.signature(create_app).parameters
    return create_app(
        CountEnvironment,
        CountAction,
        CountObservation,
        env_name="count",
        max_concurrent_envs=OPTIONS.get("sessions", 64),
        **({"state_cls": CountState} if takes_state else {}),
    )


def main() -> None:
    """Serve until killed."""
    app = tools_app() if OPTIONS.get("tools") else count_app()
    if "path" in OPTIONS:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(OPTIONS["path"])
        listener.listen(1024)
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps(listener.getsockname()), flush=True)  # noqa: T201 (its caller reads it)
    config = uvicorn.Config(app, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
