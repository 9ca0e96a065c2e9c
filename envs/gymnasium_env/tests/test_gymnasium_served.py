"""Gymnasium environments behind a server, with the typed client."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import httpx
import numpy as np
import pytest

from gymnasium_env import DictValue, GymnasiumAction, GymnasiumEnv
from gymnasium_env.server.app import app
from gymnasium_env.server.environment import gymnasium_environment
from openenv_async import (
    Array,
    GenericEnv,
    InvalidAction,
    LocalProvider,
    StepResult,
)


class _Step(NamedTuple):
    action: Any
    observation: Any
    reward: float | None
    done: bool


def _play(id: str, seed: int, steps: int) -> list[_Step]:
    """An episode of Gymnasium alone."""
    # The factory registers what needs it.
    gymnasium_environment(id)
    env = gymnasium.make(id, disable_env_checker=True)
    env.action_space.seed(seed)
    played = [_Step(None, env.reset(seed=seed)[0], None, False)]
    while not played[-1].done and len(played) <= steps:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        played.append(
            _Step(action, observation, float(reward), terminated or truncated)
        )
    env.close()
    return played


@pytest.fixture
def expected(request: pytest.FixtureRequest) -> dict[str, list[_Step]]:
    """Episodes of Gymnasium alone, by id."""
    return {id: _play(id, seed=3, steps=60) for id in request.param}


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        (None, ["CartPole-v1", "Blackjack-v1", "Pendulum-v1", "ALE/Pong-v5"]),
        ("inline", ["CartPole-v1"]),
        ("process", ["CartPole-v1"]),
    ],
    indirect=["expected"],
    ids=str,
)
async def test_served_episode_equals_plain_gymnasium(
    execution: Any, expected: dict[str, list[_Step]]
) -> None:
    """An episode over the wire is the same as one of Gymnasium alone."""
    provider = LocalProvider(
        *(f"gymnasium_env?id={id}" for id in expected), execution=execution
    )
    served = await provider.start()
    try:
        for id, (first, *steps) in expected.items():
            async with GymnasiumEnv(served.url, environment=id) as env:
                result = await env.reset(seed=3)
                np.testing.assert_equal(result.observation.numpy(), first.observation)
                for step in steps:
                    result = await env.step(GymnasiumAction.of(step.action))
                    np.testing.assert_equal(
                        result.observation.numpy(), step.observation
                    )
                    assert (result.reward, result.done) == (step.reward, step.done)
                assert (await env.state()).step_count == len(steps)
    finally:
        await provider.stop()


async def test_batch_steps_every_session_by_its_seed() -> None:
    """Sessions of a batch with equal seeds are equal, the others differ."""
    provider = LocalProvider("gymnasium_env?id=CartPole-v1", execution="inline")
    async with GymnasiumEnv.batch(size=16, provider=provider) as envs:
        await envs.reset(seeds=[number // 2 for number in range(16)])
        results = await envs.step([GymnasiumAction(action=1)] * 16)
        seen = [
            result.observation.numpy()
            for result in results
            if isinstance(result, StepResult)
        ]
        assert len(seen) == 16
        np.testing.assert_equal(seen[0::2], seen[1::2])
        assert len({str(observation) for observation in seen}) == 8


async def test_refused_action_costs_nothing() -> None:
    """An action out of the space is refused; the episode goes on as if nothing."""
    async with GymnasiumEnv.local("gymnasium_env?id=MountainCarContinuous-v0") as env:
        await env.reset(seed=0)
        with pytest.raises(InvalidAction, match=r"Box\(-1.0, 1.0.*got array\(\[2.\]"):
            await env.step(GymnasiumAction.of(np.array([2.0])))
        with pytest.raises(InvalidAction, match=r"\$\.action"):
            await env.step(GymnasiumAction(action=DictValue(items={})))
        result = await env.step(GymnasiumAction(action=[0.5]))
        assert result.reward == pytest.approx(-0.025)
        assert (await env.state()).step_count == 1


async def test_frame_comes_on_demand() -> None:
    """Frames travel with the observation, for whoever asks."""
    async with GymnasiumEnv.local("gymnasium_env?id=CartPole-v1") as env:
        result = await env.reset(seed=0, options={"render": True})
        assert isinstance(result.observation.frame, Array)
        assert result.observation.frame.numpy().shape == (400, 600, 3)
        result = await env.step(GymnasiumAction(action=0))
        assert result.observation.frame is None
        result = await env.step(GymnasiumAction(action=0, render=True))
        assert isinstance(result.observation.frame, Array)


async def test_untyped_client_plays() -> None:
    """Plain dicts will do."""
    async with GenericEnv.local("gymnasium_env?id=Blackjack-v1") as env:
        result = await env.reset(seed=0)
        assert len(result.observation["observation"]) == 3
        result = await env.step({"action": 0})
        assert result.done


async def test_application_tells_schema_and_metadata() -> None:
    """`/schema` and `/metadata` describe the environment that is served."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost"
    ) as http:
        query = {"environment": "CartPole-v1"}
        schema = (await http.get("/schema", params=query)).json()
        metadata = (await http.get("/metadata", params=query)).json()
    action = schema["action"]["$defs"]["GymnasiumAction"]["properties"]["action"]
    assert (action["minimum"], action["maximum"]) == (0, 1)
    array = schema["observation"]["$defs"]["ObservationArray"]["properties"]
    assert array["shape"]["const"] == [4]
    assert metadata["name"] == "CartPole-v1"
    assert metadata["extra"]["reward_threshold"] == 475.0
