"""What an author subclasses: types, names, descriptions, and how they are found."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from openenv_async import (
    Action,
    Environment,
    EnvironmentMetadata,
    EnvironmentSpec,
    LocalProtocolError,
    Observation,
    State,
    find_spec,
)
from openenv_async.environment import (
    ENTRY_POINTS,
    environment_name,
    type_arguments,
)
from tests.environments import BlockingEnvironment, Command, Report, ScriptedEnvironment

ActT = TypeVar("ActT")


class _Plain(Environment[Command, Report, State]):
    """Does nothing, at length.

    Second paragraph.
    """

    def __init__(self, size: int = 1, word: str = "") -> None:
        self.size = size
        self.word = word

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Report:
        return Report()

    def step(self, action: Command) -> Report:
        return Report()

    def state(self) -> State:
        return State()


class LongNamedEnvironment(_Plain):
    pass


class _Partial(Environment[Command, Report, State]):
    def state(self) -> State:
        return State()


class _Untyped(Environment):  # type: ignore[type-arg]  # on purpose
    reset = _Plain.reset
    step = _Plain.step
    state = _Plain.state


# Messages


def test_an_action_takes_no_unknown_field() -> None:
    """A typo is an error that names the field, not an action with a default."""
    with pytest.raises(msgspec.ValidationError, match="txet"):
        msgspec.convert({"txet": "hi"}, Command)
    with pytest.raises(TypeError):
        Command(txet="hi")  # type: ignore[call-arg]  # on purpose


def test_an_observation_may_have_fields_that_a_client_does_not_know() -> None:
    """A newer environment does not break an older client."""
    assert msgspec.convert({"new": 1, "count": 2}, Report) == Report(count=2)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Command(), "text"),
        (Report(), "reward"),
        (State(), "step_count"),
        (EnvironmentMetadata(name="x"), "name"),
    ],
)
def test_messages_are_frozen(message: object, field: str) -> None:
    """Nobody changes what somebody else may hold."""
    with pytest.raises(AttributeError, match="immutable"):
        setattr(message, field, 1)


def test_subclasses_have_fields_by_keyword_only() -> None:
    """Fields of base and subclass cannot be mixed up by position."""
    with pytest.raises(TypeError):
        Observation(1.0)  # type: ignore[call-arg]  # on purpose
    with pytest.raises(TypeError):
        State("e")  # type: ignore[call-arg]  # on purpose


def test_defaults_cost_no_bytes() -> None:
    """Observations and states leave out what says nothing."""
    assert msgspec.to_builtins(Report(count=1)) == {"count": 1}
    assert msgspec.to_builtins(State()) == {}


@pytest.mark.parametrize(
    ("terminated", "truncated", "done"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_both_ends_are_done(terminated: bool, truncated: bool, done: bool) -> None:
    """An episode is over when it was terminated or truncated."""
    observation = Observation(terminated=terminated, truncated=truncated)
    assert observation.done is done


def test_metadata_is_not_shared() -> None:
    """Each observation has a map of its own."""
    assert Observation().metadata is not Observation().metadata


def test_actions_can_be_a_union() -> None:
    """Tagged actions are told apart."""

    class Go(Action, tag="go"):
        pass

    class Stop(Action, tag="stop"):
        pass

    assert msgspec.convert({"type": "stop"}, Go | Stop) == Stop()


# Types and names


def test_types_are_taken_from_the_class() -> None:
    """The three arguments are there, and a subclass inherits them."""
    for kind in (_Plain, LongNamedEnvironment):
        assert kind.action_type is Command
        assert kind.observation_type is Report
        assert kind.state_type is State
    assert Environment.action_type is None


def test_type_arguments_of_generic_bases_wait_for_the_last_class() -> None:
    """An argument that is still a variable is no type."""

    class Base(Environment[ActT, Report, State], Generic[ActT]): ...

    class Child(Base[Command]): ...

    assert type_arguments(Base, Environment) is None
    assert Base.action_type is None
    assert type_arguments(Child, Base) == (Command,)
    assert type_arguments(int, Environment) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EchoEnvironment", "echo"),
        ("LongNamedEnvironment", "long_named"),
        ("Environment", "environment"),
        ("Maze", "maze"),
        ("A", "a"),
    ],
)
def test_names_are_derived_from_the_class(name: str, expected: str) -> None:
    """Snake case, without the word that all have."""
    assert environment_name(type(name, (_Plain,), {})) == expected
    assert environment_name(type(name, (_Plain,), {"name": "mine"})) == "mine"


# Specs


def test_a_spec_describes_a_class() -> None:
    """Name, types, where it runs, what is async, and what it says about itself."""
    spec = EnvironmentSpec.of(LongNamedEnvironment)
    assert spec.name == spec.metadata.name == "long_named"
    assert (spec.action_type, spec.observation_type) == (Command, Report)
    assert spec.state_type is State
    assert spec.execution == spec.metadata.execution == "thread"
    assert spec.async_methods == frozenset()
    assert spec.target == f"{__name__}:LongNamedEnvironment"
    assert isinstance(spec.factory(), LongNamedEnvironment)
    assert EnvironmentSpec.of(_Plain).metadata.description.startswith("Does nothing")


def test_an_async_step_runs_on_the_loop() -> None:
    """The author's word counts, the operator's more, and otherwise `step` decides."""
    spec = EnvironmentSpec.of(ScriptedEnvironment)
    assert spec.execution == "inline"
    assert spec.async_methods == {"step", "close"}

    class Async(ScriptedEnvironment):
        execution = None  # type: ignore[assignment]  # the author's default

    assert EnvironmentSpec.of(Async).execution == "inline"
    assert EnvironmentSpec.of(Async, execution="process").execution == "process"
    assert EnvironmentSpec.of(BlockingEnvironment).execution == "thread"


def test_what_is_defined_in_a_function_has_no_path() -> None:
    """A worker process could not import it."""

    class Local(_Plain):
        pass

    assert EnvironmentSpec.of(Local).target == ""
    assert EnvironmentSpec.of(_Plain, arguments={"size": 2}).target == ""


def test_arguments_are_for_the_constructor() -> None:
    """Each instance is built with them."""
    spec = EnvironmentSpec.of(_Plain, arguments={"size": 5, "word": "x"})
    built = spec.factory()
    assert isinstance(built, _Plain)
    assert (built.size, built.word) == (5, "x")
    assert spec.factory() is not built


def test_a_spec_can_be_changed() -> None:
    """A new name and another place, in the description too."""
    spec = EnvironmentSpec.of(_Plain, name="first")
    other = spec.with_name("second").with_execution("process")
    assert (spec.name, spec.execution) == ("first", "thread")
    assert (other.name, other.metadata.name) == ("second", "second")
    assert (other.execution, other.metadata.execution) == ("process", "process")
    assert other.with_execution(None) is other


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (_Partial, "without reset, step"),
        (_Untyped, "three types"),
        (int, "subclass of Environment"),
        (_Plain(), "subclass of Environment"),
    ],
)
def test_what_is_no_environment_cannot_be_described(kind: Any, text: str) -> None:
    """The error says what is missing."""
    with pytest.raises(LocalProtocolError, match=text):
        EnvironmentSpec.of(kind)


# Finding them


def _factory(size: int, word: str = "") -> EnvironmentSpec:
    return EnvironmentSpec.of(_Plain, arguments={"size": size, "word": word})


class _Holder:
    Inner = LongNamedEnvironment


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """An importable module, empty at first."""
    made = types.ModuleType("made_for_a_test")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (f"{__name__}:LongNamedEnvironment", "long_named"),
        (f"{__name__}:_Holder.Inner", "long_named"),
        ("echo_env", "echo_env"),
        ("gymnasium_env?id=CartPole-v1", "CartPole-v1"),
    ],
)
def test_environments_are_found(target: str, name: str) -> None:
    """By path, by dotted attribute, by entry point, with arguments."""
    spec = find_spec(target)
    assert spec.name == name
    assert spec.target == target
    assert find_spec(target, execution="process").execution == "process"


def test_a_module_with_one_environment_needs_no_attribute(
    module: types.ModuleType,
) -> None:
    """Abstract classes and other objects are not counted."""
    vars(module).update(one=_Plain, partial=_Partial, other=3)
    assert find_spec("made_for_a_test").factory is _Plain


def test_a_module_with_several_asks_for_one(module: types.ModuleType) -> None:
    """The error lists what is there."""
    vars(module).update(one=_Plain, two=LongNamedEnvironment)
    with pytest.raises(LocalProtocolError, match="LongNamedEnvironment', '_Plain"):
        find_spec("made_for_a_test")


def test_entry_points_come_first(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that a distribution announces wins over a package of the same name."""
    vars(module).update(one=_Plain, two=LongNamedEnvironment)
    entry = importlib.metadata.EntryPoint(
        "made_for_a_test", "made_for_a_test:two", ENTRY_POINTS
    )
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda *, group: [entry] if group == ENTRY_POINTS else [],
    )
    assert find_spec("made_for_a_test").name == "long_named"


