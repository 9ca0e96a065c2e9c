"""Containers of the drop-in client, as trainers' code starts them."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from openenv_async.openenv import GenericEnvClient
from tests.providers.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]


def _options() -> dict[str, Any]:
    return {"run": secrets.token_hex(6), "env_vars": {"WHATEVER": "1"}}


def _played(env: Any) -> None:
    assert env.reset(seed=0).done is False
    result = env.step({"message": "hi"})
    assert result.observation["echoed_message"] == "hi"
    assert env.state()["step_count"] == 1


def test_an_image_is_started_by_a_plain_call(echo_image: str) -> None:
    """The object that is returned is the client; close() removes the container."""
    options = _options()
    env = GenericEnvClient.from_docker_image(echo_image, **options)
    try:
        _played(env)
        assert len(containers_of(options["run"])) == 1
    finally:
        env.close()
    assert not containers_of(options["run"])


def test_an_image_is_a_context(echo_image: str) -> None:
    """Also one that an exception leaves."""
    options = _options()
    with pytest.raises(ZeroDivisionError):
        with GenericEnvClient.from_docker_image(echo_image, **options) as env:
            _played(env)
            raise ZeroDivisionError
    assert not containers_of(options["run"])


@pytest.mark.allow_blocking("the engine is asked with its own command")
async def test_an_image_is_awaited(echo_image: str) -> None:
    """As OpenEnv's documentation shows it for async code."""
    options = _options()
    env = await GenericEnvClient.from_docker_image(echo_image, **options)
    try:
        await env.reset(seed=0)
        result = await env.step({"message": "hi"})
        assert result.observation["echoed_message"] == "hi"
    finally:
        await env.close()
    assert not containers_of(options["run"])
