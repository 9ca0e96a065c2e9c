"""The environment, without a server: equal to plain Gymnasium, and strict."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import register, registry

from gymnasium_env import (
    DictValue,
    GymnasiumAction,
    GymnasiumObservation,
    GymnasiumState,
    to_numpy,
)
from gymnasium_env.server.codec import UnsupportedSpace
from gymnasium_env.server.environment import (
    GymnasiumEnvironment,
    gymnasium_environment,
)
from openenv_async import Array, EnvironmentSpec, InvalidAction, LocalProtocolError
from openenv_async.environment import find_spec


class _Rooms(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Walks in a dictionary.

    The second paragraph is for the readme.
    """

    metadata = {"render_modes": ["human", "rgb_array", "ansi"], "render_fps": 7}  # noqa: RUF012 (Gymnasium's way)
    action_space = spaces.Dict(
        {"move": spaces.Box(-1.0, 1.0, (2,), np.float32), "open": spaces.Discrete(2)}
    )
    observation_space = spaces.Dict(
        {"at": spaces.Box(-9.0, 9.0, (2,), np.float32), "name": spaces.Text(9)}
    )

    def __init__(
        self, render_mode: str | None = None, size: float = 2.0, broken: str = ""
    ) -> None:
        self.render_mode = render_mode
        self.size = size
        self.broken = broken
        self.calls: list[str] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.calls.append("reset")
        start = (options or {}).get("start")
        self.at = self.np_random.uniform(-1, 1, 2) if start is None else start
        return self._observe(), {"options": options}

    def step(
        self, action: dict[str, Any]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.calls.append("step")
        action["move"] *= 0.5
        self.at = self.at + action["move"]
        info = {
            "mask": np.array([True, False]),
            "count": np.int64(3),
            "nested": {"list": [1, (2, "x")]},
            "self": self,
            7: 1j,
        }
        out = bool(np.abs(self.at).max() > self.size)
        return self._observe(), np.float32(0.5), np.bool_(out), False, info  # type: ignore[return-value]  # as some environments do

    def render(self) -> Any:
        if self.broken:
            raise RuntimeError(self.broken)
        self.calls.append("render")
        if self.render_mode == "ansi":
            return f"at {self.at}"
        return np.full((2, 3, 3), 9, np.uint8)

    def _observe(self) -> dict[str, Any]:
        return {"at": self.at.astype(np.float32), "name": "hall"}


class _Graphs(_Rooms):
    observation_space = spaces.Graph(spaces.Discrete(2), None)  # type: ignore[assignment]  # it is refused


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register("Rooms-v0", _Rooms, max_episode_steps=5)  # type: ignore[arg-type]  # a class is callable
    register("Graphs-v0", _Graphs)  # type: ignore[arg-type]  # a class is callable
    yield
    del registry["Rooms-v0"], registry["Graphs-v0"]


def _make(spec: EnvironmentSpec) -> GymnasiumEnvironment:
    environment = spec.factory()
    assert isinstance(environment, GymnasiumEnvironment)
    return environment


def _rooms(**arguments: Any) -> GymnasiumEnvironment:
    return _make(gymnasium_environment("Rooms-v0", **arguments))


def _calls(environment: GymnasiumEnvironment) -> list[str]:
    calls: list[str] = environment._env.unwrapped.calls  # type: ignore[attr-defined]  # ours
    return calls


def _move(x: float, *, render: bool = False) -> GymnasiumAction:
    return GymnasiumAction.of({"move": [x, 0.0], "open": 1}, render=render)


# Equal to plain Gymnasium

_EPISODES = [
    ("CartPole-v1", 500),
    ("FrozenLake-v1", 100),
    ("Taxi-v4", 200),
    ("MountainCarContinuous-v0", 999),
    ("Pendulum-v1", 200),
    ("Blackjack-v1", 20),
    ("Rooms-v0", 5),
    ("ALE/Pong-v5", 150),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("id", "steps"), _EPISODES)
def test_episode_equals_plain_gymnasium(id: str, steps: int, seed: int) -> None:
    """The same seed and actions give the same episode as Gymnasium alone."""
    environment = _make(gymnasium_environment(id))
    plain = gymnasium.make(id, disable_env_checker=True)
    plain.action_space.seed(seed)
    expected, _ = plain.reset(seed=seed)
    observation = environment.reset(seed=seed)
    np.testing.assert_equal(observation.numpy(), expected)
    assert observation.reward is None
    for _ in range(steps):
        action = plain.action_space.sample()
        observation = environment.step(GymnasiumAction.of(action))
        expected, reward, terminated, truncated, _ = plain.step(action)
        np.testing.assert_equal(observation.numpy(), expected)
        assert observation.reward == reward
        assert observation.terminated == terminated
        assert observation.truncated == truncated
        if observation.done:
            break
    plain.close()
    environment.close()


def test_time_limit_truncates() -> None:
    """The episode is truncated, not terminated, when its time is up."""
    environment = _make(gymnasium_environment("Pendulum-v1", max_episode_steps=3))
    environment.reset(seed=0)
    ends = [environment.step(GymnasiumAction(action=[0.0])) for _ in range(3)]
    assert [end.truncated for end in ends] == [False, False, True]
    assert not any(end.terminated for end in ends)
    assert environment.state().max_episode_steps == 3


# Messages


def test_messages_follow_the_schema(
    problems: Callable[[dict[str, Any], Any], list[str]],
) -> None:
    """Observations, frames and infos are what `/schema` says."""
    spec = gymnasium_environment("Rooms-v0")
    environment = _make(spec)
    schema = msgspec.json.schema(spec.observation_type)
    first = environment.reset(seed=0, options={"render": True})
    for observation in (first, environment.step(_move(0.5, render=True))):
        sent = json.loads(msgspec.json.encode(observation))
        assert problems(schema, sent) == []
        assert sent["frame"]["shape"] == [2, 3, 3]
    action = json.loads(msgspec.json.encode(_move(0.5)))
    assert problems(msgspec.json.schema(spec.action_type), action) == []
    state = json.loads(msgspec.json.encode(environment.state()))
    assert problems(msgspec.json.schema(spec.state_type), state) == []


def test_client_types_decode_every_environment() -> None:
    """What the server sends, the static types of the client understand."""
    environment = _rooms()
    environment.reset(seed=0)
    sent = environment.step(_move(0.5, render=True))
    encoded = msgspec.msgpack.encode(sent)
    got = msgspec.msgpack.decode(encoded, type=GymnasiumObservation)
    assert got.observation == sent.observation
    assert got.frame == sent.frame
    assert got.info == sent.info
    assert got.reward == 0.5


def test_server_types_decode_what_the_client_sends() -> None:
    """An action that the server decoded by its own types is played."""
    spec = gymnasium_environment("Rooms-v0")
    environment = _make(spec)
    environment.reset(options={"start": np.zeros(2)})
    encoded = msgspec.msgpack.encode(_move(0.5))
    action = msgspec.msgpack.decode(encoded, type=spec.action_type)
    at = to_numpy(environment.step(action).observation)
    assert isinstance(at, dict)
    assert at["at"].tolist() == [0.25, 0.0]


def test_info_carries_what_can_travel_and_names_the_rest() -> None:
    """Arrays, numbers, maps and lists come along; the others are named."""
    environment = _rooms()
    environment.reset()
    observation = environment.step(_move(0.0))
    mask = observation.info["mask"]
    assert isinstance(mask, Array)
    assert mask.numpy().tolist() == [True, False]
    assert observation.info["count"] == 3
    assert observation.info["nested"] == DictValue(items={"list": [1, [2, "x"]]})
    assert observation.metadata == {"info_left_out": ["self", "7"]}


def test_options_are_passed_on_without_ours() -> None:
    """`render` is ours; arrays are decoded; no options are None."""
    environment = _rooms()
    sent = msgspec.msgpack.encode({"render": True, "start": Array.of([0.5, 0.25])})
    observation = environment.reset(options=msgspec.msgpack.decode(sent))
    items = observation.numpy()
    assert isinstance(items, dict)
    assert items["at"].tolist() == [0.5, 0.25]
    passed = to_numpy(observation.info["options"])
    assert isinstance(passed, dict)
    assert passed.keys() == {"start"}
    assert environment.reset(options={"render": False}).info["options"] is None
    assert environment.reset().info["options"] is None


def test_state_describes_the_episode() -> None:
    """state() has id, seed, steps and return of the episode."""
    environment = _rooms()
    assert environment.state() == GymnasiumState(id="Rooms-v0", max_episode_steps=5)
    environment.reset(seed=3, episode_id="mine")
    environment.step(_move(0.0))
    environment.step(_move(0.0))
    state = environment.state()
    assert (state.id, state.seed, state.episode_id) == ("Rooms-v0", 3, "mine")
    assert (state.step_count, state.episode_return) == (2, 1.0)
    assert state.elapsed > 0
    environment.reset()
    assert environment.state().step_count == 0
    assert environment.state().seed is None
    assert environment.state().episode_id != "mine"


# Refusals


@pytest.mark.parametrize(
    "action",
    [
        {"move": [2.0, 0.0], "open": 1},
        {"move": [0.0, 0.0], "open": 2},
        {"move": [0.0, 0.0]},
        {"move": [0.0, 0.0], "open": 1, "more": 1},
        3,
        None,
    ],
)
def test_invalid_action_does_not_touch_the_environment(action: object) -> None:
    """An action outside the space is refused, and the episode goes on."""
    environment = _rooms()
    environment.reset()
    before = _calls(environment).copy()
    with pytest.raises(InvalidAction, match=r"expected an action in Dict\('move'"):
        environment.step(GymnasiumAction.of(action))
    assert _calls(environment) == before
    assert environment.state().step_count == 0
    environment.step(_move(0.0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"render": 1}, "boolean"),
        ({"start": {"kind": "array"}}, "array"),
        (
            {"at": [{"kind": "array", "dtype": "<f4", "shape": [3], "data": b""}]},
            "12 bytes",
        ),
    ],
)
def test_invalid_options_do_not_touch_the_environment(
    options: dict[str, Any], match: str
) -> None:
    """Options that do not fit are refused before the reset."""
    environment = _rooms()
    with pytest.raises(InvalidAction, match=match):
        environment.reset(options=options)
    assert _calls(environment) == []


