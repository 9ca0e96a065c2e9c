"""`RunWriter` acknowledges, resumes, refuses, and never blocks the loop."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from openenv_async import (
    LocalProtocolError,
    RunError,
    RunLocked,
    RunMismatch,
    StorageFull,
)
from openenv_async.rollout.episodes import Episode, InfrastructureFailure, Truncated
from openenv_async.rollout.runs import (
    EpisodeFormat,
    Manifest,
    RunWriter,
    open_run,
    record_episodes,
)
from openenv_async.rollout.runs.parts import Part, list_parts
from openenv_async.rollout.runs.store import RunStore
from tests.chaos.processes import ROOT
from tests.rollout.runs import FORMATS, exact, make_episode, make_manifest

_LOST = InfrastructureFailure(
    kind="session_lost", executed="no", retryable=True, message=""
)

formats = pytest.mark.parametrize("episode_format", FORMATS)


async def _read(folder: Path) -> list[Episode[Any, Any]]:
    return await anyio.to_thread.run_sync(lambda: list(open_run(folder)))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("episodes-*")}


async def _parts(folder: Path) -> list[Part]:
    return await anyio.to_thread.run_sync(list_parts, folder)


async def _append(writer: RunWriter, *numbers: int) -> None:
    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(writer.append, make_episode(number))


def _manifest(**changes: Any) -> Manifest:
    return msgspec.structs.replace(make_manifest(), **changes)


@formats
async def test_what_was_appended_is_there(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """Episodes that many tasks append are all there, once, also in several files."""
    manifest = make_manifest(episode_format)
    async with RunWriter(tmp_path, manifest, part_bytes=3000) as writer:
        await _append(writer, *range(100))
        assert len(writer) == 100
        assert "7/1" in writer
        assert "50/0" not in writer
    found = await _read(tmp_path)
    assert {episode.id: exact(episode) for episode in found} == {
        episode.id: exact(episode) for episode in map(make_episode, range(100))
    }
    assert len(found) == 100
    parts = await _parts(tmp_path)
    assert len(parts) > 1
    assert {part.is_sealed for part in parts} == {episode_format == "parquet"}


async def test_an_acknowledged_episode_can_be_read_at_once(tmp_path: Path) -> None:
    """Once `append` returns, a reader sees the episode."""
    async with RunWriter(tmp_path, make_manifest()) as writer:
        for number in range(3):
            await _append(writer, number)
            assert len(await _read(tmp_path)) == number + 1


@pytest.mark.parametrize("durable", [True, False])
async def test_a_flush_comes_before_the_acknowledgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """`durable` flushes arrays and lines to the disk before `append` returns."""
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    async with RunWriter(tmp_path, make_manifest(), durable=durable) as writer:
        monkeypatch.setattr(os, "fsync", fsync)
        await _append(writer, 0)
        names = [Path(path).name for path in synced]
    assert names[-1:] == (["episodes-00000.jsonl.zst"] if durable else [])
    assert ("arrays-00000.bin" in names) is durable


async def test_waiting_episodes_share_a_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrives while the disk is busy is written together."""
    sizes: list[int] = []
    real = RunStore.append

    def append(self: RunStore, episodes: Any) -> Any:
        sizes.append(len(episodes))
        return real(self, episodes)

    monkeypatch.setattr(RunStore, "append", append)
    async with RunWriter(tmp_path, make_manifest()) as writer:
        await _append(writer, *range(200))
    assert sum(sizes) == 200
    assert max(sizes) <= 64
    assert len(sizes) < 20


