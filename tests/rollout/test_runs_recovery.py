"""What was acknowledged stays, whatever happens to the process or to the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import pytest
import zstandard

from openenv_async import RunDamaged, RunError
from openenv_async.rollout.episodes import InfrastructureFailure
from openenv_async.rollout.runs import EpisodeFormat, open_run
from openenv_async.rollout.runs.appending import FramesFile
from openenv_async.rollout.runs.frames import read_frames
from openenv_async.rollout.runs.parts import list_parts
from openenv_async.rollout.runs.store import RunStore
from tests.chaos.processes import ROOT
from tests.rollout.runs import (
    FORMATS,
    exact,
    make_episode,
    make_manifest,
    write_run,
)
from tests.rollout.runs_victim import RUN

formats = pytest.mark.parametrize("episode_format", FORMATS)
_FIRST = "episodes-00000.jsonl.zst"


def _ids(folder: Path) -> list[str]:
    return [summary.id for summary in open_run(folder).summaries()]


def _ids_of_part(folder: Path) -> list[str]:
    file = FramesFile(folder, 0)
    file.close()
    return [id for id, _ in file.entries]


def _resume(folder: Path, episode_format: EpisodeFormat = "jsonl") -> RunStore:
    return RunStore(folder, make_manifest(episode_format), resume=True, durable=False)


@formats
@pytest.mark.slow
@pytest.mark.timeout(150)
def test_killed_writers_lose_nothing(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """After kills at 25 random moments, all that was acknowledged is there, once."""
    arguments = [
        *("-m", "tests.rollout.runs_victim"),
        *(str(tmp_path), episode_format, "25", "4"),
    ]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    acknowledged = (tmp_path / "acknowledged").read_text().split()
    found = {episode.id: episode for episode in open_run(tmp_path / RUN)}
    counts = Counter(_ids(tmp_path / RUN))
    assert set(counts.values()) == {1}
    assert len(acknowledged) == len(set(acknowledged)) > 25
    for text in acknowledged:
        expected = make_episode(int(text), length=int(text) % 4)
        assert exact(found[expected.id]) == exact(expected)
    with_more = _resume(tmp_path / RUN, episode_format)
    assert len(with_more) == len(counts)
    with_more.close()
    assert Counter(_ids(tmp_path / RUN)) == counts


def test_a_torn_tail_is_cut_off_wherever_it_is_torn(tmp_path: Path) -> None:
    """Of a last flush that is cut anywhere nothing is left, and the rest goes on."""
    write_run(tmp_path, map(make_episode, range(5)), close=False)
    path = tmp_path / _FIRST
    whole = path.read_bytes()
    with path.open("rb") as file:
        *_, last = read_frames(file)
    assert last.end == len(whole)
    for size in range(last.start, last.end):
        path.write_bytes(whole[:size])
        assert _ids(tmp_path) == ["0/0", "0/1", "1/0", "1/1"]
        store = _resume(tmp_path)
        assert path.stat().st_size == last.start
        assert "2/0" not in store
        assert store.append([make_episode(4)]) == [None]
        store.close()
        assert exact(open_run(tmp_path).episode("2/0")) == exact(make_episode(4))


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 5000, b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfd" + b"\0" * 9000],
)
def test_an_unfinished_write_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    """Zeros behind the last frame, or in it, as a loss of power leaves, are cut off."""
    write_run(tmp_path, map(make_episode, range(3)), close=False)
    path = tmp_path / _FIRST
    before = path.read_bytes()
    path.write_bytes(before + tail)
    assert _ids(tmp_path) == ["0/0", "0/1", "1/0"]
    _resume(tmp_path).close()
    assert _ids(tmp_path) == ["0/0", "0/1", "1/0"]
    assert path.read_bytes() == before


def test_arrays_that_no_line_names_do_no_harm(tmp_path: Path) -> None:
    """A crash between arrays and lines leaves bytes that nobody reads."""
    write_run(tmp_path, [make_episode(0)], close=False)
    with (tmp_path / "arrays-00000.bin").open("ab") as file:
        file.write(b"torn")
    write_run(tmp_path, [make_episode(1)])
    assert [exact(episode) for episode in open_run(tmp_path)] == [
        exact(make_episode(number)) for number in range(2)
    ]


@pytest.mark.parametrize("leftover", ["frames", "temporary"])
def test_an_interrupted_sealing_counts_once(tmp_path: Path, leftover: str) -> None:
    """A part is there once, whether its sealing was interrupted early or late."""
    write_run(
        tmp_path, map(make_episode, range(4)), episode_format="parquet", close=False
    )
    frames = (tmp_path / _FIRST).read_bytes()
    arrays = (tmp_path / "arrays-00000.bin").read_bytes()
    if leftover == "frames":
        _resume(tmp_path, "parquet").close()
        (tmp_path / _FIRST).write_bytes(frames)
        (tmp_path / "arrays-00000.bin").write_bytes(arrays)
    else:
        (tmp_path / "episodes-00000.parquet.tmp").write_bytes(b"PAR1")
    assert sorted(_ids(tmp_path)) == ["0/0", "0/1", "1/0", "1/1"]
    store = _resume(tmp_path, "parquet")
    assert len(store) == 4
    store.close()
    assert sorted(_ids(tmp_path)) == ["0/0", "0/1", "1/0", "1/1"]
    assert [part.path.name for part in list_parts(tmp_path)] == [
        "episodes-00000.parquet"
    ]
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("read", [0, 1, 5, 11])
def test_reading_goes_on_while_parts_are_sealed(tmp_path: Path, read: int) -> None:
    """A reader in the middle of a part sees every episode once, arrays included."""
    write_run(
        tmp_path,
        map(make_episode, range(12)),
        episode_format="parquet",
        flush=4,
        close=False,
    )
    episodes, summaries = iter(open_run(tmp_path)), open_run(tmp_path).summaries()
    found = [next(episodes) for _ in range(read)]
    ids = [next(summaries).id for _ in range(read)]
    _resume(tmp_path, "parquet").close()
    assert not list(tmp_path.glob("*.zst"))
    found += episodes
    ids += [summary.id for summary in summaries]
    assert ids == [episode.id for episode in found]
    assert [exact(episode) for episode in found] == [
        exact(make_episode(number)) for number in range(12)
    ]


@pytest.mark.parametrize("spoil", ["middle", "end", "arrays"])
def test_damage_of_what_was_acknowledged_is_an_error(
    tmp_path: Path, spoil: str
) -> None:
    """A finished part that was changed is never taken for a torn one."""
    write_run(tmp_path, map(make_episode, range(6)), part_bytes=1)
    path = tmp_path / _FIRST
    content = path.read_bytes()
    if spoil == "middle":
        path.write_bytes(content[:40] + b"?" + content[41:])
    elif spoil == "end":
        path.write_bytes(content[:-1])
    else:
        (tmp_path / "arrays-00000.bin").write_bytes(b"")
    with pytest.raises(RunDamaged, match=r"00000"):
        list(open_run(tmp_path))
    if spoil != "arrays":
        with pytest.raises(RunDamaged, match="00000"):
            _resume(tmp_path)


def test_a_frame_of_something_else_is_damage(tmp_path: Path) -> None:
    """A frame with a checksum that fits, but without episodes, is not cut off."""
    write_run(tmp_path, [make_episode(0)], close=False)
    with (tmp_path / _FIRST).open("ab") as file:
        file.write(zstandard.compress(b"[]\n"))
    with pytest.raises(RunDamaged, match="something else"):
        _resume(tmp_path)


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    """A sealed part that was cut is an error for reader and writer."""
    write_run(tmp_path, [make_episode(0)], episode_format="parquet")
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunDamaged, match="can't be read"):
        list(open_run(tmp_path))
    with pytest.raises(RunDamaged, match="can't be read"):
        open_run(tmp_path).episode("0/0")
    with pytest.raises(RunDamaged, match="can't be read"):
        _resume(tmp_path, "parquet")


_FILL = """
import resource, sys
from pathlib import Path
from openenv_async import StorageFull
from openenv_async.rollout.runs.store import RunStore
from tests.rollout.runs import make_episode, make_manifest

