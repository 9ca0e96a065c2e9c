"""The lag monitor: who blocks the event loop is named."""

from __future__ import annotations

import logging
import time

import pytest

from openenv_async import messages as m
from tests.environments import Command
from tests.serving import Serving, dial, eventually, serving


@pytest.mark.allow_blocking("blocks the loop, so that the monitor has something to see")
@pytest.mark.parametrize("deed", ["block", "block_later"])
async def test_the_environment_that_blocks_the_loop_is_named(
    deed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A blocking async step is logged with its session, environment and stack."""
    caplog.set_level(logging.WARNING, "openenv_async.server")
    async with serving() as server, dial(server) as peer:
        opened = await peer.open()
        await peer.reset()
        assert isinstance(await peer.step(1, 2, do=deed, seconds=0.6), m.Reply)
        assert f"by session {opened.session} of 'scripted'" in caplog.text
        assert "time.sleep" in caplog.text


@pytest.mark.allow_blocking("blocks the loop, so that the monitor has something to see")
async def test_health_shows_the_lag() -> None:
    """After a blocked turn the lag can be read in seconds."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        await peer.send(m.Step(1, 2, Command(do="block", seconds=0.4)))
        await peer.expect(m.Reply)
        await eventually(lambda: _lag(server) > 0.2)


def _lag(server: Serving) -> float:
    lag = server.core.capacity()["loop_lag_seconds"]
    assert isinstance(lag, float)
    return lag


async def test_waiting_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A step that awaits is not blamed, however long it takes."""
    caplog.set_level(logging.WARNING, "openenv_async.server")
    async with serving() as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        await peer.step(1, 2, do="sleep", seconds=0.5)
    assert "blocked" not in caplog.text


@pytest.mark.allow_blocking("blocks the loop, so that the monitor has something to see")
async def test_a_loop_that_no_environment_blocks_blames_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever else blocks the loop is shown by its stack."""
    caplog.set_level(logging.WARNING, "openenv_async.server")
    async with serving() as server, dial(server) as peer:
        await peer.open()
        time.sleep(0.6)  # noqa: ASYNC251 (blocks on purpose)
    assert "by no environment" in caplog.text
    assert "test_lag.py" in caplog.text