async def test_a_full_queue_holds_up_whoever_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk does not answer, only as many episodes as the queue has wait."""
    gate = threading.Event()
    real = RunStore.append

    def append(self: RunStore, episodes: Any) -> Any:
        assert gate.wait(10)
        return real(self, episodes)

    monkeypatch.setattr(RunStore, "append", append)
    async with RunWriter(tmp_path, make_manifest(), queue=3) as writer:
        futures = [await writer.post(make_episode(0))]
        await asyncio.sleep(0)  # The writer takes it.
        futures += [await writer.post(make_episode(number)) for number in (1, 2, 3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.post(make_episode(4))
        assert not any(future.done() for future in futures)
        gate.set()
        for future in futures:
            await future
    assert len(await _read(tmp_path)) == 4


# Going on


@formats
async def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """Resuming knows what is there, and refuses to write it again."""
    manifest = make_manifest(episode_format)
    async with RunWriter(tmp_path, manifest, resume=True) as writer:
        await _append(writer, *range(5))
    created = (await anyio.to_thread.run_sync(open_run, tmp_path)).manifest.created
    async with RunWriter(tmp_path, manifest, resume=True) as writer:
        assert len(writer) == 5
        assert writer.manifest.created == created
        with pytest.raises(LocalProtocolError, match=r"not in .* yet, got '2/0'"):
            await writer.append(make_episode(4))
        await _append(writer, 5)
    assert sorted(episode.id for episode in await _read(tmp_path)) == [
        *("0/0", "0/1", "1/0", "1/1", "2/0", "2/1")
    ]


async def test_the_same_episode_twice_in_one_flush_is_written_once(
    tmp_path: Path,
) -> None:
    """Of two that arrive together, one is refused."""
    async with RunWriter(tmp_path, make_manifest()) as writer:
        first = await writer.post(make_episode(0))
        second = await writer.post(make_episode(0))
        await first
        with pytest.raises(LocalProtocolError, match="got '0/0'"):
            await second
    assert len(await _read(tmp_path)) == 1


async def test_a_run_without_an_episode_is_begun_anew(tmp_path: Path) -> None:
    """There is nothing to lose, and its settings may be what was wrong."""
    async with RunWriter(tmp_path, make_manifest()):
        with pytest.raises(RunLocked):
            await RunWriter(tmp_path, make_manifest()).__aenter__()
    other = _manifest(config={"policy": "other"})
    async with RunWriter(tmp_path, other) as writer:
        assert writer.manifest.config == {"policy": "other"}
        await _append(writer, 0)
    with pytest.raises(RunError, match="expected no run at"):
        await RunWriter(tmp_path, other).__aenter__()
    await anyio.Path(tmp_path / "episodes-00000.jsonl.zst").unlink()
    await anyio.Path(tmp_path / "attempts.jsonl").touch()
    with pytest.raises(RunError, match="expected no run at"):
        await RunWriter(tmp_path, other).__aenter__()


async def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    """Without `resume`, a folder with a run is refused."""
    async with RunWriter(tmp_path, make_manifest()) as writer:
        await _append(writer, 0)
    with pytest.raises(RunError, match=r"expected no run at .* yet") as caught:
        async with RunWriter(tmp_path, make_manifest()):
            pass
    assert caught.value.fault == "caller"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, "expected seed 7 .*, got 8"),
        ({"episode_format": "parquet"}, "expected format 'jsonl' .*, got 'parquet'"),
        ({"config": {"policy": "other"}}, "expected group_size 2 .*, got None"),
        ({"environment": make_manifest(name="x").environment}, "environment 'made'"),
    ],
)
async def test_other_settings_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """What decides how episodes turn out has to be the same on resuming."""
    async with RunWriter(tmp_path, make_manifest()):
        pass
    with pytest.raises(RunMismatch, match=message):
        async with RunWriter(tmp_path, _manifest(**changes), resume=True):
            pass
    async with RunWriter(tmp_path, _manifest(runtime={"x": 1}), resume=True):
        pass


@formats
@pytest.mark.parametrize("part_bytes", [1, 1 << 20])
async def test_what_failed_can_be_forgotten(
    tmp_path: Path, episode_format: EpisodeFormat, part_bytes: int
) -> None:
    """Episodes of the named statuses are dropped, and can be written again."""
    manifest = make_manifest(episode_format)
    failed = [make_episode(number, outcome=_LOST) for number in (1, 2, 6)]
    async with RunWriter(tmp_path, manifest, part_bytes=part_bytes) as writer:
        for number in (0, 3, 4):
            await _append(writer, number)
        for episode in failed:
            await writer.append(episode)
    async with RunWriter(
        tmp_path, manifest, resume=True, forget=["infrastructure_failed"]
    ) as writer:
        assert len(writer) == 3
        assert [past.outcome for past in writer.earlier("0/1")] == [_LOST]
        await _append(writer, 1, 2, 6)
    found = {episode.id: exact(episode) for episode in await _read(tmp_path)}
    assert found == {
        episode.id: exact(episode) for episode in map(make_episode, (0, 1, 2, 3, 4, 6))
    }
    before = await anyio.to_thread.run_sync(_contents, tmp_path)
    async with RunWriter(tmp_path, manifest, resume=True, forget=["policy_failed"]):
        pass
    assert await anyio.to_thread.run_sync(_contents, tmp_path) == before


# One writer


async def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Whoever comes second is told which process writes; readers are not disturbed."""
    async with RunWriter(tmp_path, make_manifest()) as writer:
        await _append(writer, 0)
        with pytest.raises(RunLocked, match=rf"got process {os.getpid()}") as caught:
            async with RunWriter(tmp_path, make_manifest(), resume=True):
                pass
        assert caught.value.detail == {"pid": os.getpid()}
        assert len(await _read(tmp_path)) == 1
        await _append(writer, 1)
    async with RunWriter(tmp_path, make_manifest(), resume=True) as writer:
        assert len(writer) == 2


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The lock holds between processes, and goes with the one that holds it."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, '.')\n"
        "from openenv_async.rollout.runs.store import RunStore\n"
        "from tests.rollout.runs import make_manifest\n"
        "store = RunStore(Path(sys.argv[1]), make_manifest(), resume=True)\n"
        "print('open', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(RunLocked, match=re.escape(f"process {process.pid}")):
            RunStore(tmp_path, make_manifest(), resume=True)
        process.kill()
    RunStore(tmp_path, make_manifest(), resume=True).close()


# Trouble