format, folder = sys.argv[1], Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
store = RunStore(folder, make_manifest(format), resume=True, durable=False)
number = len(store)
try:
    while True:
        text = __import__("random").Random(number).randbytes(500).hex()
        refused = store.append([make_episode(number, text=text, arrays=ARRAYS)])
        assert refused == [None]
        number += 1
except StorageFull as error:
    assert error.retryable and error.detail["free_bytes"] > 0
    print(number, flush=True)
try:
    store.close()
except StorageFull:
    # Nor is there room for the Parquet file; the next opening tries again.
    assert format == "parquet"
"""


@formats
@pytest.mark.timeout(90)
@pytest.mark.parametrize("arrays", [True, False])
def test_a_full_disk_stops_the_run_and_loses_nothing(
    tmp_path: Path, episode_format: EpisodeFormat, *, arrays: bool
) -> None:
    """A file that cannot grow is StorageFull; what was acknowledged is intact."""
    code = _FILL.replace("ARRAYS", repr(arrays))
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, episode_format, str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        count = int(done.stdout)
        assert count > 5
        assert len(set(_ids(tmp_path))) == len(_ids(tmp_path)) == count
        assert all(episode.length == 3 for episode in open_run(tmp_path))


def test_a_failed_flush_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the flush fails after the write, the episode is not there."""
    file = FramesFile(tmp_path, 0)
    file.append([make_episode(0)])
    before = file.path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        file.append([make_episode(1)])
    monkeypatch.undo()
    assert file.path.read_bytes() == before
    file.append([make_episode(2)])
    file.close()
    assert sorted(_ids_of_part(tmp_path)) == ["0/0", "1/0"]


