"""Clients on containers: a session, a batch, a batch over several that loses one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import Failure, LocalProtocolError, ServerDied, SessionLost
from openenv_async.providers import Container, DockerOptions, Replica
from tests.providers.containers import containers_of, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]

_HI = EchoAction(message="hi")


@contextlib.asynccontextmanager
async def _run() -> AsyncIterator[DockerOptions]:
    """Options of a run of which nothing is left at the end."""
    run = secrets.token_hex(6)
    yield DockerOptions(run=run)
    assert not await anyio.to_thread.run_sync(containers_of, run)


async def _kill(container: Container) -> None:
    await anyio.to_thread.run_sync(docker, "kill", container.name)


async def test_a_client_has_a_container_of_its_own(echo_image: str) -> None:
    """from_docker_image() starts it, and leaving the block removes it."""
    async with _run() as container:
        async with EchoEnv.from_docker_image(echo_image, container=container) as env:
            await env.reset(seed=0)
            result = await env.step(_HI)
            assert result.observation.echoed_message == "hi"
            assert isinstance(env.server, Container)


def test_the_same_without_a_loop(echo_image: str) -> None:
    """sync() works on a container too."""
    options = DockerOptions(run=secrets.token_hex(6))
    with EchoEnv.from_docker_image(echo_image, container=options).sync() as env:
        env.reset()
        assert env.step(_HI).observation.echoed_message == "hi"
    assert not containers_of(options["run"] or "")


async def test_a_killed_container_ends_its_session_with_the_cause(
    echo_image: str,
) -> None:
    """The session's error has exit code and log; nobody waits for a reconnect."""
    async with _run() as options:
        async with EchoEnv.from_docker_image(echo_image, container=options) as env:
            await env.reset()
            await _kill(cast(Container, env.server))
            with anyio.fail_after(10):
                with pytest.raises(SessionLost) as caught:
                    await env.step(_HI)
            assert caught.value.detail["exit_code"] == -9
            assert caught.value.detail["oom_killed"] is False
            assert caught.value.fault == "infrastructure"


async def test_a_batch_spreads_over_replicas(echo_image: str) -> None:
    """batch(image=..., replicas=...) has a fleet of its own, gone at the end."""
    async with _run() as options:
        async with EchoEnv.batch(
            image=echo_image, size=30, replicas=3, container=options
        ) as envs:
            await envs.reset(seeds=0)
            assert len(envs.servers) == 3
            results = await envs.step([_HI] * 30)
            assert not any(isinstance(result, Failure) for result in results)


async def test_a_batch_survives_the_death_of_a_container(echo_image: str) -> None:
    """Sessions on it are typed losses and can be reset elsewhere; all others go on."""
    async with _run() as options:
        async with EchoEnv.batch(
            image=echo_image, size=16, replicas=2, container=options
        ) as envs:
            await envs.reset(seeds=0)
            first = envs.servers[0]
            assert isinstance(first, Replica)
            await _kill(cast(Container, first.server))
            with anyio.fail_after(15):
                results = await envs.step([_HI] * 16)
            lost = [i for i, each in enumerate(results) if isinstance(each, Failure)]
            assert len(lost) == 8
            for index in lost:
                result = results[index]
                assert isinstance(result, Failure)
                assert isinstance(result.error, SessionLost)
                assert result.error.detail["exit_code"] == -9
            with anyio.fail_after(30):
                again = await envs.reset(indices=lost)
            assert not any(isinstance(each, Failure) for each in again)
            results = await envs.step([_HI] * 16)
            assert not any(isinstance(each, Failure) for each in results)


async def test_a_container_that_cannot_start_says_why(echo_image: str) -> None:
    """A server that ends at once is a ServerDied with its last words."""
    async with _run() as options:
        options["arguments"] = ["--lease", "nonsense"]
        with pytest.raises(ServerDied) as caught:
            await EchoEnv.from_docker_image(echo_image, container=options).open()
        assert caught.value.exit_code not in (None, 0)
        assert "--lease" in caught.value.log


def test_wrong_combinations_are_refused_before_anything_starts() -> None:
    """The error names what does not go together."""
    with pytest.raises(LocalProtocolError, match="an image, got both"):
        EchoEnv.batch(image="x", provider=EchoEnv.provider(), size=1)
    with pytest.raises(LocalProtocolError, match="expected an image"):
        EchoEnv.batch("ws://h", size=1, container=DockerOptions())
    with pytest.raises(LocalProtocolError, match="from 1 to the size 2, got 3"):
        EchoEnv.batch(image="x", size=2, replicas=3)
    with pytest.raises(LocalProtocolError, match="for 2 replicas"):
        EchoEnv.batch("ws://h", size=2, replicas=2)
