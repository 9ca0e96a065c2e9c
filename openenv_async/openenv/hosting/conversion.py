"""OpenEnv's pydantic models on one side, what our wire carries on the other.

A client sees the values that OpenEnv's JSON would show: dates as text, NaN as null. The
difference is in `done`, which our wire splits: an episode that is done was truncated
where the environment says so, and otherwise reached its end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_jsonable_python

from ...environment import Observation
from ...errors import InvalidAction

__all__ = ["Actions", "Observations", "schema_of", "state_fields"]

_TRUNCATED: Final = ("truncated", "TimeLimit.truncated")
"""Keys of metadata by which environments say that an episode was cut off."""
_PLAIN: Final = frozenset({str, int, bool, type(None)})
"""What needs no look."""
_MOST_SHAPES: Final = 256
"""Sets of fields whose struct is kept; environments have a few."""
_BASE: Final = frozenset({"reward", "done", "metadata"})
"""Fields of OpenEnv's own in every observation."""
_LONGEST: Final = 1000
"""Characters of pydantic's complaint that are worth sending."""


class Actions:
    """Turns an action's fields into the environment's model."""

    def __init__(self, name: str, build: Callable[[dict[str, Any]], BaseModel]) -> None:
        self._name = name
        self._build = build

    def __call__(self, fields: dict[str, Any]) -> BaseModel:
        """Validate an action.

        Raises:
            InvalidAction: It does not fit; `detail["errors"]` has pydantic's list.
        """
        try:
            return self._build(fields)
        except RecursionError as error:
            raise InvalidAction(
                f"expected an action of {self._name!r} that is nested less deeply: "
                f"{error}"
            ) from error
        except ValidationError as error:
            text = str(error)
            if len(text) > _LONGEST:
                text = f"{text[:_LONGEST]}..."
            raise InvalidAction(
                f"expected an action of {self._name!r}: {text}",
                detail={"errors": _errors_of(error)},
            ) from error


def _errors_of(error: ValidationError) -> object:
    """Pydantic's list; by way of JSON, because it holds whatever a validator raised."""
    try:
        return from_json(error.json())
    except ValueError:
        # What the caller sent is nested too deeply for JSON to hold it.
        return from_json(error.json(include_input=False, include_context=False))


class Observations:
    """Turns the environment's observations into structs of ours."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._readers: dict[type[object], Reader] = {}
        self._shapes: dict[tuple[str, ...], Callable[..., Observation]] = {}

    def __call__(self, found: object) -> Observation:
        """Convert an observation.

        Raises:
            TypeError: It is none, or holds what JSON has no place for.
        """
        kind = type(found)
        reader = self._readers.get(kind) or self._reader(kind)
        if reader.shortcut is not None:
            made = reader.shortcut(found)
            if made is not None:
                return made
        fields: dict[str, Any] = reader.dump(found)
        reward = fields.pop("reward", None)
        done = fields.pop("done", False)
        metadata: Any = fields.pop("metadata", None) or {}
        for key, value in fields.items():
            if type(value) not in _PLAIN:
                fields[key] = _jsonable(value)
        if metadata:
            metadata = _jsonable(metadata)
        terminated, truncated = _split(done, fields, metadata)
        shape = tuple(fields)
        make = self._shapes.get(shape) or self._shape(shape)
        return make(
            *fields.values(),
            reward=_number(reward),
            terminated=terminated,
            truncated=truncated,
            metadata=metadata,
        )

    def _reader(self, kind: type[object]) -> Reader:
        reader = self._readers[kind] = Reader(kind, self._name)
        if reader.names:
            reader.shortcut = _shortcut(reader.names, self._shape(reader.names))
        return reader

    def _shape(self, names: tuple[str, ...]) -> Callable[..., Observation]:
        """A struct with these fields, given in this order, none ever left out."""
        if len(self._shapes) >= _MOST_SHAPES:
            self._shapes.clear()
        # Not under their own names, which may be no names of Python's.
        fields = {f"field_{number}": name for number, name in enumerate(names)}
        struct = msgspec.defstruct(
            "HostedObservation",
            [(field, Any) for field in fields],
            bases=(Observation,),
            rename=fields,
            frozen=True,
        )
        make = cast(Callable[..., Observation], struct)
        self._shapes[names] = make
        return make


class Reader:
    """Gets at the fields of one class of observations.

    Args:
        kind: The class.
        name: The environment's, for errors.

    Raises:
        TypeError: The class is no model.
    """

    def __init__(self, kind: type[object], name: str) -> None:
        self.dump: Callable[[Any], dict[str, Any]]
        self.names: tuple[str, ...] = ()
        """Fields besides OpenEnv's own, of a class that dumps them as they are."""
        self.shortcut: Callable[[Any], Observation | None] | None = None
        """Converts the most frequent observations; see `_shortcut`."""
        if issubclass(kind, BaseModel) and kind.model_dump is BaseModel.model_dump:
            # What `model_dump` does, without its twelve arguments.
            serializer = kind.__pydantic_serializer__
            self.dump = cast(Callable[[Any], dict[str, Any]], serializer.to_python)
            names = tuple(each for each in kind.model_fields if each not in _BASE)
            if names and _BASE.issubset(kind.model_fields) and _is_plain(kind):
                self.names = names
        elif callable(getattr(cast(object, kind), "model_dump", None)):
            self.dump = _dump_anyhow
        else:
            raise TypeError(
                f"expected a pydantic model as observation of {name!r}, "
                f"got {kind.__name__!r}"
            )