def test_a_finished_part_begins_with_a_typical_episode(tmp_path: Path) -> None:
    """Failures at the beginning of a run do not hide the types of the columns."""
    failed = InfrastructureFailure(
        kind="session_lost", executed="no", retryable=True, message=""
    )
    episodes = [make_episode(number, length=0, outcome=failed) for number in range(300)]
    episodes += [make_episode(number) for number in range(300, 306)]
    write_run(tmp_path, episodes, flush=3, close=False)
    assert _ids(tmp_path)[0] == "0/0"
    _resume(tmp_path).close()
    ids = _ids(tmp_path)
    assert ids[0] == "150/0"
    assert sorted(ids) == sorted(episode.id for episode in episodes)
    assert [exact(episode) for episode in open_run(tmp_path)][:2] == [
        exact(make_episode(300)),
        exact(make_episode(301)),
    ]


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    """A newer format, a manifest that is none, and no manifest at all are errors."""
    with pytest.raises(RunError, match="got none"):
        open_run(tmp_path / "nowhere")
    path = tmp_path / "manifest.json"
    path.write_text('{"format_version": 99}')
    with pytest.raises(RunError, match="got 99: read it with a newer"):
        open_run(tmp_path)
    path.write_text('{"format_version": 1}')
    with pytest.raises(RunDamaged, match="expected a manifest"):
        open_run(tmp_path)
    path.unlink()
    (tmp_path / _FIRST).touch()
    with pytest.raises(RunError, match="expected a manifest beside"):
        _resume(tmp_path)


@formats
def test_what_is_dropped_to_be_played_again_is_not_forgotten(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """Killed before it was, again and again: all that became of it is still known."""
    failed = InfrastructureFailure(
        kind="session_lost", executed="unknown", retryable=True, message="gone"
    )
    write_run(
        tmp_path,
        [make_episode(0), make_episode(1, length=2, outcome=failed)],
        episode_format=episode_format,
    )
    again = partial(
        RunStore,
        tmp_path,
        make_manifest(episode_format),
        resume=True,
        durable=False,
        forget=["infrastructure_failed"],
    )
    for _ in range(3):
        store = again()
        assert (len(store), store.failed) == (1, 0)
        assert [(past.outcome, past.length) for past in store.earlier["0/1"]] == [
            (failed, 2)
        ]
        store._release()
    store = _resume(tmp_path, episode_format)
    second = msgspec.structs.replace(
        make_episode(1, length=0, outcome=failed),
        earlier_attempts=store.earlier["0/1"],
    )
    assert store.append([second]) == [None]
    store.close()
    assert open_run(tmp_path).episode("0/1").attempt == 2
    store = _resume(tmp_path, episode_format)
    assert store.failed == 1
    store.close()
    store = again()
    assert [past.length for past in store.earlier["0/1"]] == [2, 0]
    store.close()
