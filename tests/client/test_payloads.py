"""Decoders of a client's types, and the errors that stand for replies."""

from __future__ import annotations

import msgspec
import pytest

from openenv_async import (
    Action,
    Array,
    EnvClient,
    EnvironmentFailed,
    GenericEnv,
    GenericObservation,
    LocalProtocolError,
    Observation,
    OpenEnvError,
    RemoteProtocolError,
    SessionClosed,
    SessionLost,
    State,
)
from openenv_async import messages as m
from openenv_async.client.payloads import Payloads, unwrap
from tests.environments import ScriptedEnvironment
from tests.serving import serving


class _Move(Action):
    text: str = ""


class _View(Observation):
    count: str = ""


class _Place(State):
    episode_id: int = 0  # type: ignore[assignment]  # on purpose


class _MismatchedEnv(EnvClient[_Move, _View, _Place]):
    """Expects other types than the server's."""


async def test_types_that_do_not_match_are_told_with_the_field() -> None:
    """Observation and state of another type are `RemoteProtocolError`."""
    async with serving() as server, _MismatchedEnv(server.url) as env:
        await env.reset(episode_id="e1")
        with pytest.raises(RemoteProtocolError, match=r"\$\.count") as caught:
            await env.step(_Move())
        assert caught.value.executed == "yes"
        with pytest.raises(RemoteProtocolError, match=r"\$\.episode_id"):
            await env.state()
        # The connection and the session are as they were.
        with pytest.raises(RemoteProtocolError, match=r"\$\.count"):
            await env.step(_Move())


async def test_a_generic_client_gets_dicts_and_arrays() -> None:
    """Observations are `GenericObservation`, arrays in them `Array`, states dicts."""
    async with (
        serving(ScriptedEnvironment) as server,
        GenericEnv(server.url, environment="scripted") as env,
    ):
        first = (await env.reset(seed=3, episode_id="e")).observation
        assert isinstance(first, GenericObservation)
        assert first == {"text": "seed 3"}
        assert (first.reward, first.done, first.metadata) == (None, False, {})
        result = await env.step({"do": "array", "size": 3})
        assert result.observation["data"] == Array("|u1", (3,), memoryview(bytes(3)))
        data = Array("<i2", (1, 2), memoryview(b"\1\0\2\0"))
        result = await env.step({"do": "reflect", "data": data})
        assert result.observation["data"] == data
        assert result.observation["data"].numpy().tolist() == [[1, 2]]
        assert await env.state() == {"episode_id": "e", "step_count": 2}


@pytest.mark.parametrize("payload", [b"\x01", b"\x90", b"\xc0", b"\xc1", b""])
def test_a_generic_observation_is_a_map(payload: bytes) -> None:
    """Everything else, and what is no msgpack, is the server's fault."""
    payloads = Payloads.generic()
    with pytest.raises(RemoteProtocolError, match="payload"):
        payloads.decode(payloads.observation, m.raw(payload))


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    """A payload nested without end is refused like any other nonsense."""
    payloads = Payloads.generic()
    deep = m.raw(b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0")
    with pytest.raises(RemoteProtocolError):
        payloads.decode(payloads.observation, deep)


def test_a_client_without_types_is_misuse() -> None:
    """`EnvClient` itself, or a generic subclass, cannot be instantiated."""
    with pytest.raises(LocalProtocolError, match="GenericEnv"):
        EnvClient("ws://host")
    with pytest.raises(LocalProtocolError, match="GenericEnv"):
        EnvClient.batch("ws://host", size=1)


def test_types_are_inherited() -> None:
    """A subclass of a typed client has its types."""

    class Child(_MismatchedEnv): ...

    assert Child.payloads is _MismatchedEnv.payloads
    assert Child.payloads is not None
    assert Child.payloads.action_type is _Move


def test_a_reply_is_unwrapped_to_itself() -> None:
    """Only what stands in the place of a reply is an error."""
    reply = m.Reply(1, 1, m.raw(b"\xc0"))
    assert unwrap(reply) is reply


@pytest.mark.parametrize(
    ("message", "kind", "executed"),
    [
        (m.failure(1, 1, "environment_failed", "x"), EnvironmentFailed, "unknown"),
        (m.failure(1, 1, "reply_lost", "x"), OpenEnvError, "yes"),
        (m.Ended(1, "session_closed", "x"), SessionClosed, "unknown"),
        (m.Ended(1, "shutting_down", "x"), SessionLost, "unknown"),
        (m.Ended(1, "lease_expired", "x"), SessionLost, "unknown"),
        (m.Ended(1, "of the future", "x"), SessionLost, "unknown"),
        (m.Pong(1), RemoteProtocolError, "unknown"),
    ],
)
def test_errors_stand_for_replies(
    message: m.ServerMessage, kind: type[OpenEnvError], executed: str
) -> None:
    """A session's end never claims that what was in flight did not run."""
    error = unwrap(message)
    assert isinstance(error, kind)
    assert error.executed == executed


def test_actions_are_encoded_as_they_are() -> None:
    """A typed client sends what the environment's type decodes."""
    encoded = m.MSGPACK.encode(_Move(text="x"))
    assert msgspec.msgpack.decode(encoded, type=_Move) == _Move(text="x")
