"""A server that is frozen, or out of reach without a word, counts as away."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import pytest

from openenv_async import ConnectFailed
from openenv_async.cli.progress import trouble
from openenv_async.client import connection, dialect
from openenv_async.rollout import Collector, CollectorOptions, Terminated
from tests.chaos.processes import Process, short_folder, started
from tests.client.dialects import in_dialect
from tests.clients import ScriptedEnv
from tests.environments import Command, Report
from tests.rollout.players import Acting, tasks_of
from tests.serving import eventually

Playing = Collector[Command, Report]


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A folder with a short path."""
    context = short_folder()
    yield await anyio.to_thread.run_sync(context.__enter__)
    await anyio.to_thread.run_sync(context.__exit__, None, None, None)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence shows after half a second instead of five."""
    monkeypatch.setattr(connection, "_TICK", 0.05)
    monkeypatch.setattr(connection, "PROBE", 0.2)
    monkeypatch.setattr(connection, "ANSWER", 0.3)


@asynccontextmanager
async def _playing(
    server: Process, tasks: int, *, keep: bool, **options: Any
) -> AsyncIterator[Playing]:
    """A run with three sessions, of a batch of its own or of somebody else's."""
    batch = ScriptedEnv.batch(server.url, size=3)
    if keep:
        await batch.open()
    try:
        async with Collector(
            batch, Acting(), tasks_of(tasks, length=5), CollectorOptions(**options)
        ) as collector:
            yield collector
    finally:
        await batch.aclose()


@pytest.mark.timeout(40)
@pytest.mark.parametrize("keep", [False, True])
async def test_a_frozen_server_ends_the_run_in_its_time(
    folder: Path, *, keep: bool
) -> None:
    """The time counts from the last sign of life, and closing takes a moment only."""
    async with started(folder) as server:
        async with _playing(server, 10**6, keep=keep, recovery_timeout=1.0) as run:
            await anext(run)
            server.signal(signal.SIGSTOP)
            frozen = perf_counter()
            with pytest.raises(ConnectFailed, match="again within 1 s"):
                async for episode in run:
                    assert episode.outcome == Terminated()
            took = perf_counter() - frozen
            state = run.statistics()
            ended = perf_counter()
        closing = perf_counter() - ended
        await anyio.to_thread.run_sync(server.kill)
    assert 0.9 < took < 4.0
    assert closing < 6.0
    # Nothing is put down to the environment, and no failure was made of waiting.
    assert set(state.outcomes) == {"terminated"}
    assert state.silent_for > 1.0
    assert "no answer from the server for" in trouble(state)
    assert state.bottleneck is not None
    assert state.bottleneck.bound_by == "connection"


@pytest.mark.timeout(40)
async def test_a_server_that_was_frozen_for_a_while_is_played_on(folder: Path) -> None:
    """It is told meanwhile, and nothing is lost."""
    async with started(folder) as server:
        async with _playing(server, 60, keep=False) as run:
            episodes = [await anext(run)]
            server.signal(signal.SIGSTOP)
            async with anyio.create_task_group() as group:

                async def thaw() -> None:
                    await eventually(lambda: run.statistics().silent_for > 0.6)
                    assert run.statistics().unreachable == 3
                    server.signal(signal.SIGCONT)

                group.start_soon(thaw)
                episodes += [episode async for episode in run]
            state = run.statistics()
    assert [one.outcome for one in episodes] == [Terminated()] * 60
    assert state.silent_for == state.unreachable_for == 0.0


@pytest.mark.timeout(40)
async def test_a_slow_environment_is_no_silence(folder: Path) -> None:
    """The server answers pings while its environments compute."""

    def choose(*_: object) -> Command:
        return Command(do="sleep", seconds=1.2)

    async with started(folder) as server:
        batch = ScriptedEnv.batch(server.url, size=2)
        async with Collector(
            batch,
            Acting(choose),
            tasks_of(2, length=1),
            CollectorOptions(recovery_timeout=0.5),
        ) as run:
            seen: list[float] = []
            async with anyio.create_task_group() as group:

                async def look() -> None:
                    while True:
                        seen.append(run.statistics().silent_for)
                        await anyio.sleep(0.05)

                group.start_soon(look)
                episodes = [episode async for episode in run]
                group.cancel_scope.cancel()
    assert [one.outcome for one in episodes] == [Terminated()] * 2
    assert len(seen) > 10
    assert set(seen) == {0.0}


@pytest.mark.timeout(40)
async def test_silence_shows_in_the_dialect_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session has a socket there; those that answer again are no longer named."""
    monkeypatch.setattr(dialect, "PROBE", 0.1)
    monkeypatch.setattr(dialect, "ANSWER", 0.3)
    async with started(folder) as server:
        async with in_dialect(ScriptedEnv.batch(server.url, size=2)) as batch:
            await batch.reset()
            assert batch.silences == {}
            server.signal(signal.SIGSTOP)
            batch.send([0, 1], [Command()] * 2)
            await eventually(lambda: sorted(batch.silences) == [0, 1])
            assert all(silence >= 0.3 for silence in batch.silences.values())
            server.signal(signal.SIGCONT)
            found = [index async for ready in batch.ready() for index in ready.indices]
            assert sorted(found) == [0, 1]
            assert batch.silences == {}
