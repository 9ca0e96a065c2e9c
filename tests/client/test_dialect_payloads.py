"""OpenEnv's envelopes, as the maps that our own server sends."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from openenv_async import Array, RemoteProtocolError
from openenv_async import messages as m
from openenv_async.client.dialect_payloads import (
    observation_payload,
    state_payload,
    step_count_of,
)
from openenv_async.client.results import revive
from openenv_async.dialect import ObservationData


def _payload(**data: Any) -> Any:
    text = json.dumps(data).encode()
    payload = observation_payload(msgspec.json.decode(text, type=ObservationData))
    return revive(m.MSGPACK.generic(payload))


def test_reward_and_metadata_are_part_of_the_observation() -> None:
    """As everywhere else here."""
    found = _payload(observation={"x": 1, "metadata": {"a": 1}}, reward=2, done=False)
    assert found == {"x": 1, "metadata": {"a": 1}, "reward": 2}


@pytest.mark.parametrize(
    ("lifted", "expected"), [({}, {}), ({"metadata": {"b": 2}}, {"b": 2})]
)
def test_metadata_may_be_beside_the_observation(
    lifted: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Old servers leave it out altogether."""
    assert _payload(observation={}, **lifted)["metadata"] == expected


@pytest.mark.parametrize(
    ("observation", "done", "expected"),
    [
        ({}, True, {"terminated": True}),
        ({"truncated": True}, True, {"truncated": True}),
        ({"truncated": False}, True, {"truncated": False, "terminated": True}),
        ({"terminated": True}, True, {"terminated": True}),
        ({"truncated": True, "terminated": True}, False, {"truncated": False}),
        ({}, False, {}),
    ],
)
def test_done_decides_whether_the_episode_is_over(
    observation: dict[str, Any], done: bool, expected: dict[str, Any]
) -> None:
    """An environment's own fields say only how it ended."""
    found = _payload(observation=observation, done=done)
    assert {name: found.get(name) for name in expected} == expected
    assert done is bool(found.get("terminated") or found.get("truncated"))


def test_a_server_of_ours_says_that_it_was_cut_off() -> None:
    """The flag beside the observation is an addition of ours."""
    found = _payload(observation={}, done=True, truncated=True)
    assert found["truncated"]
    assert not found.get("terminated")


def test_arrays_arrive_as_arrays() -> None:
    """In JSON they are base64, at any depth."""
    array = Array(dtype="|u1", shape=(2,), data=memoryview(b"\x01\x02"))
    encoded = json.loads(msgspec.json.encode(array))
    found = _payload(observation={"seen": [{"image": encoded}]})
    assert found["seen"][0]["image"] == array


@pytest.mark.parametrize("value", [[1], 3, None, "text"])
def test_an_observation_is_an_object(value: object) -> None:
    """Nothing else has fields."""
    with pytest.raises(RemoteProtocolError, match="JSON object as observation") as info:
        _payload(observation=value)
    assert info.value.executed == "yes"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('{"step_count":3}', 3),
        ('{"step_count":true}', None),
        ('{"step_count":3.5}', None),
        ("{}", None),
        ("[3]", None),
    ],
)
def test_step_count_is_an_integer_or_unknown(text: str, count: int | None) -> None:
    """What does not count, does not count."""
    assert step_count_of(msgspec.Raw(text.encode())) == count


def test_a_state_is_what_it_is() -> None:
    """Only its encoding changes."""
    payload = state_payload(msgspec.Raw(b'{"step_count":3,"seen":[1,null]}'))
    assert m.MSGPACK.generic(payload) == {"step_count": 3, "seen": [1, None]}
