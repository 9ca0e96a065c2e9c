"""A run in numbers, tasks in files, and policies by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import LocalProtocolError
from openenv_async.cli.progress import Seen
from openenv_async.rollout.adapters import ChatPolicy, RandomPolicy, ScriptedPolicy
from openenv_async.rollout.episodes import (
    Attempt,
    EnvironmentFailure,
    Task,
    Truncated,
)
from openenv_async.rollout.policies import EpisodeContext
from openenv_async.rollout.runs import (
    Distribution,
    EnvironmentRecord,
    count_tasks,
    open_run,
    read_tasks,
    summarise,
)
from openenv_async.rollout.runs.policies import ChatSettings, policy_from_spec
from openenv_async.rollout.runs.readable import readable
from tests.rollout.players import Acting
from tests.rollout.runs import FORMATS, floats, make_episode, write_run

# Summaries


@pytest.mark.parametrize("episode_format", FORMATS)
def test_a_summary_counts_everything(tmp_path: Path, episode_format: Any) -> None:
    """Outcomes, returns, lengths and times of all episodes, in both formats."""
    failure = EnvironmentFailure(exception="ValueError", message="m")
    episodes = [make_episode(number, length=number) for number in range(1, 5)]
    episodes.append(make_episode(5, length=9, outcome=failure))
    episodes.append(
        msgspec.structs.replace(
            make_episode(6, length=6, outcome=Truncated(reason="max_steps")),
            earlier_attempts=[Attempt(outcome=failure, length=1)],
        )
    )
    write_run(tmp_path, episodes, episode_format=episode_format)
    summary = summarise(open_run(tmp_path).summaries())
    assert (summary.episodes, summary.steps, summary.groups) == (6, 25, 4)
    assert (summary.failed, summary.tried_again) == (1, 1)
    assert summary.outcomes == {
        "terminated": 4,
        "environment_failed: ValueError": 1,
        "truncated: max_steps": 1,
    }
    assert summary.returns.count == 5
    assert summary.returns.mean == pytest.approx(1.6)
    assert (summary.returns.least, summary.returns.most) == (0.5, 3.0)
    assert summary.lengths.p50 == 3
    assert sum(summary.histogram) == 5
    assert summary.histogram[0] == summary.histogram[-1] == 1
    assert summary.time.environment == 1.0
    assert summary.started == 1e9 + 1
    assert summary.ended == pytest.approx(1e9 + 6)


@pytest.mark.parametrize("episode_format", FORMATS)
def test_a_return_that_is_not_finite_counts_as_none(
    tmp_path: Path, episode_format: Any
) -> None:
    """In what a run is summed up to, and in what a rollout has seen."""
    episodes = [make_episode(number, length=1) for number in range(3)]
    for place, return_ in ((0, math.nan), (1, math.inf)):
        episodes[place] = msgspec.structs.replace(episodes[place], return_=return_)
    write_run(tmp_path, episodes, episode_format=episode_format)
    summary = summarise(open_run(tmp_path).summaries())
    assert (summary.not_finite, summary.returns.count) == (2, 1)
    seen = Seen()
    for episode in episodes:
        seen.add(episode)
    assert seen.not_finite == 2
    assert seen.mean_return == seen.recent_return == episodes[2].return_


def test_a_summary_of_nothing() -> None:
    """A run without episodes has numbers too, and no times."""
    summary = summarise([])
    assert summary.episodes == summary.returns.count == 0
    assert summary.histogram == []
    assert summary.started is None


@given(st.lists(st.floats(allow_nan=True), max_size=40))
def test_a_distribution_is_in_order(numbers: list[float]) -> None:
    """Whatever the numbers, percentiles are among them, and in order."""
    spread = Distribution.of(numbers)
    known = [number for number in numbers if not math.isnan(number)]
    assert spread.count == len(known)
    if known:
        marks = [spread.least, spread.p10, spread.p50, spread.p90, spread.most]
        assert marks == sorted(marks)
        assert set(marks) <= set(known)


def test_values_are_readable() -> None:
    """Arrays show type, shape and their first numbers; bytes their length."""
    value = {"x": floats(*range(8)), "y": [b"abc", 1.5, None]}
    assert readable(value) == '{"x":"<f4[8] 0 1 2 3 4 5 ...","y":["3 bytes",1.5,null]}'


# Tasks


async def _tasks(path: Path) -> list[Task]:
    return [task async for task in read_tasks(path)]


async def test_tasks_are_read(tmp_path: Path) -> None:
    """A line is a task; what it leaves out has a default, the id its number."""
    path = anyio.Path(tmp_path / "tasks.jsonl")
    await path.write_text(
        '{"id": "a", "seed": 3, "options": {"x": 1}, "priority": 2}\n\n'
        '{"metadata": {"answer": 42}}\n{"id": 7}\n' + "{}\n" * 600
    )
    tasks = await _tasks(Path(path))
    assert tasks[:3] == [
        Task(id="a", seed=3, options={"x": 1}, priority=2),
        Task(id="2", metadata={"answer": 42}),
        Task(id="7"),
    ]
    assert [task.id for task in tasks[3:]] == [str(n) for n in range(4, 604)]


@pytest.mark.parametrize("line", ["[]", "{", '{"sed": 1}', '{"seed": "x"}'])
async def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: str) -> None:
    """The error says which line it is."""
    path = anyio.Path(tmp_path / "tasks.jsonl")
    await path.write_text("{}\n" + line)
    with pytest.raises(LocalProtocolError, match="a task in line 2 of "):
        await _tasks(Path(path))
    with pytest.raises(LocalProtocolError, match="expected a file of tasks at"):
        await _tasks(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('{"id": "a"}\n\n{"id": "a"}\n', "got 'a' in lines 1 and 3 of "),
        ('{"id": 2}\n{}\n{}\n', "got '2' in lines 1 and 3 of "),
        ("{}\n{", "a task in line 2 of "),
        ('{"id": "\xff"}', "a task in line 1 of "),
    ],
)
def test_tasks_are_checked_when_they_are_counted(
    tmp_path: Path, lines: str, match: str
) -> None:
    """Before any is played: a line that is none, and an id that is there twice."""
    path = tmp_path / "tasks.jsonl"
    path.write_text("{}\n  \n{}\n\n")
    assert count_tasks(path) == 2
    path.write_bytes(lines.encode("latin-1"))
    with pytest.raises(LocalProtocolError, match=match):
        count_tasks(path)


# Policies

_RECORD = EnvironmentRecord(
    name="made",
    metadata={"description": "Made for tests."},
    json_schema={"action": {"type": "object", "properties": {}}},
)

made = Acting()
"""A policy that a text can name."""
made.nothing = 3  # type: ignore[attr-defined]  # no policy


def _context(steps: int = 0) -> EpisodeContext:
    context = EpisodeContext(Task(id="0"), id="0/0", seed=0, policy_seed=0)
    context.steps = list(make_episode(0, length=steps).steps)
    return context


def test_policies_have_names(tmp_path: Path) -> None:
    """Every kind of text gives the policy that it names."""
    assert isinstance(policy_from_spec("random", _RECORD), RandomPolicy)
    here = f"{__name__}:made"
    assert policy_from_spec(here, _RECORD) is made
    found = policy_from_spec("tests.rollout.players:Acting", _RECORD)
    assert isinstance(found, Acting)
    chat = policy_from_spec(
        "chat:model", _RECORD, chat=ChatSettings(base_url="http://localhost:1/v1")
    )
    assert isinstance(chat, ChatPolicy)


async def test_a_scripted_policy_begins_again(tmp_path: Path) -> None:
    """The actions of the file come one after the other, over and over."""
    path = anyio.Path(tmp_path / "actions.jsonl")
    await path.write_text('{"a": 1}\n\n{"a": 2}\n')
    policy = await anyio.to_thread.run_sync(
        policy_from_spec, f"scripted:{path}", _RECORD
    )
    assert isinstance(policy, ScriptedPolicy)
    actions = [await policy.act(None, _context(steps)) for steps in range(3)]
    assert actions == [{"a": 1}, {"a": 2}, {"a": 1}]


def test_a_chat_model_is_told_what_to_do() -> None:
    """It gets the description and the schema, and its answer is searched for JSON."""
    chat = ChatSettings(base_url="http://localhost:1/v1")
    policy: Any = policy_from_spec("chat:model", _RECORD, chat=chat)
    assert "Made for tests." in policy._system
    assert '{"type":"object","properties":{}}' in policy._system
    assert policy._parse('Sure: ```{"a": {"b": 1}}``` Good luck!', _context()) == {
        "a": {"b": 1}
    }
    assert policy._render({"a": 1}, _context()) == '{"a":1}'
    with pytest.raises(ValueError, match="expected an action as JSON"):
        policy._parse("I give up", _context())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("other", "'module:object', got 'other'"),
        ("scripted:", "got 'scripted:'"),
        ("scripted:/nowhere/actions", "one action in JSON on each line"),
        ("chat:model", "address of the server of 'model'"),
        ("no_such_module:x", "expected a policy at 'no_such_module:x'"),
        ("tests.rollout.players:Nothing", "no attribute 'Nothing'"),
        ("tests.rollout.test_runs_summary:made.nothing", "at .*, got int"),
        ("tests.rollout.runs:make_manifest", "got Manifest"),
    ],
)
def test_a_name_of_nothing_is_refused(spec: str, message: str) -> None:
    """The error says what was expected, and what is there."""
    with pytest.raises(LocalProtocolError, match=message):
        policy_from_spec(spec, _RECORD)


def test_an_environment_without_a_schema_has_no_random_actions() -> None:
    """A server that tells no schema is said so."""
    with pytest.raises(LocalProtocolError, match="Schema of the actions of 'x'"):
        policy_from_spec("random", EnvironmentRecord(name="x"))
