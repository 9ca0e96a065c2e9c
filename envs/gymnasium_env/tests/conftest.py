"""A JSON Schema validator for the keywords that we use; any other one is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

_TYPES = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": int | float,
    "string": str,
    "array": list,
    "object": dict,
}
_CHECKS: dict[str, Callable[[Any, Any], object]] = {
    "const": lambda value, given: value == given,
    "enum": lambda value, given: value in given,
    "minimum": lambda value, given: value >= given,
    "maximum": lambda value, given: value <= given,
    "minLength": lambda value, given: len(value) >= given,
    "maxLength": lambda value, given: len(value) <= given,
    "pattern": lambda value, given: re.search(given, value),
    "minItems": lambda value, given: len(value) >= given,
    "maxItems": lambda value, given: len(value) <= given,
    "required": lambda value, given: set(given) <= value.keys(),
}
_ANNOTATIONS = {
    "$defs",
    "title",
    "description",
    "default",
    "contentEncoding",
    "discriminator",
    "low",
    "high",
}


@pytest.fixture(scope="session")
def problems() -> Callable[[dict[str, Any], Any], list[str]]:
    """Everything in which a decoded JSON value does not follow a schema."""
    return lambda schema, value: _problems(schema, value, "$", schema.get("$defs", {}))


def _problems(
    schema: dict[str, Any], value: Any, path: str, definitions: dict[str, Any]
) -> list[str]:
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, _TYPES[kind])
        or (isinstance(value, bool) and kind in ("integer", "number"))
    ):
        return [f"{path}: expected {kind}, got {value!r}"]
    found: list[str] = []
    for keyword, given in schema.items():
        if keyword in _CHECKS:
            if not _CHECKS[keyword](value, given):
                found.append(f"{path}: expected {keyword} {given!r}, got {value!r}")
        elif keyword == "$ref":
            target = definitions[given.rpartition("/")[2]]
            found += _problems(target, value, path, definitions)
        elif keyword == "anyOf":
            choices = [_problems(choice, value, path, definitions) for choice in given]
            found += [] if [] in choices else [f"{path}: no choice fits: {choices}"]
        elif keyword not in _ANNOTATIONS | {"type"}:
            found += _children(schema, keyword, value, path, definitions)
    return found


def _children(
    schema: dict[str, Any],
    keyword: str,
    value: Any,
    path: str,
    definitions: dict[str, Any],
) -> list[str]:
    given = schema[keyword]
    parts: list[tuple[Any, Any, str]]
    match keyword:
        case "prefixItems":
            parts = list(zip(given, value, map(str, range(len(value)))))  # noqa: B905 (as the standard says)
        case "items":
            rest = value[len(schema.get("prefixItems", ())) :]
            parts = [(given, item, "*") for item in rest]
        case "properties":
            parts = [(given[key], value[key], key) for key in given.keys() & value]
        case "additionalProperties":
            others = value.keys() - schema.get("properties", {}).keys()
            parts = [(given, value[key], key) for key in others]
        case _:
            raise AssertionError(f"unknown keyword {keyword!r} at {path}")
    found: list[str] = []
    for part, item, key in parts:
        if part is False:
            found.append(f"{path}.{key}: expected nothing, got {item!r}")
        elif part is not True:
            found += _problems(part, item, f"{path}.{key}", definitions)
    return found