# Rendering


def test_frame_comes_only_on_demand() -> None:
    """A frame is rendered when it is asked for, and not otherwise."""
    environment = _rooms()
    assert environment.reset().frame is None
    assert environment.step(_move(0.0)).frame is None
    assert "render" not in _calls(environment)
    frame = environment.step(_move(0.0, render=True)).frame
    assert isinstance(frame, Array)
    assert frame.numpy().tolist() == np.full((2, 3, 3), 9).tolist()


def test_frame_of_ansi_mode_is_text() -> None:
    """The operator may choose frames of text."""
    environment = _rooms(render_mode="ansi")
    frame = environment.reset(options={"render": True}).frame
    assert isinstance(frame, str)
    assert frame.startswith("at [")


def test_broken_rendering_does_not_cost_a_step() -> None:
    """Where rendering fails, the step that asked for a frame is not executed."""
    environment = _rooms(broken="no screen")
    environment.reset()
    with pytest.raises(InvalidAction, match="cannot render: no screen"):
        environment.step(_move(0.0, render=True))
    assert _calls(environment) == ["reset"]
    environment.step(_move(0.0))


@pytest.mark.parametrize("id", ["CartPole-v1", "FrozenLake-v1", "ALE/Pong-v5"])
def test_gymnasium_renders(id: str) -> None:
    """Gymnasium's own environments give RGB frames."""
    environment = _make(gymnasium_environment(id))
    frame = environment.reset(seed=0, options={"render": True}).frame
    assert isinstance(frame, Array)
    assert frame.dtype == "|u1"
    assert frame.shape[2] == 3
    environment.close()


