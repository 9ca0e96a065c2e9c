"""Decoders of a client's types, built once a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from .. import messages as m
from ..errors import LocalProtocolError, OpenEnvError, RemoteProtocolError
from ..protocol import decode_error, error_of
from .results import GenericObservation, revive

__all__ = ["Payloads", "not_open", "refusal", "unwrap"]


@dataclasses.dataclass(frozen=True)
class Payloads:
    """What a client sends and gets.

    Args:
        action_type: What `step` accepts; `object` accepts everything.
        observation: Decodes an observation.
        state: Decodes a state.
    """

    action_type: Any
    observation: Callable[[Any], Any]
    state: Callable[[Any], Any]

    @classmethod
    def of(cls, action: object, observation: object, state: object) -> Payloads:
        """Build the decoders for three types."""
        return cls(
            action_type=action,
            observation=m.MSGPACK.decoder(observation),
            state=m.MSGPACK.decoder(state),
        )

    @classmethod
    def generic(cls) -> Payloads:
        """Decode whatever comes to plain dicts and lists, arrays to `Array`."""

        def observation(payload: Any) -> GenericObservation:
            value = revive(m.MSGPACK.generic(payload))
            if not isinstance(value, dict):
                raise msgspec.ValidationError(
                    f"expected a map, got {type(value).__name__}"
                )
            return GenericObservation(value)  # pyright: ignore[reportUnknownArgumentType]  # a map

        return cls(
            action_type=object,
            observation=observation,
            state=lambda payload: revive(m.MSGPACK.generic(payload)),
        )

    def decode(self, decode: Callable[[Any], Any], payload: m.Payload) -> Any:
        """Decode a payload.

        Raises:
            RemoteProtocolError: It does not fit the client's type; the server serves
                another environment, or another version of it.
        """
        try:
            return decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise decode_error(error) from error


def unwrap(message: m.ServerMessage) -> m.Reply | OpenEnvError:
    """A reply, or the error that stands in its place."""
    match message:
        case m.Reply():
            return message
        case m.Failure():
            return error_of(message)
        case m.Ended():
            # Whoever waits has a request in flight, of which nobody knows.
            code = message.code if message.code in m.CODES else "session_lost"
            return error_of(
                m.failure(
                    message.handle, None, code, message.message, executed="unknown"
                )
            )
        case _:
            return RemoteProtocolError(
                f"expected a reply, got {type(message).__name__}"
            )


def refusal(message: m.ServerMessage) -> OpenEnvError:
    """The error that stands in the place of a reply."""
    unwrapped = unwrap(message)
    assert isinstance(unwrapped, OpenEnvError)
    return unwrapped


def not_open() -> LocalProtocolError:
    """The error of a call on a session that is not open."""
    return LocalProtocolError(
        "expected an open session: use `async with`, or await open()"
    )
