"""What is played in the interoperability suite: calls, the same for every client.

A call is its name and its arguments. A script is made so that every client may play it:
after a call that raises comes a reset, because our own protocol demands one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

__all__ = ["REPOSITORY", "SCRIPTS", "Call", "Script"]

Call: TypeAlias = tuple[str, Mapping[str, Any]]
Script: TypeAlias = list[Call]

_STATE: Final[Call] = ("state", {})


def _reset(**arguments: Any) -> Call:
    return ("reset", arguments)


def _step(**action: Any) -> Call:
    return ("step", action)


def _tool(name: str, **arguments: Any) -> Call:
    return _step(type="call_tool", tool_name=name, arguments=arguments)


def _steps(key: str, *values: object) -> Script:
    """A step for each value of one field, each followed by a look at the state."""
    return [call for value in values for call in (_step(**{key: value}), _STATE)]


_CODE: Final = (
    "print('hello')\n40 + 2",
    "x = [n * n for n in range(5)]\nprint(sum(x))",
    "print(x[-1])",
    "1 / 0",
    "open('x')",
    "print('after')",
)
_ANSWER: Final = (
    '{"analysis": "It says so.", "proof": "Mice had fewer tumours.", '
    '"final": "It did."}'
)
_DIRECTIONS: Final = (2, 1, 1, 2, 2, 1, 0, 3, 2)
"""With the seeds below, all but the last step leave one on the ice."""

SCRIPTS: Final[dict[str, Script]] = {
    "echo": [
        _reset(episode_id="e"),
        _step(type="list_tools"),
        _tool("echo_message", message="hällo"),
        _tool("measure", message="abc", times=3),
        _tool("fail", message="no"),
        _tool("nothing"),
        _STATE,
        _reset(),
        _STATE,
    ],
    "echo/tools": [
        ("tools", {}),
        ("call", {"name": "echo_message", "to": {"message": "hi"}}),
        ("call", {"name": "measure", "to": {"message": "hi"}}),
    ],
    "coding": [
        _reset(episode_id="e"),
        *_steps("code", *_CODE),
        _step(code=5),
        _step(code="print(1)", language="python"),
        _step(),
        *_steps("code", "print(x)"),
        _reset(),
        *_steps("code", "print(x)"),
    ],
    "chess_game": [
        _reset(),
        *_steps("uci", "e2e4", "e7e5", "d1h5", "b8c6", "f1c4", "g8f6", "h5f7"),
        _reset(fen="8/8/8/8/8/5k2/5p2/5K2 w - - 0 1"),
        _STATE,
        _reset(fen="nonsense"),
        _reset(),
        _step(uci="e2e5"),
        _reset(),
        *_steps("uci", "g1f3"),
    ],
    "lake": [
        _reset(seed=7, episode_id="e"),
        *_steps("direction", *_DIRECTIONS),
        _reset(seed=8),
        *_steps("direction", *_DIRECTIONS[:4]),
        _step(direction="up"),
        _reset(seed=7),
        _step(direction=9),
        _reset(seed=7),
        *_steps("direction", 2, 1),
    ],
    "reasoning": [
        call
        for name in ("basic_arithmetic", "leg_counting", "spell_backward")
        for call in (
            _reset(seed=3, name=name),
            _STATE,
            _step(answer="42"),
            _STATE,
            _reset(seed=4, name=name),
            _step(),
            _step(answer="0"),
        )
    ]
    + [_reset(name="unheard of"), _reset(), _STATE],
    "scaffold": [
        _reset(),
        *_steps("message", "hi", "", "ünï"),
        _step(text="hi"),
        _step(message=None),
        _reset(),
        _STATE,
    ],
    "dipg": [
        _reset(),
        _STATE,
        _step(llm_response=_ANSWER),
        _STATE,
        _reset(),
        _step(llm_response="I cannot tell."),
        _reset(),
        _step(),
        _step(llm_response=""),
        _STATE,
    ],
}
"""Those whose packages are on PyPI, and so are played wherever the suite is.

`echo/tools` is played with clients for tools, in the same environment as `echo`.
"""

REPOSITORY: Final[dict[str, Script]] = {
    "echo_env": [
        _reset(episode_id="e"),
        _step(type="list_tools"),
        _tool("echo_message", message="hi"),
        _tool("echo_with_length", message="hi"),
        _tool("nothing"),
        _STATE,
    ],
    "echo_env/tools": [
        ("tools", {}),
        ("call", {"name": "echo_with_length", "to": {"message": "hi"}}),
    ],
    "coding_env": [
        _reset(),
        *_steps("code", *_CODE[:3], _CODE[-1]),
        _step(code="print(1)", language="python"),
        _step(code="import os; os.system('x')"),
        _STATE,
    ],
    "connect4_env": [
        _reset(),
        *_steps("column", 3, 4, 3, 4, 3, 4, 3),
        _reset(),
        *_steps("column", 9),
        _reset(),
        _step(column="left"),
        *_steps("column", 0),
    ],
    "chess_env": [
        _reset(),
        *_steps("move", "e2e4", "e9e5", "nothing", "d2d4"),
        _reset(fen="7k/5Q2/6K1/8/8/8/8/8 w - - 0 1"),
        *_steps("move", "f7g7"),
        _reset(fen="nonsense"),
        _reset(),
        _STATE,
    ],
    "grid_world_env": [
        _reset(),
        *_steps("action", *(["DOWN"] * 4), *(["RIGHT"] * 4)),
        _reset(),
        _step(action="AWAY"),
        _STATE,
    ],
    "maze_env": [
        _reset(seed=1),
        *_steps("action", 0, 1, 2, 3, 3, 1, 1),
        _reset(),
        _step(action="x"),
        *_steps("action", 3),
    ],
    "reasoning_gym_env": [
        _reset(dataset_name="leg_counting", seed=5, size=3),
        *_steps("answer", "4"),
        _reset(),
        *_steps("answer", "5"),
        _reset(dataset_name="leg_counting"),
        _reset(),
        _step(),
        _STATE,
    ],
}
"""Those that only OpenEnv's repository has, by their folders' names."""
