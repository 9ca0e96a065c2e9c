"""One environment's payloads in OpenEnv's form, made from ours and the other way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast, get_args

import msgspec

from ... import messages as m
from ...arrays import encodable
from ...dialect import ErrorData, ObservationData, dialect_code, validation_errors
from ...environment import EnvironmentSpec
from ..hosts import UNDECODABLE

__all__ = ["Misfit", "Shape"]

_OURS: Final = ("reward", "terminated", "truncated", "metadata")
"""Fields of an observation that have places of their own in the dialect."""
_TOOLS: Final = frozenset({"list_tools", "call_tool"})
_decode = msgspec.json.decode
_encode = msgspec.json.encode
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_METHODS: Final[dict[type, str]] = {
    m.Reset: "reset",
    m.Step: "step",
    m.GetState: "state",
}


class Misfit(Exception):
    """Arguments that do not fit, found before anything was executed.

    Args:
        where: The argument; empty for all of them.
        text: What was expected.
        found: What came.
    """

    def __init__(self, where: str, text: str, found: object) -> None:
        super().__init__(text)
        self.where: Final = where
        self.text: Final = text
        self.found: Final = found


class Shape:
    """Turns one environment's actions, observations, states and errors.

    Args:
        spec: The environment.
    """

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.spec: Final = spec
        self.any_order: Final = spec.any_order
        self._observations = _defaults(spec.observation_type, without=_OURS)
        self._states = _defaults(spec.state_type)
        actions = list(_structs(spec.action_type))
        self._strips_metadata = bool(actions) and not any(
            "metadata" in each.__struct_encode_fields__ for each in actions
        )
        tags = {each.__struct_config__.tag for each in actions}
        self.has_tools: Final = spec.tools or bool(tags & _TOOLS)
        self.wraps_results: Final = not spec.tools
        """Whether a tool's value goes to clients in the form of MCP's results."""

    @property
    def factory_name(self) -> str:
        """What OpenEnv calls whatever builds the environment."""
        name = str(getattr(self.spec.factory, "__name__", ""))
        return name if name.isidentifier() else self.spec.name

    # What clients send

    def action(self, data: msgspec.Raw | bytes) -> msgspec.Raw:
        """An action in our form.

        OpenEnv's actions all have `metadata`, and clients that dump a model send it;
        ours have it only where an environment declares it. A call of a tool need not
        say that it is one.

        Raises:
            Misfit: A value in it cannot be read.
        """
        encoded = bytes(data)
        strips = self._strips_metadata and b'"metadata"' in encoded
        names = self.has_tools and b'"type"' not in encoded
        if not strips and not names:
            return data if isinstance(data, msgspec.Raw) else msgspec.Raw(data)
        fields = _object(encoded)
        if strips:
            fields.pop("metadata", None)
        if names and "tool_name" in fields:
            fields["type"] = "call_tool"
        return msgspec.Raw(_encode(fields))

    def reset(
        self, data: msgspec.Raw | bytes, seq: int, timeout: float | None
    ) -> m.Reset:
        """A reset in our form: what is neither seed nor episode id is an option.

        Raises:
            Misfit: Seed or episode id are something else, or a value cannot be read.
        """
        options = _object(data)
        if not options:
            return m.Reset(0, seq, timeout=timeout)
        seed, episode_id = options.pop("seed", None), options.pop("episode_id", None)
        if seed is not None and (
            type(seed) is not int or not -(2**63) <= seed <= 2**63 - 1
        ):
            raise Misfit("seed", "Input should be a valid integer", seed)
        if episode_id is not None and not isinstance(episode_id, str):
            raise Misfit("episode_id", "Input should be a valid string", episode_id)
        given = options.get("options")
        if not self.any_order and isinstance(given, dict):
            # `reset(options={...})`, as our own clients write it.
            del options["options"]
            options = {**cast(dict[str, Any], given), **options}
        payload = m.raw(_encode(options)) if options else None
        return m.Reset(0, seq, seed, episode_id, payload, timeout)

    # What clients get

    def observation(self, payload: Any) -> ObservationData:
        """An observation in OpenEnv's form, with all its fields."""
        found: object = _decode(payload)
        if not isinstance(found, dict):
            # A struct that its author made an array of.
            found = {"values": found}
        fields = cast(dict[str, Any], found)
        reward = fields.pop("reward", None)
        truncated = fields.pop("truncated", False)
        done = fields.pop("terminated", False) or truncated
        metadata: dict[str, Any] = fields.pop("metadata", None) or {}
        observation: dict[str, Any] = {
            "metadata": metadata,
            **_filling(self._observations, fields),
            **fields,
        }
        return ObservationData(
            observation,
            reward,
            done,
            metadata if metadata else msgspec.UNSET,
            truncated or msgspec.UNSET,
        )

    def state(self, payload: Any) -> object:
        """A state in OpenEnv's form, with all its fields."""
        found: object = _decode(payload)
        if not isinstance(found, dict):
            return found
        fields = cast(dict[str, Any], found)
        return {**_filling(self._states, fields), **fields}

    def error(
        self,
        failure: m.Failure,
        *,
        tracebacks: bool,
        kind: type | None = None,
        sent: object = None,
    ) -> ErrorData:
        """An error in OpenEnv's form.

        Args:
            failure: What the server answered.
            tracebacks: Whether clients may see causes.
            kind: Type of the request.
            sent: The request's encoded arguments, for what does not fit.
        """
        detail = failure.detail or {}
        if detail.get("constructing"):
            name = self.factory_name
            text = f"Environment factory '{name}' failed to create instance."
            if tracebacks:
                text += f" {failure.message}"
            return ErrorData(
                message=text,
                code="FACTORY_ERROR",
                factory_name=name,
                error_code=failure.code,
                executed="no",
            )
        if failure.code == "at_capacity":
            return _at_capacity(failure)
        code = dialect_code(failure.code)
        if code == "VALIDATION_ERROR":
            text, errors = "Invalid message", _errors(failure, sent)
        else:
            text, errors = self._said(failure, kind), None
        return ErrorData(
            message=text,
            code=code,
            errors=errors,
            error_code=failure.code,
            executed=failure.executed,
        )

    def _said(self, failure: m.Failure, kind: type | None) -> str:
        """What an exception said, without what we write before it."""
        raised = (failure.detail or {}).get("exception")
        method = _METHODS.get(kind) if kind is not None else None
        before = f"{self.spec.name!r} raised {raised} in {method}: "
        return failure.message.removeprefix(before)


