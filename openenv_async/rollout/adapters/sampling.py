"""Random values that fit a JSON Schema, as msgspec and `/schema` write them."""

from __future__ import annotations

import datetime
import math
import random
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec

from ...arrays import Array
from ...errors import LocalProtocolError
from .patterns import sample_pattern

__all__ = ["Sampler", "sampler_of"]

_Schema: TypeAlias = Mapping[str, Any]

_DEEP: Final = 6
"""Levels below which optional parts are left out and lists stay short."""
_DEEPEST: Final = 40
"""Levels at which a schema counts as one that no finite value fits."""
_ITEMS: Final = 4
"""Most items of a list, beyond the fewest, where the schema names no bound."""
_LENGTH: Final = 12
"""The same for the characters of a string, and the bytes of binary data."""
_SPAN: Final = 100
"""Width of a range of numbers that has one end or none."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,é"

_CODES: Final = {
    **{"b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"},
    **{"i8": "q", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"},
}
"""The `struct` code of each kind of number in an array."""
_MANTISSA: Final = {"f2": 10, "f4": 23, "f8": 52}


def sampler_of(
    type_: Any, *, seed: int | None = None, optional: float = 0.5
) -> Sampler:
    """Build a sampler for whatever msgspec has a schema for, such as an action's type.

    Raises:
        LocalProtocolError: It has none.
    """
    try:
        schema = msgspec.json.schema(type_)
    except (TypeError, RecursionError) as error:
        raise LocalProtocolError(
            f"expected a type with a JSON Schema, got {type_!r}: {error}"
        ) from error
    return Sampler(schema, seed=seed, optional=optional)


class Sampler:
    """Draws values that a schema allows: numbers, strings, lists, maps, `Array`.

    The same seed draws the same values. Values are what JSON has, arrays are `Array`,
    and binary data `bytes`. Not meant to be uniform: ranges without an end are drawn
    from near zero, and lists and strings without a bound are short.

    Args:
        schema: A JSON Schema; references inside of it are followed.
        seed: Makes it repeatable.
        optional: Share of a map's optional entries that are drawn.
    """

    def __init__(
        self, schema: _Schema, *, seed: int | None = None, optional: float = 0.5
    ) -> None:
        self._schema = schema
        self._optional = optional
        self._random = random.Random(seed)

    def sample(self) -> Any:
        """Draw a value.

        Raises:
            LocalProtocolError: The schema asks for what cannot be drawn, such as a
                pattern with look-ahead; names the place.
        """
        return self._draw(self._schema, "$", 0)

    def _draw(self, given: object, at: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise LocalProtocolError(
                f"expected a schema that finite values fit, got endless ones at {at}"
            )
        if given is False:
            raise LocalProtocolError(f"expected a schema that a value fits at {at}")
        if not isinstance(given, Mapping):
            return None
        schema = self._resolved(cast(_Schema, given), at)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(list(schema["enum"]))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternative(schema, key, at, depth)
        return self._typed(self._kind(schema), schema, at, depth)

    def _typed(self, kind: str, schema: _Schema, at: str, depth: int) -> Any:
        match kind:
            case "null":
                return None
            case "boolean":
                return self._random.random() < 0.5
            case "integer":
                return self._integer(schema, at)
            case "number":
                return self._number(schema, at)
            case "string":
                return self._string(schema, at, depth)
            case "array":
                return self._list(schema, at, depth)
            case "object":
                return self._map(schema, at, depth)
            case _:
                raise LocalProtocolError(
                    f"expected a schema with a type of JSON at {at}, got {kind!r}"
                )

    def _resolved(self, schema: _Schema, at: str) -> _Schema:
        """Follow references and join `allOf`."""
        seen = 0
        while "$ref" in schema or "allOf" in schema:
            seen += 1
            parts: list[Any] = list(schema.get("allOf", ()))
            if "$ref" in schema:
                parts.append(self._referenced(str(schema["$ref"]), at))
            rest = {k: v for k, v in schema.items() if k not in ("$ref", "allOf")}
            merged: dict[str, Any] = {}
            for part in [*parts, rest]:
                for key, value in part.items():
                    merged[key] = _joined(key, merged.get(key), value)
            schema = merged
            if seen > _DEEPEST:
                raise LocalProtocolError(
                    f"expected references that end, got a circle at {at}"
                )
        return schema

    def _referenced(self, reference: str, at: str) -> Any:
        found: Any = self._schema
        path = reference.removeprefix("#").strip("/")
        for part in path.split("/") if path else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise LocalProtocolError(
                    f"expected a reference into the schema at {at}, got {reference!r}"
                )
            found = cast(_Schema, found)[name]
        return found

    def _alternative(self, schema: _Schema, key: str, at: str, depth: int) -> Any:
        rest = {k: v for k, v in schema.items() if k not in (key, "discriminator")}
        alternatives: list[Any] = [
            {**rest, **option} if isinstance(option, Mapping) else option
            for option in schema[key]
        ]
        if depth >= _DEEP:
            # Whatever leads nowhere deeper; the others might never end.
            flat = [option for option in alternatives if self._is_flat(option, at)]
            alternatives = flat or alternatives
        return self._draw(self._random.choice(alternatives), at, depth + 1)

    def _is_flat(self, option: object, at: str) -> bool:
        if not isinstance(option, Mapping):
            return True
        schema = self._resolved(cast(_Schema, option), at)
        kinds = schema.get("type")
        return "anyOf" not in schema and kinds not in ("object", "array")

    def _kind(self, schema: _Schema) -> str:
        kinds: Any = schema.get("type")
        if kinds is not None:
            return kinds if isinstance(kinds, str) else str(self._random.choice(kinds))
        for keyword, kind in _IMPLIED.items():
            if keyword in schema:
                return kind
        return "null"

    # By type

    def _integer(self, schema: _Schema, at: str) -> int:
        low, high = schema.get("minimum"), schema.get("maximum")
        if "exclusiveMinimum" in schema:
            above = math.floor(schema["exclusiveMinimum"]) + 1
            low = above if low is None else max(low, above)
        if "exclusiveMaximum" in schema:
            below = math.ceil(schema["exclusiveMaximum"]) - 1
            high = below if high is None else min(high, below)
        multiple = int(schema.get("multipleOf", 1))
        first, last = _range(low, high)
        first, last = math.ceil(first / multiple), math.floor(last / multiple)
        if first > last:
            raise _empty(schema, at)
        return self._random.randint(first, last) * multiple

    def _number(self, schema: _Schema, at: str) -> float:
        if "multipleOf" in schema:
            step = schema["multipleOf"]
            scaled = {
                key: value / step for key, value in schema.items() if key in _BOUNDS
            }
            return float(self._integer(scaled, at) * step)
        low, high = schema.get("minimum"), schema.get("maximum")
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        lows = [bound for bound in (low, above) if bound is not None]
        highs = [bound for bound in (high, below) if bound is not None]
        first, last = _range(max(lows, default=None), min(highs, default=None))
        for _ in range(64):
            value = self._random.uniform(first, last)
            if value not in (above, below) and first <= value <= last:
                return value
        raise _empty(schema, at)

    def _string(self, schema: _Schema, at: str, depth: int) -> str | bytes:
        if schema.get("contentEncoding") == "base64":
            return self._binary(schema)
        form = _FORMATS.get(schema.get("format", ""))
        if form is not None:
            return form(self._random)
        least = schema.get("minLength", 0)
        most = schema.get("maxLength", least + _LENGTH)
        if least > most:
            raise _empty(schema, at)
        if "pattern" in schema:
            return sample_pattern(
                schema["pattern"], self._random, least=least, most=most, at=at
            )
        if depth >= _DEEP:
            most = least
        length = self._random.randint(least, min(most, least + _LENGTH))
        return "".join(self._random.choices(_LETTERS, k=length))

    def _binary(self, schema: _Schema) -> bytes:
        """Bytes, which travel as such in msgpack and are encoded for JSON.

        The schema has lengths in base64, whose padding hides up to two bytes.
        """
        least = schema.get("minLength", 0) * 3 // 4
        most = least + _LENGTH
        if "maxLength" in schema:
            most = min(most, max(least, schema["maxLength"] * 3 // 4 - 2))
        return self._random.randbytes(self._random.randint(least, most))

    def _list(self, schema: _Schema, at: str, depth: int) -> list[Any]:
        prefix: list[Any] = list(schema.get("prefixItems", ()))
        items = schema.get("items", True)
        least = schema.get("minItems", len(prefix))
        most = schema.get("maxItems", max(least, len(prefix)) + _ITEMS)
        if items is False:
            most = min(most, len(prefix))
        if least > most:
            raise _empty(schema, at)
        if depth >= _DEEP:
            most = least
        length = self._random.randint(least, min(most, least + _ITEMS))
        drawn: list[Any] = []
        tries = 0
        while len(drawn) < length and tries < 20 * length:
            tries += 1
            place = len(drawn)
            item = prefix[place] if place < len(prefix) else items
            value = self._draw(item, f"{at}[{place}]", depth + 1)
            if not schema.get("uniqueItems") or value not in drawn:
                drawn.append(value)
        if len(drawn) < least:
            raise _empty(schema, at)
        return drawn

    def _map(self, schema: _Schema, at: str, depth: int) -> Any:
        properties: Mapping[str, Any] = schema.get("properties", {})
        if _is_array(properties):
            return self._array(properties, at)
        required = set(schema.get("required", ()))
        drawn: dict[str, Any] = {}
        for name, inner in properties.items():
            is_wanted = depth < _DEEP and self._random.random() < self._optional
            if name in required or is_wanted:
                drawn[name] = self._draw(inner, f"{at}.{name}", depth + 1)
        least = max(schema.get("minProperties", 0), 0)
        others = schema.get("additionalProperties", False)
        if others is not False and not properties and depth < _DEEP:
            least = max(least, self._random.randint(0, _ITEMS))
        names: _Schema = {"minLength": 1, **schema.get("propertyNames", {})}
        for _ in range(20 * least if others is not False else 0):
            if len(drawn) >= least:
                break
            name = str(self._string(names, at, depth))
            drawn[name] = self._draw(others, f"{at}.{name}", depth + 1)
        if len(drawn) < schema.get("minProperties", 0):
            raise _empty(schema, at)
        return drawn

    # Arrays

    def _array(self, properties: Mapping[str, Any], at: str) -> Array:
        """An array, whose schema may say dtype, shape and range (`low`, `high`)."""
        place = f"{at}.dtype"
        dtypes = self._resolved(properties["dtype"], place)
        known: list[str] = dtypes.get("enum") or [dtypes.get("const") or "<f4"]
        # The first is the array's own where a schema allows others that can be cast.
        dtype = known[0]
        code = _CODES.get(dtype[1:])
        if code is None:
            raise LocalProtocolError(
                f"expected a dtype of plain numbers at {place}, got {dtype!r}"
            )
        shape = self._shape(self._resolved(properties["shape"], at), at)
        bounds = self._resolved(properties["data"], at)
        numbers = [
            self._element(dtype[1:], low, high)
            for low, high in _bounds(bounds, math.prod(shape), at)
        ]
        order = ">" if dtype[0] == ">" else "<"
        data = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        return Array(dtype=dtype, shape=shape, data=memoryview(data))

    def _shape(self, schema: _Schema, at: str) -> tuple[int, ...]:
        drawn: Any = schema.get("const")
        if drawn is None:
            lengths = {"minimum": 0, "maximum": _ITEMS, **schema.get("items", {})}
            bounds = {"minItems": 1, "maxItems": 2}
            drawn = self._list({**bounds, **schema, "items": lengths}, at, 0)
        return tuple(int(length) for length in drawn)

    def _element(self, kind: str, low: float | None, high: float | None) -> Any:
        if kind == "b1":
            return self._random.random() < 0.5
        if kind in _MANTISSA:
            first, last = _range(low, high)
            return _rounded_inwards(
                self._random.uniform(first, last), kind, first, last
            )
        bits = 8 * int(kind[1:])
        least, most = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 0)
        if kind[0] == "i":
            most = -least - 1
        first, last = _range(low, high)
        return self._random.randint(
            max(least, math.ceil(first)), min(most, math.floor(last))
        )


def _rounded_inwards(value: float, kind: str, first: float, last: float) -> float:
    """A float that is still within the bounds when it is stored in fewer bits."""
    code = _CODES[kind]
    (stored,) = struct.unpack(f"<{code}", struct.pack(f"<{code}", value))
    if first <= stored <= last:
        return value
    # Between the bounds there may be none but a bound itself.
    return first if stored < first else last


def _is_array(properties: Mapping[str, Any]) -> bool:
    kind: Any = properties.get("kind", {})
    return set(properties) == {"kind", "dtype", "shape", "data"} and (
        kind.get("enum") == ["array"] or kind.get("const") == "array"
    )


def _bounds(
    schema: _Schema, count: int, at: str
) -> list[tuple[float | None, float | None]]:
    """Lowest and highest value of each element; one pair may stand for all."""
    ends: list[list[float | None]] = []
    for key in ("low", "high"):
        given: Any = schema.get(key)
        values = _flat(given) if isinstance(given, Sequence) else [given] * count
        if len(values) != count:
            raise LocalProtocolError(
                f"expected {count} values as {key!r} at {at}, got {len(values)}"
            )
        ends.append(values)
    return list(zip(*ends, strict=True))


def _flat(values: Any) -> list[Any]:
    if not isinstance(values, list | tuple):
        return [values]
    return [inner for value in values for inner in _flat(value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # nested to any depth


def _range(low: float | None, high: float | None) -> tuple[Any, Any]:
    """Both ends of a range, of which the schema may name none."""
    low = None if low is None or math.isinf(low) else low
    high = None if high is None or math.isinf(high) else high
    if low is None and high is None:
        return -_SPAN, _SPAN
    if low is None:
        assert high is not None
        return high - _SPAN, high
    return low, low + _SPAN if high is None else high


def _joined(key: str, before: Any, value: Any) -> Any:
    """Join a keyword that several parts of a schema have."""
    if before is None:
        return value
    if key == "properties":
        return {**before, **value}
    if key == "required":
        return [*before, *value]
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems"):
        return max(before, value)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems"):
        return min(before, value)
    return value


def _empty(schema: _Schema, at: str) -> LocalProtocolError:
    bounds = {key: schema[key] for key in schema if key in _BOUNDS or key in _SIZES}
    return LocalProtocolError(
        f"expected a schema that a value fits at {at}, got {bounds!r}"
    )


_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SIZES: Final = (
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
    *("minProperties", "multipleOf"),
)
_IMPLIED: Final = {
    **{"properties": "object", "additionalProperties": "object"},
    **{"items": "array", "prefixItems": "array"},
    **{"minLength": "string", "pattern": "string", "format": "string"},
    **dict.fromkeys(_BOUNDS, "number"),
}
"""What a keyword tells about a schema that names no type."""


def _moment(source: random.Random) -> datetime.datetime:
    start = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    return start + datetime.timedelta(seconds=source.randint(0, 2**30))


_FORMATS: Final[dict[str, Callable[[random.Random], str]]] = {
    "date-time": lambda source: _moment(source).isoformat(),
    "date": lambda source: _moment(source).date().isoformat(),
    "time": lambda source: _moment(source).timetz().isoformat(),
    "duration": lambda source: f"PT{source.randint(0, 3600)}S",
    "uuid": lambda source: str(uuid.UUID(int=source.getrandbits(128), version=4)),
    "decimal": lambda source: str(source.randint(-_SPAN, _SPAN) / 4),
}
