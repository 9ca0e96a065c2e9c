"""What our server leaves out is put back from its schema."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openenv_async import Observation
from openenv_async.openenv.defaults import filled


class Inner(msgspec.Struct, omit_defaults=True, frozen=True):
    """Something in an observation."""

    name: str
    size: int = 3


class Left(msgspec.Struct, tag="left", omit_defaults=True, frozen=True):
    """One of two."""

    turns: int = 1


class Right(msgspec.Struct, tag="right", omit_defaults=True, frozen=True):
    """The other of two."""

    steps: int = 2


class Seen(Observation):
    """Defaults of many kinds."""

    total: int = 0
    note: str | None = None
    many: list[int] = msgspec.field(default_factory=list[int])
    inner: Inner = Inner("x")
    inners: list[Inner] = msgspec.field(default_factory=list[Inner])
    named: dict[str, Inner] = msgspec.field(default_factory=dict[str, Inner])
    either: Left | Right = Left()
    maybe: Inner | None = None


@pytest.mark.parametrize(
    "seen",
    [
        Seen(),
        Seen(total=4, note="n", many=[1]),
        Seen(inner=Inner("y"), inners=[Inner("a"), Inner("b", 9)]),
        Seen(named={"k": Inner("z")}, maybe=Inner("m")),
        Seen(either=Right()),
        Seen(either=Left(turns=5)),
    ],
)
def test_filled_is_what_a_server_that_omits_nothing_sends(seen: Seen) -> None:
    """At any depth, and whichever of several types it is."""
    sent = msgspec.json.decode(msgspec.json.encode(seen))
    found = filled(sent, msgspec.json.schema(Seen))
    assert msgspec.convert(found, Seen) == seen
    assert found.keys() >= _all_of(seen).keys()
    assert found["inner"].keys() == {"name", "size"}
    for inner in found["inners"]:
        assert inner.keys() == {"name", "size"}
    assert all(inner.keys() == {"name", "size"} for inner in found["named"].values())
    assert len(found["either"]) == 2


def _all_of(seen: Seen) -> dict[str, Any]:
    return {name: getattr(seen, name) for name in seen.__struct_fields__}


def test_a_default_is_a_copy() -> None:
    """Two observations never share one."""
    schema = {"properties": {"many": {"type": "array", "default": []}}}
    first, second = filled({}, schema), filled({}, schema)
    first["many"].append(1)
    assert second == {"many": []}


def test_nothing_is_put_into_what_is_complete() -> None:
    """A hosted environment's reset may return less than its step."""
    schema = {"x-complete": True, "properties": {"result": {"default": None}}}
    assert filled({}, schema) == {}


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"$ref": "#/$defs/None"}])
def test_a_schema_that_says_nothing_changes_nothing(schema: dict[str, Any]) -> None:
    """Nor does it fail."""
    assert filled({"x": [{"y": 1}]}, schema) == {"x": [{"y": 1}]}
