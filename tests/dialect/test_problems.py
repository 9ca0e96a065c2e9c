"""A decoder's words in pydantic's form."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from openenv_async.dialect import validation_errors


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """Something inside."""

    numbers: list[int] = []


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    """Something to misspell."""

    count: Annotated[int, msgspec.Meta(ge=0, lt=10)]
    name: Annotated[str, msgspec.Meta(max_length=3)] = ""
    inner: Inner | None = None
    ratio: float = 0.0
    parts: dict[str, int] = {}


@pytest.mark.parametrize(
    ("found", "kind", "where", "value"),
    [
        ({}, "missing", ["count"], {}),
        ({"count": "x"}, "int_type", ["count"], "x"),
        ({"count": -1}, "greater_than_equal", ["count"], -1),
        ({"count": 10}, "less_than_equal", ["count"], 10),
        ({"count": 1, "name": "long"}, "length", ["name"], "long"),
        ({"count": 1, "name": 3}, "string_type", ["name"], 3),
        ({"count": 1, "ratio": "x"}, "float_type", ["ratio"], "x"),
        ({"count": 1, "more": 2}, "extra_forbidden", ["more"], 2),
        ({"count": 1, "inner": {"x": 2}}, "extra_forbidden", ["inner", "x"], 2),
        ({"count": 1, "inner": 4}, "dict_type", ["inner"], 4),
        ({"count": 1, "inner": {"numbers": 4}}, "list_type", ["inner", "numbers"], 4),
        (
            {"count": 1, "inner": {"numbers": [1, "a"]}},
            "int_type",
            ["inner", "numbers", 1],
            "a",
        ),
        ({"count": 1, "parts": {"a": "b"}}, "int_type", ["parts"], {"a": "b"}),
        (3, "dict_type", [], 3),
    ],
)
def test_error_says_what_and_where(
    found: Any, kind: str, where: list[str | int], value: object
) -> None:
    """Type, place and value are those that pydantic would name."""
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(msgspec.json.encode(found), type=Sent)
    (problem,) = validation_errors(f"expected an action: {error.value}", found)
    assert (problem["type"], problem["loc"], problem["input"]) == (kind, where, value)
    assert "expected an action" not in str(problem["msg"])


def test_words_of_an_environment_are_kept() -> None:
    """An environment that refuses an action by itself is quoted."""
    (problem,) = validation_errors("no such square: z9", {"to": "z9"})
    assert (problem["type"], problem["msg"]) == ("value_error", "no such square: z9")
