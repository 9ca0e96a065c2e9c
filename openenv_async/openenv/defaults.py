"""Fields that have their default: our server leaves them out, OpenEnv's does not.

A typed client of ours knows the defaults. Parsing hooks of OpenEnv's clients do not:
they find every field in what they get. The server's JSON Schema says what is missing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final, cast

__all__ = ["COMPLETE", "filled"]

COMPLETE: Final = "x-complete"
"""In a schema: nothing is left out of what it describes.

Hosted environments of OpenEnv say so. What is missing there is missing, because `reset`
may return another model than `step`.
"""
_CHOICES: Final = ("anyOf", "oneOf")


def filled(value: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put what is missing into a map, at any depth.

    Args:
        value: The map; is changed.
        schema: JSON Schema of it.
    """
    if schema.get(COMPLETE) is True:
        return value
    definitions = cast(Mapping[str, Any], schema.get("$defs", {}))
    _fill(value, schema, definitions)
    return value


def _fill(value: object, schema: Mapping[str, Any], defs: Mapping[str, Any]) -> None:
    if isinstance(value, dict):
        _fill_map(cast(dict[str, Any], value), schema, defs)
    elif isinstance(value, list):
        for choice in _choices(schema, defs):
            inner = choice.get("items")
            if isinstance(inner, Mapping):
                for item in cast(list[object], value):
                    _fill(item, cast(Mapping[str, Any], inner), defs)
                return


def _fill_map(
    fields: dict[str, Any], schema: Mapping[str, Any], defs: Mapping[str, Any]
) -> None:
    chosen = _object(fields, schema, defs)
    properties = cast(Mapping[str, Any], chosen.get("properties", {}))
    for name, inner in properties.items():
        if name not in fields:
            if "default" not in inner:
                continue
            fields[name] = copy.deepcopy(inner["default"])
        _fill(fields[name], inner, defs)
    rest = chosen.get("additionalProperties")
    if isinstance(rest, Mapping):
        for name in fields.keys() - properties.keys():
            _fill(fields[name], cast(Mapping[str, Any], rest), defs)


def _choices(
    schema: Mapping[str, Any], defs: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """The schema, or what it may be instead."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        schema = defs.get(reference.rpartition("/")[2], {})
    for name in _CHOICES:
        if name in schema:
            return [choice for part in schema[name] for choice in _choices(part, defs)]
    return [schema]


def _object(
    fields: Mapping[str, Any], schema: Mapping[str, Any], defs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The choice that a map fits: its tag says which, or its keys do."""
    fitting = [
        choice
        for choice in _choices(schema, defs)
        if fields.keys() >= set(choice.get("required", ()))
        and all(
            fields.get(name) in inner["enum"]
            for name, inner in choice.get("properties", {}).items()
            if "enum" in inner and name in choice.get("required", ())
        )
        and (choice.get("properties") or "additionalProperties" in choice)
    ]
    return max(
        fitting, key=lambda choice: len(choice.get("required", ())), default=schema
    )
