"""The echo environment behind a server, with its typed client."""

from __future__ import annotations

import pytest

from echo_env import EchoAction, EchoEnv, EchoObservation
from openenv_async import InvalidAction, LocalProvider, StepResult


@pytest.mark.parametrize("execution", ["inline", "thread", "process"])
async def test_session_echoes(execution: str) -> None:
    """A session gets its messages back, wherever the environment runs."""
    provider = LocalProvider("echo_env", execution=execution)  # type: ignore[arg-type]  # one of three
    async with EchoEnv(provider=provider) as env:
        first = await env.reset()
        assert first.observation.echoed_message == "Echo environment ready!"
        result = await env.step(EchoAction(message="hello"))
        assert isinstance(result.observation, EchoObservation)
        assert result.observation.message_length == 5
        assert result.reward == pytest.approx(0.5)
        assert (await env.state()).step_count == 1


async def test_batch_echoes_in_order() -> None:
    """Each session of a batch gets its own message back."""
    async with EchoEnv.batch(size=32, provider=LocalProvider("echo_env")) as envs:
        await envs.reset()
        messages = [f"message {number}" for number in range(32)]
        results = await envs.step([EchoAction(message=text) for text in messages])
        echoed = [
            result.observation.echoed_message
            for result in results
            if isinstance(result, StepResult)
        ]
        assert echoed == messages


async def test_wrong_type_is_refused_by_field() -> None:
    """An action of a wrong type names the field, and the episode goes on."""
    async with EchoEnv.local() as env:
        await env.reset()
        with pytest.raises(InvalidAction, match=r"\$\.message"):
            await env.step(EchoAction(message=7))  # type: ignore[arg-type]  # on purpose
        result = await env.step(EchoAction(message="still here"))
        assert result.observation.echoed_message == "still here"
