"""Pydantic's models as our wire has them: the values that OpenEnv's JSON shows."""

from __future__ import annotations

import datetime
import enum
import json
import math
import sys
from typing import Any, cast

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic_core import to_json

from openenv_async import InvalidAction, messages
from openenv_async.openenv.hosting.conversion import (
    Actions,
    Observations,
    Reader,
    schema_of,
    state_fields,
)

observed = Observations("test")


class Base(BaseModel):
    """What OpenEnv's observations have in common."""

    done: bool = False
    reward: bool | int | float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Color(enum.Enum):
    """A kind of value."""

    RED = "red"


class Inner(BaseModel):
    """A nested model."""

    x: int = 1
    hidden: int = Field(default=2, exclude=True)


class Plain(Base):
    """Fields of the simplest kinds."""

    text: str = "a"
    number: int = 1
    share: float = 0.5
    nothing: None = None


class Rich(Plain):
    """Fields of every kind."""

    when: datetime.datetime = datetime.datetime(2026, 1, 2)
    color: Color = Color.RED
    inner: Inner = Inner()
    pairs: dict[Any, Any] = Field(default_factory=lambda: {None: 1, (1, 2): 3})
    values: list[float] = Field(default_factory=lambda: [1.0, math.inf])
    raw: bytes = b"ab"


class Serialized(Base):
    """Says itself how to be dumped."""

    text: str = "a"

    @field_serializer("text")
    def _text(self, text: str) -> str:
        return text * 2


class Computed(Base):
    """Has a field that is none."""

    number: int = 2

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def square(self) -> int:
        """A computed value."""
        return self.number**2


class Open(Base):
    """Takes fields that nobody declared."""

    model_config = ConfigDict(extra="allow")


class Dumping(Base):
    """Overrides the dump."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Something else."""
        return {"odd-name": 1, "reward": 2.0, "done": False}


def wire(observation: BaseModel) -> dict[str, Any]:
    """What a client decodes."""
    decoded = messages.MSGPACK.generic(messages.MSGPACK.encode(observed(observation)))
    assert isinstance(decoded, dict)
    return decoded


def as_openenv_shows(observation: BaseModel) -> dict[str, Any]:
    """The fields of an observation in OpenEnv's JSON."""
    dumped = observation.model_dump()
    shown: dict[str, Any] = json.loads(to_json(dumped, inf_nan_mode="null"))
    return shown


@pytest.mark.parametrize(
    "observation",
    [
        Plain(),
        Plain(share=math.nan),
        Plain(metadata={"k": (1, 2)}),
        Rich(),
        Serialized(),
        Computed(),
        Open.model_validate({"more": 1, "class": 2}),
        Dumping(),
        Plain.model_construct(text="b"),
    ],
    ids=repr,
)
def test_fields_are_as_openenv_shows_them(observation: BaseModel) -> None:
    """Whatever way a value takes, it comes out as in OpenEnv's JSON."""
    shown = as_openenv_shows(observation)
    found = wire(observation)
    for key in ("done", "reward", "metadata"):
        shown.pop(key, None)
        found.pop(key, None)
    assert found == shown


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(None, None), (2, 2), (1.5, 1.5), (True, 1.0), (math.nan, None), (math.inf, None)],
)
def test_reward_is_a_number_or_none(reward: Any, expected: float | None) -> None:
    """A bool counts as a number, what is none of the finite ones as none."""
    for observation in (Plain(reward=reward), Rich(reward=reward)):
        found = observed(observation).reward
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"done": False}, (False, False)),
        ({"done": False, "metadata": {"truncated": True}}, (False, False)),
        ({"done": True}, (True, False)),
        ({"done": True, "metadata": {"truncated": True}}, (False, True)),
        ({"done": True, "metadata": {"TimeLimit.truncated": True}}, (False, True)),
        ({"done": True, "truncated": True}, (False, True)),
        ({"done": True, "truncated": True, "terminated": True}, (True, True)),
        ({"done": True, "truncated": False}, (True, False)),
    ],
)
def test_end_is_split_as_the_environment_says(
    fields: dict[str, Any], flags: tuple[bool, bool]
) -> None:
    """An end is a truncation where the environment says so, never otherwise."""
    found = observed(Open.model_validate(fields))
    assert (found.terminated, found.truncated) == flags
    assert found.done is fields["done"]


