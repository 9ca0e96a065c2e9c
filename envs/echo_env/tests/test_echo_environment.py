"""The echo environment, without a server."""

from __future__ import annotations

import pytest

from echo_env import EchoAction
from echo_env.server.environment import EchoEnvironment


async def test_reset_greets_without_a_reward() -> None:
    """reset() says that the environment is ready and gives no reward."""
    observation = await EchoEnvironment().reset()
    assert observation.echoed_message == "Echo environment ready!"
    assert observation.reward is None


@pytest.mark.parametrize(
    ("message", "reward"), [("Hi", 0.2), ("Hello, World!", 1.3), ("", 0.0), ("é", 0.1)]
)
async def test_step_echoes_and_rewards_by_length(message: str, reward: float) -> None:
    """step() returns the message, its length, and a tenth of that as reward."""
    environment = EchoEnvironment()
    await environment.reset()
    observation = await environment.step(EchoAction(message=message))
    assert observation.echoed_message == message
    assert observation.message_length == len(message)
    assert observation.reward == pytest.approx(reward)
    assert not observation.done


async def test_state_counts_the_steps_of_the_episode() -> None:
    """state() names the episode and counts its steps; reset() begins again."""
    environment = EchoEnvironment()
    await environment.reset(episode_id="first")
    await environment.step(EchoAction(message="a"))
    await environment.step(EchoAction(message="b"))
    assert environment.state().episode_id == "first"
    assert environment.state().step_count == 2
    await environment.reset()
    assert environment.state().step_count == 0
    assert environment.state().episode_id not in (None, "first")
