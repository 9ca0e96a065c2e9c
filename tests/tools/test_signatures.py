"""Schemas from signatures and docstrings, and what cannot be a tool."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import msgspec
import pytest

from openenv_async import LocalProtocolError
from openenv_async.tools.signatures import make_tool


@dataclasses.dataclass
class Place:
    """A nested type."""

    x: int
    y: int


def move(
    self: object,
    to: Place,
    speed: Literal["slow", "fast"] = "slow",
    load: Annotated[int, msgspec.Meta(ge=0, le=9)] = 0,
    via: list[Place] = [],  # noqa: B006 (what authors write; each call gets its own)
) -> None:
    """Move a thing.

    Args:
        to: Where.
        speed (str): How fast,
            in words.
        load: How heavy: in stones.
    """


def test_schema_has_types_defaults_bounds_and_descriptions() -> None:
    """Everything that signature and docstring say is in the schema."""
    schema = make_tool(move, attribute="move").description.input_schema
    properties = schema["properties"]
    assert schema["required"] == ["to"]
    assert schema["additionalProperties"] is False
    assert properties["speed"] == {
        "enum": ["fast", "slow"],
        "default": "slow",
        "description": "How fast, in words.",
    }
    load = {"type": "integer", "minimum": 0, "maximum": 9, "default": 0}
    assert properties["load"] == {**load, "description": "How heavy: in stones."}
    assert schema["$defs"]["Place"]["required"] == ["x", "y"]
    assert properties["via"]["items"] == {"$ref": "#/$defs/Place"}


def test_arguments_become_what_the_hints_say() -> None:
    """Nested values are built, and a mutable default is never shared."""
    made = make_tool(move, attribute="move")
    first = made.decode({"to": {"x": 1, "y": 2}, "load": "3"})
    first["via"].append(Place(0, 0))
    second = made.decode({"to": {"x": 1, "y": 2}})
    assert first["to"] == Place(1, 2)
    assert (first["load"], second["via"]) == (3, [])


def test_description_ends_where_sections_begin() -> None:
    """The agent sees what the tool does, not how Python calls it."""
    made = make_tool(move, attribute="move", name="go")
    assert (made.description.name, made.description.description) == (
        "go",
        "Move a thing.",
    )


def untyped(self: object, there) -> None:  # type: ignore[no-untyped-def]  # the mistake
    """No hint."""


def many(self: object, *there: int) -> None:
    """No names."""


def unresolved(self: object, there: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821 (the mistake)
    """No such type."""


def unspeakable(self: object, there: object, how: type[Any]) -> None:
    """No schema."""


@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        (untyped, {}, "expected a type hint for 'there'"),
        (many, {}, "expected parameters with names"),
        (unresolved, {}, "type hints of the tool 'tool' that can be resolved"),
        (unspeakable, {}, "JSON"),
        (move, {"name": "reset"}, "got 'reset'"),
        (move, {"timeout": 1.0}, "a blocking call cannot be stopped"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_reason(
    function: Any, options: dict[str, Any], text: str
) -> None:
    """The author learns at import what is wrong."""
    with pytest.raises(LocalProtocolError, match=text):
        make_tool(function, attribute="tool", **options)