@pytest.mark.parametrize("kind", [Serialized, Computed, Open, Dumping])
def test_short_way_is_not_for_models_that_change_their_fields(
    kind: type[BaseModel],
) -> None:
    """Only what is dumped as it is may be taken as it is."""
    assert Reader(kind, "test").names == ()
    assert len(Reader(Plain, "test").names) == 4


def test_what_is_no_model_is_refused_by_name() -> None:
    """An environment's mistake names what came."""
    with pytest.raises(TypeError, match="observation of 'test', got 'dict'"):
        observed({"total": 1})


def test_value_without_a_place_in_json_is_refused() -> None:
    """As in OpenEnv, such a step fails instead of showing half."""
    with pytest.raises(Exception, match="Unable to serialize unknown type"):
        observed(Open.model_validate({"thing": object()}))


class Act(BaseModel):
    """An action."""

    model_config = ConfigDict(extra="forbid")
    amount: int = Field(ge=0)


def test_actions_are_validated_as_openenv_does() -> None:
    """Lax like pydantic; what does not fit is told by its list of errors."""
    actions = Actions("test", Act.model_validate)
    assert actions({"amount": "3"}) == Act(amount=3)
    with pytest.raises(InvalidAction, match="amount") as caught:
        actions({"amount": -1, "more": 1})
    errors: Any = caught.value.detail["errors"]
    assert [each["type"] for each in errors] == [
        "greater_than_equal",
        "extra_forbidden",
    ]


@pytest.mark.parametrize("depth", [10, 200, 250, 900])
def test_action_that_is_nested_too_deeply_is_refused(depth: int) -> None:
    """What does not fit is told, with the input where JSON can hold it."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    actions = Actions("test", Act.model_validate)
    with pytest.raises(InvalidAction, match="amount") as caught:
        actions({"amount": value})
    (error,) = cast("list[dict[str, Any]]", caught.value.detail["errors"])
    assert (error["type"], error["loc"]) == ("int_type", ["amount"])
    assert ("input" in error) is (depth < 200)


def test_action_whose_validator_runs_out_of_stack_is_refused() -> None:
    """Nothing was executed, and what the caller sent is the reason."""

    def depth_of(value: object) -> int:
        return 1 + depth_of(value[0]) if isinstance(value, list) and value else 0

    class Tree(BaseModel):
        branches: list[Any]

        @field_validator("branches")
        @classmethod
        def _shallow(cls, branches: list[Any]) -> list[Any]:
            if depth_of(branches) > 9:
                raise ValueError("too many branches")
            return branches

    value: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        value = [value]
    with pytest.raises(InvalidAction, match="nested less deeply") as caught:
        Actions("test", Tree.model_validate)({"branches": value})
    assert (caught.value.executed, caught.value.fault) == ("no", "caller")


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        (Inner(x=3), {"x": 3}),
        ({"a": (1,)}, {"a": [1]}),
        ([("a", math.nan)], {"a": None}),
        (5, {}),
        (None, {}),
    ],
)
def test_state_is_a_map(state: object, fields: dict[str, Any]) -> None:
    """A model's fields, a mapping's items, or nothing."""
    assert state_fields(state) == fields


class Odd(BaseModel):
    """Has no schema."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: math.__class__  # type: ignore[name-defined]  # a class without one


def test_schema_is_pydantics_or_a_title() -> None:
    """A form gets what there is."""
    assert schema_of(Act)["properties"]["amount"]["minimum"] == 0
    assert schema_of(Odd) == {"title": "Odd", "type": "object"}
    assert schema_of(None)["title"] == "State"
