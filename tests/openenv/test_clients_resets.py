"""The drop-in client's reset while an earlier call still runs on the server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator

import pytest

from openenv_async.openenv import (
    CallTimeout,
    ConnectionClosedError,
    GenericEnvClient,
    ServerError,
)
from tests.client.dialects import started
from tests.clients import asleep, cancelled, holding
from tests.environments import ScriptedEnvironment
from tests.openenv.counting import BlockingCounting
from tests.serving import eventually, serving


@pytest.fixture
def gate() -> Iterator[None]:
    """Blocking steps that sleep wait until it is opened, at the latest here."""
    BlockingCounting.gate.clear()
    yield
    BlockingCounting.gate.set()


def speaking_dialect(url: str, *, timeout: float) -> GenericEnvClient:
    """A client that speaks to any server as to one of OpenEnv's."""
    client = GenericEnvClient(base_url=url, message_timeout_s=timeout)
    client._wire_options = dataclasses.replace(client._wire_options, dialect=True)
    return client


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda url: GenericEnvClient(url, message_timeout_s=0.2), "be stopped"),
        (lambda url: speaking_dialect(url, timeout=0.2), "cannot stop what runs"),
    ],
    ids=["ours", "dialect"],
)
@pytest.mark.usefixtures("gate")
async def test_a_reset_begins_another_session_where_a_step_hangs(
    make: Callable[[str], GenericEnvClient], text: str
) -> None:
    """A thread cannot be stopped, so its session is of no use any more."""
    async with serving(BlockingCounting) as server, make(server.url) as env:
        await env.reset()
        with pytest.raises(CallTimeout, match=text):
            await env.step({"delta": 1, "sleep_s": 60.0})
        with pytest.raises((ConnectionClosedError, ServerError)) as caught:
            await env.step({"delta": 1})
        assert caught.value.executed == "no"
        for _ in range(2):
            assert (await env.reset()).observation["total"] == 0
        assert (await env.step({"delta": 2})).observation["total"] == 2
        BlockingCounting.gate.set()  # The server's end would wait for it.


@pytest.mark.usefixtures("gate")
async def test_a_poisoned_session_gives_its_place_back() -> None:
    """A server with a single place can go on, too."""
    async with serving(BlockingCounting, max_sessions=1) as server:
        async with GenericEnvClient(server.url, message_timeout_s=0.2) as env:
            await env.reset()
            with pytest.raises(CallTimeout):
                await env.step({"delta": 1, "sleep_s": 60.0})
            with pytest.raises(ConnectionClosedError, match="poisoned"):
                await env.state()
            assert (await env.reset()).observation["total"] == 0
            assert server.sessions == 1
            BlockingCounting.gate.set()


async def test_a_reset_waits_for_the_place_that_the_hanging_step_has() -> None:
    """With OpenEnv's default of one place it comes free when the step is over."""
    async with serving(ScriptedEnvironment, max_sessions=1) as server:
        async with speaking_dialect(server.url, timeout=5.0) as env:
            await env.reset()
            await holding("place")
            task = started(env.step({"do": "wait", "text": "place"}))
            await asleep("place")
            await cancelled(task)
            async with asyncio.timeout(4.0):
                assert (await env.reset()).observation["count"] == 0
            await eventually(lambda: server.sessions == 1)


@pytest.mark.usefixtures("gate")
async def test_a_session_with_a_lease_is_worth_the_wait() -> None:
    """It would outlive its socket, so a reset stays in it until the step is over."""
    async with serving(BlockingCounting, tcp=True) as server:
        client = speaking_dialect(server.url, timeout=0.2)
        client._wire_options = dataclasses.replace(client._wire_options, lease=60.0)
        async with client as env:
            await env.reset()
            for call in (env.step({"delta": 1, "sleep_s": 60.0}), env.reset()):
                with pytest.raises(CallTimeout):
                    await call
            assert server.sessions == 1
            session = env._session
            BlockingCounting.gate.set()
            assert (await env.reset()).observation["total"] == 0
            assert env._session is session
