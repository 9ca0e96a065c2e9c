"""`/statistics` counts what happened, per environment, and needs the token."""

from __future__ import annotations

import httpx

from openenv_async import messages as m
from openenv_async.server.statistics import BOUNDS_NS, Histogram, memory_bytes
from tests.environments import BlockingEnvironment, ScriptedEnvironment
from tests.serving import Serving, dial, serving


async def _statistics(server: Serving) -> dict[str, object]:
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
        answer = await c.get("/statistics")
        assert answer.headers["cache-control"] == "no-store"
        found: dict[str, object] = answer.json()
        return found


async def test_requests_and_errors_are_counted_by_environment() -> None:
    """Also those of sessions that are gone, and with their times."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        async with dial(server) as peer:
            await peer.open()
            await peer.reset()
            for seq in (2, 3, 4):
                await peer.step(1, seq)
            await peer.send(m.Step(1, 5, {"do": 7}))
            await peer.expect(m.Failure)
            await peer.send(m.Open(2, "f" * 32, environment="chess"))
            await peer.expect(m.Failure)
            told = await _statistics(server)
        environments = told["environments"]
        assert isinstance(environments, dict)
        scripted = environments["scripted"]
        assert told["requests"] == scripted["requests"] == 5
        assert environments["blocking"]["requests"] == 0
        assert sum(scripted["latency"]["counts"]) == 4
        assert sum(scripted["queue"]["counts"]) == 4
        assert len(scripted["latency"]["counts"]) == len(BOUNDS_NS) + 1
        sessions = told["sessions"]
        assert isinstance(sessions, dict)
        assert (sessions["total"], sessions["running"]) == (1, 1)
        assert told["connections"] == 1
        assert scripted["errors"] == {"invalid_action": 1}
        assert told["errors"] == {"invalid_action": 1, "unknown_environment": 1}


def test_a_histogram_s_buckets_hold_their_upper_bounds() -> None:
    """What is beyond all bounds is in the last one."""
    histogram = Histogram()
    for time in (0, 1000, 1001, 10**18):
        histogram.add(time)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-1] == 1
    assert sum(histogram.counts) == 4


def test_memory_is_told_in_bytes() -> None:
    """It is what a Python process has, not pages and not kilobytes."""
    assert 4 * 2**20 < (memory_bytes() or 0) < 2**40