async def test_a_value_that_cannot_be_written_harms_only_its_episode(
    tmp_path: Path,
) -> None:
    """Other episodes of the same flush are written."""
    bad = msgspec.structs.replace(make_episode(1), extras={"x": object()})
    async with RunWriter(tmp_path, make_manifest()) as writer:
        futures = [
            await writer.post(episode)
            for episode in (make_episode(0), bad, make_episode(2))
        ]
        await futures[0]
        with pytest.raises(LocalProtocolError, match="in episode '0/1'"):
            await futures[1]
        await futures[2]
        assert "0/1" not in writer
        await writer.append(make_episode(1))
    assert len(await _read(tmp_path)) == 3


async def test_a_failed_flush_stops_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a full disk nothing more is written, and nothing acknowledged is lost."""
    real = os.writev

    def writev(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    async with RunWriter(tmp_path, make_manifest()) as writer:
        await _append(writer, 0, 1)
        monkeypatch.setattr(os, "writev", writev)
        with pytest.raises(StorageFull, match="all acknowledged episodes are intact"):
            await writer.append(make_episode(2))
        monkeypatch.setattr(os, "writev", real)
        with pytest.raises(StorageFull, match="No space left"):
            await writer.append(make_episode(3))
    assert [episode.id for episode in await _read(tmp_path)] == ["0/0", "0/1"]


async def test_a_bug_does_not_leave_anybody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw reaches whoever waits, and the writer can be closed."""

    def append(*_: Any) -> Any:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(RunStore, "append", append)
    async with RunWriter(tmp_path, make_manifest()) as writer:
        with pytest.raises(RunError, match="unforeseen"):
            await writer.append(make_episode(0))


async def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    """A path below a file is a RunError that names it."""
    await anyio.Path(tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/run"):
        async with RunWriter(tmp_path / "file" / "run", make_manifest()):
            pass


async def test_misuse_is_said_so(tmp_path: Path) -> None:
    """Appending to a run that is not open, and sizes of nothing, are errors."""
    writer = RunWriter(tmp_path, make_manifest())
    with pytest.raises(LocalProtocolError, match="use `async with`"):
        await writer.append(make_episode(0))
    with pytest.raises(LocalProtocolError, match="got queue=0"):
        RunWriter(tmp_path, make_manifest(), queue=0)
    await writer.aclose()


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_append_is_written_at_most_once(
    tmp_path: Path, turns: int
) -> None:
    """Whenever `append` is cancelled, the run stays whole and can be closed."""
    async with RunWriter(tmp_path, make_manifest()) as writer:
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(writer.append, make_episode(number))
            for _ in range(turns):
                await asyncio.sleep(0)
            group.cancel_scope.cancel()
        await _append(writer, 9)
        assert "4/1" in writer
    ids = [episode.id for episode in await _read(tmp_path)]
    assert len(ids) == len(set(ids))


async def test_leaving_by_cancellation_writes_what_waits(tmp_path: Path) -> None:
    """A cancelled context still finishes the run."""
    with anyio.CancelScope() as scope:
        async with RunWriter(tmp_path, make_manifest("parquet")) as writer:
            await _append(writer, 0)
            await writer.post(make_episode(1))
            scope.cancel()
            await anyio.sleep_forever()
    assert len(await _read(tmp_path)) == 2
    assert [part.is_sealed for part in await _parts(tmp_path)] == [True]


# Recording


async def _episodes(*episodes: Episode[Any, Any]) -> AsyncGenerator[Any, None]:
    for episode in episodes:
        yield episode


async def test_recording_leaves_cancelled_episodes_out(tmp_path: Path) -> None:
    """Resuming has to play what a cancelled run did not finish."""
    cut = make_episode(1, outcome=Truncated(reason="cancelled"))
    late = make_episode(2, outcome=Truncated(reason="cut_off"))
    seen: list[str] = []
    async with RunWriter(tmp_path, make_manifest()) as writer:
        count = await record_episodes(
            _episodes(make_episode(0), cut, late, make_episode(3)),
            writer,
            recorded=lambda episode: seen.append(episode.id),
        )
    assert count == 3
    assert seen == ["0/0", "1/0", "1/1"]
    assert [episode.id for episode in await _read(tmp_path)] == seen


async def test_recording_stops_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error arrives while the collector still has episodes."""

    def writev(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    async def endless() -> AsyncGenerator[Any, None]:
        number = 0
        while True:
            yield make_episode(number)
            number += 1
            await asyncio.sleep(0)

    async with RunWriter(tmp_path, make_manifest()) as writer:
        monkeypatch.setattr(os, "writev", writev)
        with pytest.raises(StorageFull):
            await record_episodes(endless(), writer)


@formats
async def test_a_resumed_run_tells_what_has_failed(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """It is there, and not to be played again, but it does not count as complete."""
    episodes = [make_episode(0, length=1), make_episode(1, length=1, outcome=_LOST)]
    manifest = make_manifest(episode_format=episode_format)
    async with RunWriter(tmp_path, manifest) as writer:
        for episode in episodes:
            await writer.append(episode)
    async with RunWriter(tmp_path, manifest, resume=True) as writer:
        assert [episode.id in writer for episode in episodes] == [True, True]
        failed = [writer.has_failed(episode.id) for episode in episodes]
        assert failed == [False, True]
        assert not writer.has_failed("nobody/0")