def _at_capacity(failure: m.Failure) -> ErrorData:
    detail = failure.detail or {}
    active, most = int(str(detail["sessions"])), int(str(detail["max_sessions"]))
    text = (
        f"Server at capacity: {active}/{most} sessions active. "
        "Cannot accept new connections."
    )
    return ErrorData(
        message=text,
        code="CAPACITY_REACHED",
        active_sessions=active,
        max_sessions=most,
        error_code=failure.code,
        executed=failure.executed,
    )


def _errors(failure: m.Failure, sent: object) -> list[dict[str, object]]:
    given = (failure.detail or {}).get("errors")
    if isinstance(given, list):
        return cast(list[dict[str, object]], given)
    found: object = None
    if isinstance(sent, bytes | msgspec.Raw):
        with contextlib.suppress(*UNDECODABLE):
            found = _decode(sent)
    return validation_errors(failure.message, found)


def _object(data: msgspec.Raw | bytes) -> dict[str, Any]:
    """Decode an object whose values nobody has looked at yet."""
    try:
        return _OBJECT.decode(data)
    except UNDECODABLE as error:
        raise Misfit("", str(error), None) from error


# Defaults, which our structs leave out

_Defaults = dict[str | int | None, tuple[str, dict[str, object]]]
"""By tag: the field that holds the tag, and what is left out where it is default."""


def _defaults(kind: object, without: tuple[str, ...] = ()) -> _Defaults:
    return {
        each.__struct_config__.tag: (
            each.__struct_config__.tag_field or "",
            dict(_omitted(each, without)),
        )
        for each in _structs(kind)
    }


def _structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """The structs of a type that may be a union."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for each in get_args(kind):
        yield from _structs(each)


def _omitted(
    kind: type[msgspec.Struct], without: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    if not kind.__struct_config__.omit_defaults:
        return
    for field in msgspec.structs.fields(kind):
        if field.encode_name in without or field.required:
            continue
        default = field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory()
        if default is msgspec.UNSET:
            # A field that is not there, which clients may tell observations by.
            continue
        yield field.encode_name, msgspec.to_builtins(default, enc_hook=encodable)


def _filling(defaults: _Defaults, found: Mapping[str, object]) -> dict[str, object]:
    """What an encoded struct leaves out."""
    for tag, (field, omitted) in defaults.items():
        if not field or found.get(field) == tag:
            return omitted
    return {}
