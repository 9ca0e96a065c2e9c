"""JSON Schema of an environment's types, with what their sources say of each field."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec

from ..environment import EnvironmentSpec

__all__ = ["environment_schema"]


def environment_schema(spec: EnvironmentSpec) -> dict[str, Any]:
    """The schemas of action, observation and state, each complete in itself.

    A string literal underneath a field is its `description`, unless `Meta` gives one.
    Reads source files the first time, so it blocks then.

    Raises:
        TypeError: A type has no JSON Schema.
    """
    if spec.schemas is not None:
        return dict(spec.schemas)
    return {
        "action": _described(spec.action_type),
        "observation": _described(spec.observation_type),
        "state": _described(spec.state_type),
    }


def _described(root: object) -> dict[str, Any]:
    schema = msgspec.json.schema(root)
    definitions: Mapping[str, dict[str, Any]] = schema.get("$defs", {})
    for struct in _structs(msgspec.inspect.type_info(root), set()):
        # Structs that share a name have a longer one here: they stay undescribed.
        definition = definitions.get(struct.cls.__name__, {})
        properties = definition.get("properties", {})
        docs = _field_docs(struct.cls)
        for field in struct.fields:
            if field.name in docs and field.encode_name in properties:
                properties[field.encode_name].setdefault(
                    "description", docs[field.name]
                )
    return schema


def _structs(value: object, seen: set[int]) -> Iterator[msgspec.inspect.StructType]:
    """Every struct that a type is made of, each once; types may be recursive."""
    if isinstance(value, (tuple, list)):
        for item in cast(Sequence[object], value):
            yield from _structs(item, seen)
    elif isinstance(value, (msgspec.inspect.Type, msgspec.inspect.Field)):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, msgspec.inspect.StructType):
            yield value
        for name in value.__struct_fields__:
            yield from _structs(getattr(value, name), seen)


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """What stands underneath the fields of a class and of those that it extends."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is msgspec.Struct or not issubclass(base, msgspec.Struct):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            # Made at run time, or its source is not there: then nothing is said.
            continue
        if isinstance(tree.body[0], ast.ClassDef):
            docs |= _literals(tree.body[0])
    return docs


def _literals(body: ast.ClassDef) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(doc.value.value)
        for field, doc in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
