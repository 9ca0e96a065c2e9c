"""An episode that can't be written is recorded as a failure that names the value."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pytest

from openenv_async import LocalProtocolError
from openenv_async.rollout.episodes import (
    EnvironmentFailure,
    Episode,
    Outcome,
    PolicyFailure,
)
from openenv_async.rollout.outcomes import outcome_of_policy_error
from openenv_async.rollout.runs import RunWriter, open_run, record_episodes
from tests.rollout.runs import exact, make_episode, make_manifest


async def _episodes(*episodes: Episode[Any, Any]) -> AsyncGenerator[Any, None]:
    for episode in episodes:
        yield episode


async def _recorded(
    folder: Path, *episodes: Episode[Any, Any]
) -> dict[str, Episode[Any, Any]]:
    """Record episodes; returns those that are in the run then."""
    seen: dict[str, Outcome] = {}
    async with RunWriter(folder, make_manifest()) as writer:
        count = await record_episodes(
            _episodes(*episodes),
            writer,
            recorded=lambda episode: seen.update({episode.id: episode.outcome}),
        )
    assert count == len(episodes) == len(seen)
    found = await anyio.to_thread.run_sync(lambda: list(open_run(folder)))
    assert {episode.id: episode.outcome for episode in found} == seen
    return {episode.id: episode for episode in found}


def _with_step(number: int, step: int, **changes: Any) -> Episode[Any, Any]:
    episode = make_episode(number)
    steps = [*episode.steps]
    steps[step] = msgspec.structs.replace(steps[step], **changes)
    return msgspec.structs.replace(episode, steps=steps)


async def test_extras_that_cannot_be_written_fail_their_episode(tmp_path: Path) -> None:
    """The others are as they were, and so is the rest of the one that failed."""
    deep = {"good": 1, "x": {"list": [0, object()]}}
    bad = _with_step(1, 1, extras=deep)
    found = await _recorded(tmp_path, make_episode(0), bad, make_episode(2))
    failed = found.pop("0/1")
    assert failed.outcome == PolicyFailure(
        exception="TypeError",
        message="expected values that can be written in episode '0/1', got one of type "
        "'object' at steps[1].extras['x']['list'][1]: objects of type 'object' have "
        "no encoding",
    )
    assert failed.return_ is None
    assert [step.extras for step in failed.steps] == [
        bad.steps[0].extras,
        {"good": 1},
        bad.steps[2].extras,
    ]
    assert exact(list(found.values())) == exact([make_episode(0), make_episode(2)])


def _endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "exception"),
    [
        pytest.param(object(), "TypeError", id="object"),
        pytest.param("\ud800", "UnicodeEncodeError", id="half"),
        pytest.param({object(): 1}, "TypeError", id="key"),
        pytest.param(_endless(), "RecursionError", id="endless"),
    ],
)
async def test_whatever_cannot_be_written_is_named(
    tmp_path: Path, value: object, exception: str
) -> None:
    """In the extras of the episode, which it loses."""
    bad = msgspec.structs.replace(make_episode(1), extras={"x": value, "y": 2})
    found = (await _recorded(tmp_path, bad))["0/1"]
    assert isinstance(found.outcome, PolicyFailure)
    assert found.outcome.exception == exception
    assert " at extras['x']" in found.outcome.message
    assert found.extras == {"y": 2}
    assert found.length == 3


@pytest.mark.parametrize(
    ("field", "kind"),
    [("action", PolicyFailure), ("observation", EnvironmentFailure)],
)
async def test_an_episode_ends_before_a_step_that_cannot_be_written(
    tmp_path: Path, field: str, kind: type[PolicyFailure | EnvironmentFailure]
) -> None:
    """Whose fault it is depends on who made the value."""
    bad = _with_step(1, 1, **{field: {"x": object()}})
    found = (await _recorded(tmp_path, bad))["0/1"]
    assert isinstance(found.outcome, kind)
    assert f"steps[1].{field}['x']" in found.outcome.message
    assert found.length == 1


async def test_a_first_observation_that_cannot_be_written(tmp_path: Path) -> None:
    """It is the environment's, and left out."""
    bad = msgspec.structs.replace(make_episode(1), initial_observation={"x": object()})
    found = (await _recorded(tmp_path, bad))["0/1"]
    assert isinstance(found.outcome, EnvironmentFailure)
    assert found.initial_observation is None


@pytest.mark.parametrize("place", ["task.metadata", "metadata"])
async def test_what_the_caller_gave_ends_the_recording(
    tmp_path: Path, place: str
) -> None:
    """Every episode would have it; nobody who plays is to blame."""
    episode = make_episode(1)
    value = {"x": object()}
    if place == "metadata":
        bad = msgspec.structs.replace(episode, metadata=value)
    else:
        task = msgspec.structs.replace(episode.task, metadata=value)
        bad = msgspec.structs.replace(episode, task=task)
    async with RunWriter(tmp_path, make_manifest()) as writer:
        with pytest.raises(LocalProtocolError) as raised:
            await record_episodes(_episodes(bad), writer)
    assert f"of type 'object' at {place}['x']" in raised.value.message
    assert raised.value.detail == {"path": f"{place}['x']"}


async def test_an_exception_whose_text_has_no_encoding_is_recorded(
    tmp_path: Path,
) -> None:
    """Half of a surrogate pair is written as what it is in Python."""
    outcome = outcome_of_policy_error(ValueError("bad: \ud800"))
    found = (await _recorded(tmp_path, make_episode(0, outcome=outcome)))["0/0"]
    assert isinstance(found.outcome, PolicyFailure)
    assert found.outcome.message == r"bad: \ud800"
    assert found.outcome.exception == "ValueError"
