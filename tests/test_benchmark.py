"""Steps are counted as they are, on real servers."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import LocalProtocolError, UnknownEnvironment
from openenv_async.benchmark import Speed, measure_speed
from tests.conformance.broken import BROKEN, Sound
from tests.environments import executions
from tests.serving import serving

_BY_NAME = {kind.__name__: kind for kind, _, _ in BROKEN}


class _Failing(Sound):
    async def step(self, action: Any) -> Any:
        raise RuntimeError("never")


async def _rows(kind: Any, **options: Any) -> list[Speed]:
    async with serving(kind) as server:
        report = await measure_speed(server.url, seconds=0.4, **options)
    assert (report.url, report.environment) == (server.url, "walk")
    return report.rows


async def test_three_ways_of_stepping_are_measured() -> None:
    """One session, many, and a batch; each with steps, times and resets."""
    rows = await _rows(Sound, sessions=4)
    assert [(row.mode, row.sessions) for row in rows] == [
        ("awaited", 1),
        ("awaited", 4),
        ("batched", 4),
    ]
    for row in rows:
        assert row.steps > 0
        assert row.steps_per_second == pytest.approx(row.steps / row.seconds, rel=0.02)
        assert 0 < row.p50_ms <= row.p99_ms < 1000 * row.seconds
        assert row.environment_us > 0
        # An episode has six steps.
        assert row.resets == pytest.approx(row.steps / 6, abs=row.sessions + 1)
        assert row.failures == {}


async def test_one_session_needs_no_second_row() -> None:
    """With one session, awaiting many is left out."""
    rows = await _rows(Sound, sessions=1)
    assert [row.mode for row in rows] == ["awaited", "batched"]


async def test_failures_are_no_steps() -> None:
    """Refused and failed calls are counted by kind, and do not end the measurement."""
    for row in await _rows(_BY_NAME["_Picky"], sessions=2):
        assert row.failures.keys() == {"InvalidAction"}
        assert row.failures["InvalidAction"] > row.steps
    for row in await _rows(_Failing, sessions=2):
        assert row.failures["EnvironmentFailed"] > 0
        assert row.steps == 0
        assert row.resets >= row.failures["EnvironmentFailed"] - 2


async def test_a_server_of_its_own_is_started() -> None:
    """A name is served by a process, which is gone afterwards."""
    executions.clear()
    report = await measure_speed("echo_env", seconds=0.2, sessions=2)
    assert (report.url, report.environment, report.execution) == (
        "echo_env",
        "echo_env",
        "inline",
    )
    assert all(row.steps for row in report.rows)
    assert not executions


@pytest.mark.parametrize("options", [{"sessions": 0}, {"seconds": 0}])
async def test_numbers_out_of_range_are_errors(options: Any) -> None:
    """Nothing is started for a measurement that cannot be."""
    with pytest.raises(LocalProtocolError, match="at least one session"):
        await measure_speed("echo_env", **options)


async def test_an_unknown_environment_is_an_error() -> None:
    """The server's own error comes out."""
    async with serving(Sound) as server:
        with pytest.raises(UnknownEnvironment):
            await measure_speed(server.url, environment="nowhere")
