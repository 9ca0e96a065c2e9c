"""`replay` finds the first difference, wherever it is, and nothing else."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import Array, ConnectFailed, GenericEnv, LocalProtocolError
from openenv_async.rollout import Collector, CollectorOptions, Task
from openenv_async.rollout.adapters import ScriptedPolicy
from openenv_async.rollout.episodes import (
    EnvironmentFailure,
    Episode,
    EpisodeStep,
)
from openenv_async.rollout.runs import Difference, ReplayReport, replay
from openenv_async.rollout.runs.comparing import Comparison
from tests.rollout.runs import floats
from tests.serving import Serving, serving

_ACTIONS = [{"text": "a"}, {"do": "array", "size": 3}, {"do": "count", "text": "b"}]


@pytest.fixture
async def server() -> AsyncGenerator[Serving, None]:
    """A server with scripted environments."""
    async with serving() as server:
        yield server


async def _recorded(server: Serving, count: int = 6) -> list[Episode[Any, Any]]:
    batch = GenericEnv.batch(server.url, size=3)
    tasks = [Task(id=str(number), options={"length": 9}) for number in range(count)]
    policy = ScriptedPolicy[Any](_ACTIONS, repeat=True)
    async with Collector(batch, policy, tasks, CollectorOptions()) as collector:
        return [episode async for episode in collector]


def _changed(episode: Episode[Any, Any], step: int, **changes: Any) -> Any:
    steps = list(episode.steps)
    steps[step - 1] = msgspec.structs.replace(steps[step - 1], **changes)
    return msgspec.structs.replace(episode, steps=steps)


async def test_a_deterministic_environment_does_not_differ(server: Serving) -> None:
    """All episodes are played to their ends, and nothing differs."""
    episodes = await _recorded(server)
    reports: list[ReplayReport] = []
    report = await replay(episodes, server.url, concurrency=4, played=reports.append)
    assert report == ReplayReport(
        episodes=6, steps=54, skipped=0, differing=0, differences=[]
    )
    assert report.first is None
    assert len(reports) == 6
    assert reports[-1] == report


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            lambda episode: msgspec.structs.replace(
                episode, initial_observation={"text": "other"}
            ),
            {"step": 0, "path": "observation.text", "expected": "'other'"},
        ),
        (
            lambda episode: _changed(episode, 4, reward=99.0),
            {"step": 4, "path": "reward", "expected": "99.0", "got": "4.0"},
        ),
        (
            lambda episode: _changed(episode, 9, terminated=False),
            {"step": 9, "path": "terminated", "expected": "False", "got": "True"},
        ),
        (
            lambda episode: _changed(
                episode,
                2,
                observation={"data": Array("|u1", (3,), memoryview(b"\0\0\1"))},
            ),
            {"step": 2, "path": "observation.data[2]", "expected": "1", "got": "0"},
        ),
        (
            lambda episode: _changed(episode, 3, action={"do": "fail", "text": "x"}),
            {"step": 3, "path": "error", "expected": "no error"},
        ),
        (
            lambda episode: _changed(episode, 5, action={"nonsense": 1}),
            {"step": 5, "path": "error"},
        ),
    ],
)
async def test_the_first_difference_is_found(
    server: Serving, change: Callable[[Any], Any], difference: dict[str, Any]
) -> None:
    """A report names episode, step and path, with both values; the others go on."""
    episodes = await _recorded(server, 3)
    episodes[1] = change(episodes[1])
    report = await replay(episodes, server.url, concurrency=2)
    assert (report.episodes, report.differing) == (3, 1)
    assert report.first is not None
    found = msgspec.structs.asdict(report.first)
    assert found.items() >= {"episode": episodes[1].id, **difference}.items()


async def test_what_is_ignored_may_differ(server: Serving) -> None:
    """Ignored paths and tolerated numbers are no differences."""
    (episode,) = await _recorded(server, 1)
    episode = _changed(episode, 3, reward=3.0001, observation={"text": "other"})
    strict = await replay([episode], server.url)
    assert strict.differing == 1
    paths = ["observation.text", "observation.count", "observation.reward"]
    loose = await replay([episode], server.url, ignore=paths, tolerance=0.001)
    assert loose.differing == 0
    assert (await replay([episode], server.url, ignore=["*"])).differing == 0


async def test_an_episode_whose_reset_failed_is_skipped(server: Serving) -> None:
    """There is nothing to compare with."""
    (episode,) = await _recorded(server, 1)
    failed = msgspec.structs.replace(
        episode,
        initial_observation=None,
        steps=[],
        outcome=EnvironmentFailure(exception="E", message="m"),
    )
    report = await replay([failed, episode], server.url)
    assert (report.episodes, report.skipped, report.differing) == (1, 1, 0)


async def test_a_lost_session_is_replaced(server: Serving) -> None:
    """A session that ended between two episodes costs the next one at most."""
    episodes = await _recorded(server, 3)

    def lose(report: ReplayReport) -> None:
        if report.episodes == 1:
            (id,) = server.core.table.by_id
            server.core._retire(server.core.table.by_id[id], "lease_expired")

    report = await replay(episodes, server.url, concurrency=1, played=lose)
    assert report.episodes == 3
    # Whether the client knows in time depends on the loop's turns.
    found = [(found.step, found.path) for found in report.differences]
    assert found in ([], [(0, "error")])
    assert report.steps == 27 - 9 * report.differing


async def test_no_server_is_an_error() -> None:
    """Without a server nothing is played, and one plain error says so."""
    episode = Episode[Any, Any](
        id="0/0",
        environment="",
        task=Task(id="0"),
        seed=0,
        group="0",
        initial_observation={},
        steps=[EpisodeStep({}, {}, None)],
        outcome=EnvironmentFailure(exception="E", message="m"),
    )
    with pytest.raises(ConnectFailed):
        await replay([episode] * 3, "ws+unix:///nowhere/s", concurrency=3)
    with pytest.raises(LocalProtocolError, match="got 0"):
        await replay([], "ws+unix:///nowhere/s", concurrency=0)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03, 0.06])
async def test_cancelling_a_replay_leaves_no_session(
    server: Serving, seconds: float
) -> None:
    """Whenever it is cancelled, the server has no session of it afterwards."""
    episodes = await _recorded(server, 4)
    with anyio.move_on_after(seconds):
        await replay(episodes * 50, server.url, concurrency=4)
    assert server.sessions == 0


# Comparing values

_EQUAL: list[object] = [
    None,
    True,
    math.nan,
    [1, {"a": b"x"}],
    floats(1.5, math.nan),
    Array("|V2", (1,), memoryview(b"ab")),
]


@pytest.mark.parametrize("value", _EQUAL)
def test_a_value_does_not_differ_from_itself(value: object) -> None:
    """NaN equals NaN, and arrays are equal by what they hold."""
    assert Comparison().first("x", value, value) is None


@pytest.mark.parametrize(
    ("expected", "got", "path"),
    [
        (1, 2, "x"),
        (True, 1, "x"),
        (None, 0, "x"),
        ("1", 1, "x"),
        (math.inf, -math.inf, "x"),
        (math.nan, 0.0, "x"),
        ([1, 2], [1, 3], "x[1]"),
        ([1, 2], [1], "x"),
        ({"a": 1}, {"a": 1, "b": None}, "x.b"),
        ({"a": {"b": [0]}}, {"a": {"b": [1]}}, "x.a.b[0]"),
        (b"a", b"b", "x"),
        (floats(1, 2), floats(1, 3), "x[1]"),
        (floats(1, 2), floats(1), "x"),
        (floats(1), Array("<i4", (1,), memoryview(bytes(4))), "x"),
        (
            Array("<U1", (2,), memoryview(b"a\0\0\0b\0\0\0")),
            Array("<U1", (2,), memoryview(b"a\0\0\0c\0\0\0")),
            "x[1]",
        ),
    ],
)
def test_where_values_differ_is_told(expected: object, got: object, path: str) -> None:
    """The path leads to the first part that differs."""
    found = Comparison().first("x", expected, got)
    assert found is not None
    assert found.path == path
    assert found.expected != found.got


@given(st.floats(-1e6, 1e6), st.just(0.0) | st.floats(1e-6, 0.1))
def test_numbers_within_the_tolerance_are_equal(
    number: float, tolerance: float
) -> None:
    """It is relative for large numbers, absolute for small ones, and also in arrays."""
    comparison = Comparison(tolerance=tolerance)
    allowed = tolerance * max(1.0, abs(number))
    assert comparison.first("x", number, number + allowed * 0.99) is None
    if tolerance:
        assert comparison.first("x", number, number + allowed * 1.2) is not None
    assert Comparison(tolerance=0.1).first("x", floats(1.0), floats(1.05)) is None


def test_a_difference_can_be_written() -> None:
    """A report is plain JSON."""
    found = Difference(episode="0/0", step=1, path="reward", expected="1", got="2")
    report = ReplayReport(
        episodes=1, steps=1, skipped=0, differing=1, differences=[found]
    )
    encoded = msgspec.json.encode(report)
    assert msgspec.json.decode(encoded, type=ReplayReport) == report
