"""What comes in OpenEnv's JSON, as the payloads that our own server would send."""

from __future__ import annotations

from typing import cast

import msgspec

from .. import messages as m
from ..dialect import ObservationData
from ..errors import RemoteProtocolError
from .results import revive

__all__ = ["observation_payload", "state_payload", "step_count_of"]


def observation_payload(data: ObservationData) -> bytes:
    """Put an observation, its reward and its end into one map.

    OpenEnv has one flag for both ends of an episode: `done` is `terminated`, unless
    the environment says itself that it is `truncated`, in a field of that name.

    Raises:
        RemoteProtocolError: The observation is no JSON object.
    """
    fields = _object(data.observation, "observation")
    reward = data.reward
    # `true` is a reward there, and no number here.
    fields["reward"] = float(reward) if isinstance(reward, bool) else reward
    if data.done:
        if data.truncated is True:
            fields["truncated"] = True
        if not fields.get("truncated"):
            fields["terminated"] = True
    else:
        for name in ("terminated", "truncated"):
            if fields.get(name):
                fields[name] = False
    if fields.get("metadata") is None:
        lifted = data.metadata
        fields["metadata"] = (
            {} if isinstance(lifted, msgspec.UnsetType) else _plain(lifted) or {}
        )
    return _encoded(fields, data.observation)


def state_payload(data: object) -> bytes:
    """Encode a state.

    Raises:
        RemoteProtocolError: It is no JSON object.
    """
    return _encoded(_object(data, "state"), data)


def step_count_of(data: object) -> int | None:
    """The steps that an environment has counted; None where it does not say."""
    try:
        count = _object(data, "state").get("step_count")
    except RemoteProtocolError:
        return None
    return count if type(count) is int else None


def _object(data: object, what: str) -> dict[str, object]:
    value = _plain(data)
    if not isinstance(value, dict):
        raise RemoteProtocolError(
            f"expected a JSON object as {what}, got {bytes(cast(msgspec.Raw, data))!r}",
            executed="yes",
        )
    return cast(dict[str, object], value)


def _plain(data: object) -> object:
    return m.JSON.generic(cast(msgspec.Raw, data))


def _encoded(fields: dict[str, object], data: object) -> bytes:
    # Arrays are base64 in JSON. Looking for them costs more than everything else.
    if b'"array"' in memoryview(cast(msgspec.Raw, data)).tobytes():
        return m.MSGPACK.encode(revive(fields))
    return m.MSGPACK.encode(fields)