def test_frame_is_refused_where_the_mode_has_none() -> None:
    """A render mode without frames refuses the step that asks for one."""
    environment = _rooms(render_mode="human")
    environment.reset()
    with pytest.raises(InvalidAction, match="render mode 'human'"):
        environment.step(_move(0.0, render=True))
    with pytest.raises(InvalidAction, match="render mode 'human'"):
        environment.reset(options={"render": True})


# Descriptions


def test_metadata_describes_the_environment() -> None:
    """Metadata has the facts that Gymnasium's spec has."""
    metadata = gymnasium_environment("Rooms-v0").metadata
    assert metadata.name == "Rooms-v0"
    assert metadata.description == "Walks in a dictionary."
    assert metadata.readme.endswith("The second paragraph is for the readme.")
    assert metadata.extra == {
        "id": "Rooms-v0",
        "gymnasium_version": gymnasium.__version__,
        "action_space": str(_Rooms.action_space),
        "observation_space": str(_Rooms.observation_space),
        "render_modes": ["human", "rgb_array", "ansi"],
        "render_mode": "rgb_array",
        "render_fps": 7,
        "max_episode_steps": 5,
        "reward_threshold": None,
        "nondeterministic": False,
    }
    msgspec.json.encode(metadata)


def test_find_spec_takes_the_arguments_of_a_query() -> None:
    """`gymnasium_env?id=...` names an environment with its arguments."""
    spec = find_spec("gymnasium_env?id=Rooms-v0&size=0.5&max_episode_steps=9")
    assert spec.name == "Rooms-v0"
    assert spec.execution == "thread"
    assert spec.metadata.extra["max_episode_steps"] == 9
    environment = _make(spec)
    environment.reset(options={"start": np.zeros(2)})
    assert not environment.step(_move(0.5)).terminated
    assert environment.step(_move(1.0)).terminated


