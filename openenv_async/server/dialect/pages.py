"""Pages that describe a server as OpenEnv's tools want to read it."""

from __future__ import annotations

from typing import Any, Final, cast

from ...environment import EnvironmentSpec
from ..readme import readme_of
from ..schema import environment_schema
from .hall import Hall

__all__ = ["dialect_metadata", "dialect_schema", "openapi"]

_TITLE: Final = "OpenEnv Environment HTTP API"
_VERSION: Final = "1.0.0"
_DEFINITIONS: Final = "#/$defs/"
_COMPONENTS: Final = "#/components/schemas/"
_NOT_THEIRS: Final = ("terminated", "truncated")
"""Fields of an observation for which OpenEnv has `done`."""


def dialect_metadata(spec: EnvironmentSpec) -> dict[str, Any]:
    """An environment's metadata under OpenEnv's names."""
    told = spec.metadata
    return {
        "name": told.name,
        "description": told.description,
        "readme_content": readme_of(spec) or None,
        "version": told.version or _VERSION,
        "author": told.author or None,
        "documentation_url": told.documentation_url or None,
    }


def dialect_schema(spec: EnvironmentSpec) -> dict[str, Any]:
    """The schemas of an environment, in OpenEnv's form.

    A reset's observation is one like any other here.
    """
    ours = environment_schema(spec)
    observation = _flat(ours["observation"])
    if "terminated" in observation.get("properties", {}):
        observation = _with_done(observation)
    return {
        "action": _flat(ours["action"]),
        "observation": observation,
        "state": _flat(ours["state"]),
        "reset_observation": ours.get("reset_observation", observation),
    }


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its own title and properties at the top, not in a definition."""
    name = str(schema.get("$ref", "")).removeprefix(_DEFINITIONS)
    definitions = cast(dict[str, dict[str, Any]], schema.get("$defs", {}))
    if name not in definitions:
        return schema
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {**definitions[name], **rest}


def _with_done(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {
        key: value
        for key, value in cast(dict[str, Any], schema["properties"]).items()
        if key not in _NOT_THEIRS
    }
    done = {"type": "boolean", "default": False}
    return {**schema, "properties": {"done": done, **properties}}


def openapi(hall: Hall) -> dict[str, Any]:
    """A document of all routes, as far as OpenEnv's tools read it."""
    components: dict[str, Any] = {}
    schemas = {
        name: _hoisted(schema, components)
        for name, schema in dialect_schema(hall.shapes[hall.default].spec).items()
    }
    observed: dict[str, Any] = {
        "type": "object",
        "properties": {
            "observation": schemas["observation"],
            "reward": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "done": {"type": "boolean"},
            "metadata": {"anyOf": [{"type": "object"}, {"type": "null"}]},
        },
        "required": ["observation"],
    }
    anything: dict[str, Any] = {"type": "object"}
    step: dict[str, Any] = {
        "type": "object",
        "properties": {
            "action": schemas["action"],
            "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        },
        "required": ["action"],
    }
    split = {
        "type": "object",
        "properties": {"split": {"type": "string"}},
        "required": ["split"],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": _VERSION},
        "components": {"schemas": components},
        "paths": {
            "/health": _route("get", "Liveness and capacity", anything),
            "/metadata": _route("get", "Name and description", anything),
            "/schema": _route("get", "JSON Schemas", anything),
            "/reset": _route("post", "Reset an environment", observed, anything),
            "/step": _route("post", "Step an environment", observed, step),
            "/state": _route("get", "An environment's state", schemas["state"]),
            "/mcp": _route("post", "JSON-RPC", anything, anything),
            "/list_environments": _route("get", "Names", {"type": "array"}),
            "/{environment}/splits": _route("get", "Splits", {"type": "array"}),
            **{
                f"/{{environment}}/{name}": _route("post", name, anything, split)
                for name in ("tasks", "num_tasks", "task", "task_range")
            },
        },
    }


def _hoisted(schema: object, components: dict[str, Any]) -> Any:
    """A schema whose definitions are where the document's references look."""
    if isinstance(schema, list):
        return [_hoisted(each, components) for each in cast(list[object], schema)]
    if isinstance(schema, str):
        # References, and those of discriminators, which are texts like others.
        is_reference = schema.startswith(_DEFINITIONS)
        return _COMPONENTS + schema[len(_DEFINITIONS) :] if is_reference else schema
    if not isinstance(schema, dict):
        return schema
    found = dict(cast(dict[str, Any], schema))
    for name, definition in found.pop("$defs", {}).items():
        components[name] = _hoisted(definition, components)
    return {key: _hoisted(value, components) for key, value in found.items()}


def _route(
    method: str,
    summary: str,
    answer: dict[str, Any],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    content = {"application/json": {"schema": answer}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": content}},
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return {method: operation}
