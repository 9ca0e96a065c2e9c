"""What stands underneath a field in the source is told to clients."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import msgspec
import pytest

from openenv_async import Action, Environment, Observation, State
from openenv_async.environment import EnvironmentSpec
from openenv_async.server.schema import environment_schema


class Point(msgspec.Struct):
    """Somewhere."""

    x: int
    """Steps to the right."""
    y: int


class Move(Action):
    """Go somewhere."""

    target: Point
    """Where to go."""
    speed: Annotated[float, msgspec.Meta(description="From Meta.")] = 1.0
    """Not this, because Meta says it."""
    plain: str = ""


class Sprint(Move, rename="camel"):
    """Go there fast."""

    shoe_size: int | None = None
    """Of the left foot,
    in inches.
    """


class Tree(Observation):
    """Holds itself."""

    children: tuple[Tree, ...] = ()
    """What hangs below."""


class Forest(Environment[Sprint, Tree, State]):
    """Only its types matter."""

    async def reset(self, **_: Any) -> Tree:
        """Never called."""
        raise NotImplementedError

    async def step(self, action: Sprint) -> Tree:
        """Never called."""
        raise NotImplementedError

    def state(self) -> State:
        """Never called."""
        raise NotImplementedError


@pytest.fixture
def schema() -> dict[str, Any]:
    """The schemas of `Forest`."""
    return environment_schema(EnvironmentSpec.of(Forest))


@pytest.mark.parametrize(
    ("struct", "field", "description"),
    [
        ("Sprint", "shoeSize", "Of the left foot,\nin inches."),
        ("Sprint", "target", "Where to go."),
        ("Sprint", "speed", "From Meta."),
        ("Sprint", "plain", None),
        ("Point", "x", "Steps to the right."),
        ("Point", "y", None),
    ],
)
def test_fields_are_described(
    schema: dict[str, Any], struct: str, field: str, description: str | None
) -> None:
    """Inherited, renamed and nested ones too; what Meta says comes first."""
    properties = schema["action"]["$defs"][struct]["properties"]
    assert properties[field].get("description") == description


def test_recursive_types_are_described(schema: dict[str, Any]) -> None:
    """A type may hold itself."""
    properties = schema["observation"]["$defs"]["Tree"]["properties"]
    assert properties["children"]["description"] == "What hangs below."


def test_types_without_a_source_are_left_as_they_are() -> None:
    """A struct that was made at run time has no text underneath its fields."""
    made = msgspec.defstruct("Made", [("size", int)], bases=(Action,))
    spec = EnvironmentSpec.of(Forest)
    spec = dataclasses.replace(spec, action_type=made)
    properties = environment_schema(spec)["action"]["$defs"]["Made"]["properties"]
    assert properties["size"] == {"type": "integer"}
