"""Environments over libraries from PyPI, as OpenEnv's authors write them.

Each is served twice, by OpenEnv and by us, and played with the same actions. What is
named `repository_...` serves environments of OpenEnv's repository, found in a checkout.
"""

from __future__ import annotations

import functools
from typing import Any

import chess  # type: ignore[import-not-found]  # lives in a venv of its own
import gymnasium
import reasoning_gym  # type: ignore[import-not-found]  # lives in a venv of its own
from fastmcp import FastMCP  # type: ignore[import-not-found]  # lives in a venv of its own
from openenv.core.env_server import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Action,
    CallToolAction,
    CallToolObservation,
    Environment,
    Observation,
    State,
    create_app,
)
from openenv.core.env_server.mcp_environment import (  # type: ignore[import-not-found]  # lives in a venv of its own
    MCPEnvironment,
)
from openenv.core.rubrics import (  # type: ignore[import-not-found]  # lives in a venv of its own
    Rubric,
)
from openenv.core.tools.local_python_executor import (  # type: ignore[import-not-found]  # lives in a venv of its own
    PyExecutor,
)

_SESSIONS = 16


class EchoEnvironment(MCPEnvironment):  # type: ignore[misc]  # untyped here
    """Tools: one that echoes, one that measures, one that fails."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        server = FastMCP("echo")
        self._state = State()

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def echo_message(message: str) -> str:
            """Say it again."""
            return message

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def measure(message: str, times: int = 1) -> dict[str, Any]:
            """Say how long it is."""
            return {"message": message, "length": times * len(message)}

        @server.tool  # type: ignore[untyped-decorator]  # as above
        def fail(message: str) -> str:
            """Fail."""
            raise ValueError(message)

        super().__init__(server)

    def reset(self, episode_id: str | None = None, **_: Any) -> Observation:
        """Begin."""
        self._state = State(episode_id=episode_id)
        return Observation(reward=0.0)

    def _step_impl(self, action: Any, **_: Any) -> Observation:
        return Observation(metadata={"unknown": type(action).__name__})

    async def step_async(self, action: Any, **rest: Any) -> Observation:
        """Count calls of tools."""
        if isinstance(action, CallToolAction):
            self._state.step_count += 1
        return await super().step_async(action, **rest)

    @property
    def state(self) -> State:
        """How many calls there were."""
        return self._state


class Code(Action):  # type: ignore[misc]  # its classes are untyped here
    """Python to be run."""

    code: str


class Output(Observation):  # type: ignore[misc]  # its classes are untyped here
    """What it printed."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0


class CodingState(State):  # type: ignore[misc]  # its classes are untyped here
    """How the last run ended."""

    last_exit_code: int = 0


class CodingEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """OpenEnv's executor of Python."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._executor = PyExecutor()
        self._state = CodingState()

    def reset(self, episode_id: str | None = None) -> Output:
        """Forget all variables."""
        self._executor = PyExecutor()
        self._state = CodingState(episode_id=episode_id)
        return Output()

    def step(self, action: Code, **_: Any) -> Output:
        """Run the code."""
        result = self._executor.run(action.code)
        self._state.step_count += 1
        self._state.last_exit_code = result.exit_code
        # A traceback names files, which differ from one installation to the next.
        lines = result.stderr.strip().splitlines()
        return Output(
            stdout=result.stdout,
            stderr=lines[-1] if lines else "",
            exit_code=result.exit_code,
        )

    @property
    def state(self) -> CodingState:
        """How the last run ended."""
        return self._state


class Move(Action):  # type: ignore[misc]  # its classes are untyped here
    """A move in UCI notation."""

    uci: str


class Position(Observation):  # type: ignore[misc]  # its classes are untyped here
    """The board."""

    fen: str = ""
    legal_moves: list[str] = []  # noqa: RUF012 (pydantic copies it)
    in_check: bool = False


class Winner(Rubric):  # type: ignore[misc]  # its classes are untyped here
    """Rewards who mates."""

    def forward(self, action: Any, observation: Any) -> float:
        """One point for a win."""
        return 1.0 if observation.done and observation.in_check else 0.0


class ChessEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Chess for both sides, not made for several sessions in a process."""

    def __init__(self) -> None:
        super().__init__(rubric=Winner())
        self._board = chess.Board()
        self._state = State()

    def reset(self, fen: str = chess.STARTING_FEN) -> Position:
        """Set up the board; raises ValueError for no position."""
        self._board = chess.Board(fen)
        self._state = State(side="white")
        return self._seen()

    def step(self, action: Move, **_: Any) -> Position:
        """Move; raises ValueError for what is no legal move."""
        self._board.push_uci(action.uci)
        self._state.step_count += 1
        self._state.side = "white" if self._board.turn else "black"
        seen = self._seen()
        seen.reward = self._apply_rubric(action, seen)
        return seen

    def _seen(self) -> Position:
        return Position(
            fen=self._board.fen(),
            legal_moves=sorted(move.uci() for move in self._board.legal_moves),
            in_check=self._board.is_check(),
            done=self._board.is_game_over(),
        )

    @property
    def state(self) -> State:
        """Whose turn it is."""
        return self._state


