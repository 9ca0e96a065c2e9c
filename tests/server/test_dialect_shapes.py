"""Payloads and errors in OpenEnv's form."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from openenv_async import Action, Environment, Observation, State
from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from openenv_async.server.dialect.shapes import Misfit, Shape


class Move(Action, tag="move"):
    """One kind of action."""

    to: int


class Say(Action, tag="say"):
    """Another one."""

    text: str = ""


class Seen(Observation, tag="seen"):
    """One kind of observation, with defaults of all sorts."""

    count: int = 3
    items: list[int] = msgspec.field(default_factory=list[int])
    label: str | None = msgspec.field(default=None, name="the-label")
    extra: int | msgspec.UnsetType = msgspec.UNSET


class Heard(Observation, tag="heard"):
    """Another one."""

    loud: bool = False


class Where(State):
    """A state with a default."""

    place: str = "home"


class Mixed(Environment[Move | Say, Seen | Heard, Where]):
    """Only its types matter here."""

    def reset(self, **arguments: Any) -> Seen:
        """Never called."""
        raise NotImplementedError

    step = state = reset  # type: ignore[assignment]  # never called either


class Marked(Action):
    """An action with metadata of its own."""

    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


def shape_of(**changes: Any) -> Shape:
    """The shape of `Mixed`, with other fields in its spec."""
    return Shape(dataclasses.replace(EnvironmentSpec.of(Mixed), **changes))


def observed(value: Observation) -> Any:
    """What becomes of an observation."""
    return shape_of().observation(m.JSON.encode(value))


def failed(code: str, message: str = "text", **options: Any) -> m.Failure:
    """An error as the server answers it."""
    return m.failure(0, 1, code, message, **options)


# Observations and states


def test_observation_has_all_its_fields() -> None:
    """Defaults, which our structs leave out, are there; what is unset is not."""
    data = observed(Seen(reward=1.0))
    assert data.observation == {
        "metadata": {},
        "type": "seen",
        "count": 3,
        "items": [],
        "the-label": None,
    }
    assert (data.reward, data.done) == (1.0, False)
    assert data.metadata is msgspec.UNSET


def test_values_win_over_defaults() -> None:
    """What an environment says is never replaced."""
    data = observed(Seen(count=4, items=[1], label="a", extra=5))
    assert data.observation["items"] == [1]
    assert data.observation["the-label"] == "a"
    assert data.observation["extra"] == 5


def test_members_of_a_union_have_their_own_defaults() -> None:
    """The tag says which of the structs it is."""
    assert observed(Heard()).observation == {
        "metadata": {},
        "type": "heard",
        "loud": False,
    }


def test_metadata_are_inside_and_outside() -> None:
    """OpenEnv 0.10.0 tells metadata twice, where there are any."""
    data = observed(Seen(metadata={"a": 1}))
    assert data.observation["metadata"] == data.metadata == {"a": 1}


@pytest.mark.parametrize(
    ("terminated", "truncated", "done"),
    [(False, False, False), (True, False, True), (False, True, True)],
)
def test_done_is_either_end(terminated: bool, truncated: bool, done: bool) -> None:
    """An episode that was cut off is done too, and says so beside it."""
    data = observed(Seen(terminated=terminated, truncated=truncated))
    assert data.done is done
    assert data.truncated is (True if truncated else msgspec.UNSET)
    assert not {"terminated", "truncated", "reward"} & set(data.observation)


@pytest.mark.parametrize("reward", [True, 2, 2.5, None])
def test_reward_keeps_its_type(reward: Any) -> None:
    """A reward travels as the environment gave it."""
    assert repr(observed(Seen(reward=reward)).reward) == repr(reward)


def test_array_of_values_has_a_name() -> None:
    """An observation that its author made an array of still is an object."""
    assert shape_of().observation(b"[1,2]").observation == {
        "metadata": {},
        "values": [1, 2],
    }


def test_state_has_all_its_fields() -> None:
    """Also those that our structs leave out."""
    state = shape_of().state(m.JSON.encode(Where(step_count=2)))
    assert state == {"episode_id": None, "step_count": 2, "place": "home"}
    assert shape_of().state(b"3") == 3


# Actions and resets


def test_metadata_of_an_action_are_taken_off() -> None:
    """Clients that dump an OpenEnv model send them, whether they mean it or not."""
    action = shape_of().action(b'{"type":"move","to":1,"metadata":{"a":1}}')
    assert bytes(action) == b'{"type":"move","to":1}'


def test_metadata_that_an_action_has_stay() -> None:
    """Where the author declared the field, it is the author's."""
    sent = b'{"metadata":{"a":1}}'
    assert bytes(shape_of(action_type=Marked).action(sent)) == sent
    assert bytes(shape_of(action_type=dict[str, Any]).action(sent)) == sent


