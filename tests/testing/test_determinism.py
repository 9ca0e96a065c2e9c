"""`assert_deterministic` passes what repeats itself, and tells where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import EnvClient, GenericEnv, LocalProtocolError, State
from openenv_async.memory import MemoryServer
from openenv_async.testing import assert_deterministic
from tests.conformance.broken import BROKEN, Move, Seen, Sound

_RANDOM = next(kind for kind, _, _ in BROKEN if kind.__name__ == "_Random")


class _Walk(EnvClient[Move, Seen, State]):
    """A session with it."""


@pytest.mark.parametrize(
    "env", [Sound, "tests.conformance.broken:Sound"], ids=["class", "name"]
)
async def test_a_deterministic_environment_passes(env: Any) -> None:
    """A class and a name are played twice."""
    await assert_deterministic(env)
    await assert_deterministic(env, seed=3, actions=[Move(by=1)], options={})


async def test_a_server_and_a_session_pass() -> None:
    """So are the environment of a server, and an open session."""
    async with MemoryServer(Sound) as server:
        await assert_deterministic(server.url)
        async with _Walk(server.url) as env:
            await assert_deterministic(env, options={})
            await assert_deterministic(env, actions=[Move(by=1)] * 3)


async def test_the_first_difference_is_told() -> None:
    """Step, path and both values are named."""
    with pytest.raises(
        AssertionError, match=r"seed 0 .*: at reset, \$\.luck: 0\.\d+ and"
    ):
        await assert_deterministic(_RANDOM)
    async with MemoryServer(_RANDOM) as server, _Walk(server.url) as env:
        with pytest.raises(AssertionError, match=r"at reset, \$\.luck"):
            await assert_deterministic(env)


async def test_what_is_ignored_may_differ() -> None:
    """A path can be left out."""
    await assert_deterministic(_RANDOM, ignore=("$.luck",))


async def test_an_untyped_session_needs_actions() -> None:
    """Nobody knows what to draw; that is an error and not an empty episode."""
    async with MemoryServer(Sound) as server, GenericEnv(server.url) as env:
        with pytest.raises(LocalProtocolError, match="expected actions"):
            await assert_deterministic(env)
        await assert_deterministic(env, actions=[{"by": 1}])