@pytest.mark.parametrize(
    ("query", "size", "word"),
    [
        ("size=3", 3, ""),
        ("size=3&word=red+fish", 3, "red fish"),
        ("word=%22quoted%22&size=1", 1, "quoted"),
        ("size=null", None, ""),
    ],
)
@pytest.mark.parametrize("attribute", ["_Plain", "_factory"])
def test_arguments_follow_the_question_mark(
    attribute: str, query: str, size: Any, word: str
) -> None:
    """They are JSON where that fits, otherwise text, for classes and factories."""
    built = find_spec(f"{__name__}:{attribute}?{query}").factory()
    assert isinstance(built, _Plain)
    assert (built.size, built.word) == (size, word)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("no_such_package", "importable package or one of .*echo"),
        (f"{__name__}:Missing", "'Missing' in"),
        (f"{__name__}:_Holder.Missing", "nothing of that name"),
        (f"{__name__}:ENTRY_POINTS", "an Environment class"),
        (f"{__name__}:Command", "an Environment class"),
        (f"{__name__}:_Partial", "without reset"),
        (f"{__name__}:_factory", "arguments that fit"),
        (f"{__name__}:_factory?size=1&wrong=2", "wrong"),
        (f"{__name__}:_Plain?wrong=2", "arguments that fit .*wrong"),
        ("", "importable package"),
        (":Missing", "importable package"),
        (".relative", "importable package"),
        ("json", "exactly one Environment"),
    ],
)
def test_what_cannot_be_found_is_misuse(target: str, text: str) -> None:
    """The error says what was expected there."""
    with pytest.raises(LocalProtocolError, match=text):
        find_spec(target)


# What authors need not write


def test_closing_and_progress_are_optional() -> None:
    """Both do nothing until somebody wants them."""
    env = _Plain()
    env.report_progress(0.5, "half")
    assert env.close() is None
    told: list[tuple[float | None, str]] = []
    env._report = lambda fraction, message: told.append((fraction, message))
    env.report_progress(message="still here")
    assert told == [(None, "still here")]