def test_the_word_metadata_in_a_text_changes_nothing() -> None:
    """Only the field of that name is taken off."""
    sent = {"type": "say", "text": '"metadata"'}
    action = shape_of().action(msgspec.json.encode(sent))
    assert msgspec.json.decode(action) == sent


@pytest.mark.parametrize(
    ("data", "seed", "episode_id", "options"),
    [
        ({}, None, None, None),
        ({"seed": 3, "episode_id": "e"}, 3, "e", None),
        ({"seed": None, "a": 1}, None, None, {"a": 1}),
        ({"options": {"a": 1}, "a": 2}, None, None, {"a": 2}),
        ({"options": 3}, None, None, {"options": 3}),
    ],
)
def test_reset_arguments_find_their_places(
    data: dict[str, Any], seed: Any, episode_id: Any, options: Any
) -> None:
    """What is neither seed nor episode id is an option."""
    request = shape_of().reset(msgspec.json.encode(data), 7, 1.5)
    assert (request.seq, request.seed, request.episode_id) == (7, seed, episode_id)
    assert request.timeout == 1.5
    given: Any = request.options
    assert (None if given is None else msgspec.json.decode(given)) == options


def test_hosted_environments_get_options_as_they_come() -> None:
    """Their own parameter of that name is not unwrapped."""
    data = b'{"options":{"a":1}}'
    given: Any = shape_of(any_order=True).reset(data, 1, None).options
    assert msgspec.json.decode(given) == {"options": {"a": 1}}


@pytest.mark.parametrize(
    "data",
    [
        b'{"seed":"a"}',
        b'{"seed":true}',
        b'{"seed":1.5}',
        b'{"seed":9223372036854775808}',
        b'{"episode_id":1}',
        b'{"a":1e999}',
    ],
)
def test_reset_arguments_that_do_not_fit(data: bytes) -> None:
    """They are refused before anything is executed."""
    with pytest.raises(Misfit):
        shape_of().reset(data, 1, None)


# Errors


def test_error_has_the_words_of_the_exception_alone() -> None:
    """What we write before them is for our own clients."""
    failure = failed(
        "environment_failed",
        "'mixed' raised ValueError in step: no way",
        detail={"exception": "ValueError"},
    )
    error = shape_of().error(failure, tracebacks=True, kind=m.Step)
    assert (error.code, error.message) == ("EXECUTION_ERROR", "no way")
    assert (error.error_code, error.executed) == ("environment_failed", "unknown")


def test_problems_that_an_environment_names_are_kept() -> None:
    """A hosted environment knows pydantic's own list."""
    problems = [{"type": "x", "loc": ["y"], "msg": "z", "input": 1}]
    failure = failed("invalid_action", detail={"errors": problems})
    assert shape_of().error(failure, tracebacks=True).errors == problems


@pytest.mark.parametrize("sent", [b'{"to":"a"}', b'{"to":1e999}', b"{", None])
def test_problem_is_told_whatever_was_sent(sent: bytes | None) -> None:
    """Even if the action cannot be decoded to look the value up."""
    failure = failed("invalid_action", "Expected `int`, got `str` - at `$.to`")
    error = shape_of().error(failure, tracebacks=True, sent=sent)
    assert error.errors is not None
    assert error.errors[0]["loc"] == ["to"]


@pytest.mark.parametrize("tracebacks", [True, False])
def test_factory_error_tells_the_cause_only_where_that_is_allowed(
    tracebacks: bool,
) -> None:
    """An operator who hides tracebacks hides this too."""
    failure = failed("environment_failed", "secret", detail={"constructing": True})
    error = shape_of().error(failure, tracebacks=tracebacks)
    assert (error.code, error.factory_name) == ("FACTORY_ERROR", "Mixed")
    assert ("secret" in error.message) is tracebacks
    assert error.executed == "no"


def test_factory_without_a_name_is_called_by_its_environment() -> None:
    """A lambda's name says nothing."""
    assert shape_of(factory=lambda: None).factory_name == "mixed"