def _shortcut(
    names: tuple[str, ...], make: Callable[..., Observation]
) -> Callable[[Any], Observation | None]:
    """What converts an observation if the episode goes on and all values are plain."""
    get = _getter(names)

    def shortcut(found: Any) -> Observation | None:
        fields: dict[str, Any] = found.__dict__
        try:
            if fields["done"] or fields["metadata"]:
                return None
            values, reward = get(fields), fields["reward"]
        except KeyError:  # made by `model_construct`
            return None
        if not (
            _PLAIN.issuperset(map(type, values)) or all(map(_is_plain_value, values))
        ):
            return None
        return make(*values, reward=_number(reward))

    return shortcut


def _is_plain_value(value: object) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return type(value) in _PLAIN


def _dump_anyhow(found: Any) -> dict[str, Any]:
    return dict(found.model_dump())


def _getter(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        (name,) = names
        return lambda fields: (fields[name],)
    return cast(
        Callable[[dict[str, Any]], tuple[Any, ...]], operator.itemgetter(*names)
    )


def _is_plain(kind: type[BaseModel]) -> bool:
    """Whether a model dumps its fields as they are, all of them and no more."""
    if kind.model_computed_fields or kind.model_config.get("extra") == "allow":
        return False
    flags = ("terminated", "truncated")
    if any(field.exclude for field in kind.model_fields.values()) or any(
        flag in kind.model_fields for flag in flags
    ):
        return False
    return not _has_serializer(kind.__pydantic_core_schema__)


def _has_serializer(schema: object) -> bool:
    """Whether a core schema says anywhere how to dump something."""
    waiting: list[object] = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            if "serialization" in each:
                return True
            waiting.extend(cast(Mapping[str, object], each).values())
        elif isinstance(each, list):
            waiting.extend(cast(list[object], each))
    return False


def _split(done: object, fields: dict[str, Any], metadata: object) -> tuple[bool, bool]:
    """Whether the episode terminated, and whether it was truncated.

    Takes fields of these names away, because our wire has its own.
    """
    terminated = fields.pop("terminated", None) if "terminated" in fields else None
    truncated = fields.pop("truncated", None) if "truncated" in fields else None
    if not done:
        return False, False
    if truncated is None and isinstance(metadata, dict):
        known = cast(dict[str, object], metadata)
        truncated = any(known.get(key) is True for key in _TRUNCATED)
    was_truncated = truncated is True
    return terminated is True or not was_truncated, was_truncated


def _number(reward: Any) -> float | None:
    """A reward as the wire has it; OpenEnv's models allow a bool and NaN."""
    if reward is None or type(reward) is int:
        return reward
    number = float(reward)
    return number if math.isfinite(number) else None


def _jsonable(value: Any) -> Any:
    """A value as it would come out of OpenEnv's JSON."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) in (dict, list) and not value:
        return value
    return to_jsonable_python(value, inf_nan_mode="null", bytes_mode="utf8")


def state_fields(state: object) -> dict[str, Any]:
    """A state's fields; as in OpenEnv, what is no model is taken as a mapping."""
    if isinstance(state, BaseModel):
        return cast(dict[str, Any], _jsonable(state.model_dump()))
    try:
        return cast(dict[str, Any], _jsonable(dict(cast(Any, state))))
    except (TypeError, ValueError):
        return {}


def schema_of(model: type[BaseModel] | None) -> dict[str, Any]:
    """The JSON Schema of a model, as OpenEnv publishes it."""
    if model is None:
        return {"title": "State", "type": "object"}
    try:
        return model.model_json_schema()
    except Exception:  # noqa: BLE001 (pydantic has a class for each reason, users have more)
        # A field of a type that has none; the form has to do without.
        return {"title": model.__name__, "type": "object"}