def test_module_registers_the_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that registers ids is imported first."""
    (tmp_path / "my_games.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', "
        "'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = find_spec("gymnasium_env?id=Mine-v0&module=my_games")
    assert spec.name == "Mine-v0"
    del registry["Mine-v0"]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("gymnasium_env?id=Nothing-v0", "'Nothing-v0'"),
        ("gymnasium_env?id=CartPole-v1&colour=red", "colour"),
        ("gymnasium_env?id=CartPole-v1&module=no_such_module", "no_such_module"),
        ("gymnasium_env", "id"),
    ],
)
def test_unknown_environment_is_a_clear_error(target: str, match: str) -> None:
    """What cannot be made is an error that says what was asked for."""
    with pytest.raises(LocalProtocolError, match=match):
        find_spec(target)


def test_unsupported_space_is_a_clear_error() -> None:
    """An environment with a Graph space cannot be served."""
    with pytest.raises(UnsupportedSpace, match=r"Observation, got Graph\("):
        find_spec("gymnasium_env?id=Graphs-v0")


def test_sessions_that_draw_and_close_do_not_disturb_each_other() -> None:
    """In threads, a frame is the same whatever the others draw and close meanwhile."""
    factory = gymnasium_environment("CartPole-v1").factory
    frames: list[bytes] = []
    done = threading.Event()

    def draw_and_close() -> None:
        while not done.is_set():
            other = factory()
            other.reset(seed=1, options={"render": True})
            other.close()

    others = [threading.Thread(target=draw_and_close) for _ in range(3)]
    for thread in others:
        thread.start()
    try:
        environment = factory()
        for _ in range(60):
            observation = environment.reset(seed=0, options={"render": True})
            assert isinstance(observation, GymnasiumObservation)
            assert isinstance(observation.frame, Array)
            frames.append(bytes(observation.frame.data))
    finally:
        done.set()
        for thread in others:
            thread.join()
    environment.close()
    assert len(set(frames)) == 1
