"""What is wrong with a value, by a JSON Schema as msgspec and `/schema` write it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from ..arrays import Array

__all__ = ["faults_of_schema", "faults_of_value", "invalid_values"]

_TYPES: Final[dict[str, Callable[[object], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and cast(float, value) % 1 == 0,
    "number": lambda value: _is_number(value),
    # Binary is base64 in JSON, and bytes in msgpack.
    "string": lambda value: isinstance(value, str | bytes | memoryview),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, Mapping),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def faults_of_schema(schema: object) -> list[str]:
    """Say what makes a schema unusable: unknown types, references to nowhere."""
    if not isinstance(schema, Mapping):
        return [f"expected a schema that is a map, got {schema!r}"]
    root = cast(Mapping[str, Any], schema)
    return list(_schema_faults(root, root, "$"))


def _schema_faults(
    root: Mapping[str, Any], schema: Mapping[str, Any], at: str
) -> Iterator[str]:
    reference = schema.get("$ref")
    if reference is not None and _follow(root, reference) is None:
        yield f"expected a reference into the schema at {at}, got {reference!r}"
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _TYPES:
            yield f"expected a type of JSON at {at}, got {kind!r}"
    for key in ("properties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            yield from _schema_faults(root, inner, f"{at}.{key}.{name}")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for place, inner in enumerate(schema.get(key, ())):
            yield from _schema_faults(root, inner, f"{at}.{key}[{place}]")
    for key in ("items", "additionalProperties", "propertyNames"):
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            yield from _schema_faults(root, cast(Any, inner), f"{at}.{key}")


def _follow(root: Mapping[str, Any], reference: object) -> Any:
    found: Any = root
    path = str(reference).removeprefix("#").strip("/")
    for part in path.split("/") if path else ():
        name = part.replace("~1", "/").replace("~0", "~")
        found = cast(Any, found).get(name) if isinstance(found, Mapping) else None
    return found


def faults_of_value(schema: Mapping[str, Any], value: object) -> list[str]:
    """Say where a value is not what a schema says, as `$.path: expected ...`."""
    return list(_faults(schema, schema, value, "$"))


def _faults(
    root: Mapping[str, Any], schema: Any, value: object, at: str
) -> Iterator[str]:
    if schema is True or schema == {}:
        return
    if schema is False:
        yield f"{at}: expected nothing"
        return
    value = _as_map(value)
    if "$ref" in schema:
        yield from _faults(root, _follow(root, schema["$ref"]), value, at)
    for inner in schema.get("allOf", ()):
        yield from _faults(root, inner, value, at)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            yield from _alternatives(root, schema[key], value, at)
    allowed = [schema["const"]] if "const" in schema else schema.get("enum")
    if allowed is not None and value not in allowed:
        yield f"{at}: expected one of {allowed!r}, got {_short(value)}"
    kinds = schema.get("type")
    if kinds is not None:
        wanted = [kinds] if isinstance(kinds, str) else kinds
        if not any(_TYPES[kind](value) for kind in wanted if kind in _TYPES):
            yield f"{at}: expected {' or '.join(wanted)}, got {_short(value)}"
            return
    yield from _by_type(root, schema, value, at)


def _as_map(value: object) -> object:
    """An array as its fields, everything else as it is."""
    if not isinstance(value, Array):
        return value
    shape, data = list(value.shape), bytes(value.data)
    return {"kind": "array", "dtype": value.dtype, "shape": shape, "data": data}


def _alternatives(
    root: Mapping[str, Any], options: Sequence[Any], value: object, at: str
) -> Iterator[str]:
    found = [list(_faults(root, option, value, at)) for option in options]
    if all(found):
        # The alternative that goes deepest is the one that was meant.
        best = max(found, key=lambda faults: len(faults[0].partition(":")[0]))
        yield best[0]


def _by_type(
    root: Mapping[str, Any], schema: Mapping[str, Any], value: object, at: str
) -> Iterator[str]:
    if _is_number(value):
        yield from _number_faults(schema, cast(float, value), at)
    elif isinstance(value, str):
        yield from _size_faults(schema, len(value), "Length", at)
        pattern = schema.get("pattern")
        if pattern is not None and re.search(pattern, value) is None:
            yield f"{at}: expected a match of {pattern!r}, got {_short(value)}"
    elif isinstance(value, list | tuple):
        items = cast(Sequence[object], value)
        yield from _size_faults(schema, len(items), "Items", at)
        prefix = schema.get("prefixItems", ())
        for place, item in enumerate(items):
            inner = prefix[place] if place < len(prefix) else schema.get("items", True)
            yield from _faults(root, inner, item, f"{at}[{place}]")
    elif isinstance(value, Mapping):
        yield from _map_faults(root, schema, cast(Mapping[str, object], value), at)


def _number_faults(schema: Mapping[str, Any], value: float, at: str) -> Iterator[str]:
    if math.isnan(value):
        return
    for key, holds, text in (
        ("minimum", value >= schema.get("minimum", value), "at least"),
        ("maximum", value <= schema.get("maximum", value), "at most"),
        ("exclusiveMinimum", value > schema.get("exclusiveMinimum", -math.inf), "over"),
        ("exclusiveMaximum", value < schema.get("exclusiveMaximum", math.inf), "under"),
    ):
        if key in schema and not holds:
            yield f"{at}: expected {text} {schema[key]}, got {value!r}"
    multiple = schema.get("multipleOf")
    if multiple is not None and not math.isclose(
        value / multiple, round(value / multiple), rel_tol=0.0, abs_tol=1e-9
    ):
        yield f"{at}: expected a multiple of {multiple}, got {value!r}"


def _size_faults(
    schema: Mapping[str, Any], size: int, what: str, at: str
) -> Iterator[str]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if least is not None and size < least:
        yield f"{at}: expected {what.lower()} of at least {least}, got {size}"
    if most is not None and size > most:
        yield f"{at}: expected {what.lower()} of at most {most}, got {size}"


def _map_faults(
    root: Mapping[str, Any],
    schema: Mapping[str, Any],
    value: Mapping[str, object],
    at: str,
) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at}.{name}: expected a value, got none"
    yield from _size_faults(schema, len(value), "Properties", at)
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        inner = properties.get(name, others)
        if inner is False:
            yield f"{at}.{name}: expected no such entry, got {_short(item)}"
        else:
            yield from _faults(root, inner, item, f"{at}.{name}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_WRONG: Final[tuple[object, ...]] = (None, "wrong", -(10**9), 10**9, 0.5, [], {})


def invalid_values(schema: Mapping[str, Any], valid: object) -> list[object]:
    """Spoil a valid value in every way of which the schema says that it is wrong."""
    spoilt: list[object] = list(_WRONG)
    if isinstance(valid, Mapping):
        entries = cast(Mapping[str, object], valid)
        spoilt.append({**entries, "no such field": 1})
        for name in entries:
            spoilt.append({k: v for k, v in entries.items() if k != name})
            spoilt += [{**entries, name: wrong} for wrong in _WRONG]
    return [value for value in spoilt if faults_of_value(schema, value)]