class Walk(Action):  # type: ignore[misc]  # its classes are untyped here
    """Where to go."""

    direction: int


class Place(Observation):  # type: ignore[misc]  # its classes are untyped here
    """Where one is."""

    position: int = 0


class LakeEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """Gymnasium's slippery lake, whose ice is as the seed has it."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._lake = gymnasium.make("FrozenLake-v1", is_slippery=True)
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> Place:
        """Begin in a corner."""
        position, _ = self._lake.reset(seed=seed)
        self._state = State(episode_id=episode_id)
        return Place(position=position)

    def step(self, action: Walk, **_: Any) -> Place:
        """Walk, or slip; raises for what is no direction."""
        position, reward, terminated, truncated, info = self._lake.step(
            action.direction
        )
        self._state.step_count += 1
        return Place(
            position=position,
            reward=reward,
            done=terminated or truncated,
            metadata={"prob": round(float(info["prob"]), 6)},
        )

    @property
    def state(self) -> State:
        """How many steps there were."""
        return self._state


class Answer(Action):  # type: ignore[misc]  # its classes are untyped here
    """To the question."""

    answer: str


class Question(Observation):  # type: ignore[misc]  # its classes are untyped here
    """The question, and afterwards its answer."""

    question: str | None = None
    correct: str | None = None
    details: dict[str, Any] | None = None


class ReasoningEnvironment(Environment):  # type: ignore[misc]  # its classes are untyped here
    """One question of a generated data set for each episode."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._data: Any = None
        self._entry: Any = None
        self._state = State()

    async def reset_async(
        self, seed: int = 0, name: str = "basic_arithmetic", **_: Any
    ) -> Question:
        """Generate a question."""
        self._data = reasoning_gym.create_dataset(name, size=1, seed=seed)
        self._entry = self._data[0]
        self._state = State(data=name)
        return Question(question=self._entry["question"])

    def reset(self, **arguments: Any) -> Question:
        """Not used where there is a coroutine method."""
        raise NotImplementedError

    def step(self, action: Answer, **_: Any) -> Question:
        """Score the answer."""
        self._state.step_count += 1
        return Question(
            correct=self._entry["answer"],
            details={"difficulty": self._entry["metadata"].get("difficulty")},
            reward=self._data.score_answer(action.answer, self._entry),
            done=True,
        )

    def list_splits(self) -> list[str]:
        """The splits."""
        return ["train"]

    @property
    def state(self) -> State:
        """Which data set it is."""
        return self._state


def repository_chess() -> Any:
    """Chess of the repository, against the engine, always as white."""
    from chess_env.models import (  # type: ignore[import-not-found]  # noqa: PLC0415 (only with a checkout)
        ChessAction,
        ChessObservation,
    )
    from chess_env.server.chess_environment import (  # type: ignore[import-not-found]  # noqa: PLC0415 (as above)
        ChessEnvironment as Theirs,
    )

    return create_app(
        functools.partial(Theirs, agent_color="white", opponent_depth=1),
        ChessAction,
        ChessObservation,
        env_name="chess_env",
    )


def _app(environment: Any, action: Any, observation: Any, **options: Any) -> Any:
    return create_app(
        environment,
        action,
        observation,
        env_name=environment.__name__,
        **options,
    )


echo = _app(
    EchoEnvironment, CallToolAction, CallToolObservation, max_concurrent_envs=_SESSIONS
)
coding = _app(
    CodingEnvironment,
    Code,
    Output,
    max_concurrent_envs=_SESSIONS,
    state_cls=CodingState,
)
chess_game = _app(ChessEnvironment, Move, Position)
lake = _app(LakeEnvironment, Walk, Place, max_concurrent_envs=_SESSIONS)
reasoning = _app(ReasoningEnvironment, Answer, Question, max_concurrent_envs=_SESSIONS)
