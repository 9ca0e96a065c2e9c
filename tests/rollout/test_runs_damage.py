"""Damage of what was acknowledged: told, never cut off, and mended when asked."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pyarrow.parquet
import pytest

from openenv_async import RunDamaged
from openenv_async.rollout import Attempt, PolicyFailure
from openenv_async.rollout.runs import EpisodeFormat, open_run
from openenv_async.rollout.runs.attempts import write_attempts
from openenv_async.rollout.runs.frames import read_frames
from openenv_async.rollout.runs.parquet import seal_part
from openenv_async.rollout.runs.rewriting import replace_frames
from openenv_async.rollout.runs.store import RunStore
from tests.rollout.runs import FORMATS, exact, make_episode, make_manifest, write_run

_FIRST = "episodes-00000.jsonl.zst"
_ARRAYS = "arrays-00000.bin"
_EPISODES = 12


def _write(folder: Path, episode_format: EpisodeFormat = "jsonl") -> None:
    """Six flushes of two episodes each, as a killed writer leaves them."""
    episodes = map(make_episode, range(_EPISODES))
    close = episode_format == "parquet"
    write_run(folder, episodes, episode_format=episode_format, close=close)


def _resume(
    folder: Path, episode_format: EpisodeFormat = "jsonl", *, salvage: bool = False
) -> RunStore:
    return RunStore(
        folder,
        make_manifest(episode_format),
        resume=True,
        durable=False,
        salvage=salvage,
    )


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x5A
    path.write_bytes(content)


def _frames(folder: Path) -> list[tuple[int, int]]:
    with (folder / _FIRST).open("rb") as file:
        return [(frame.start, frame.end) for frame in read_frames(file)]


@pytest.mark.parametrize(
    ("frame", "place"),
    [
        (frame, place)
        for frame in (0, 2, 5)
        for place in ("magic", "header", "block", "content", "checksum")
        # A last frame that seems longer than it is cannot be told from a torn one.
        if (frame, place) != (5, "header")
    ],
)
def test_one_damaged_byte_is_told_and_nothing_is_cut_off(
    tmp_path: Path, frame: int, place: str
) -> None:
    """Reader and writer name the file and the offset; what follows is still there."""
    _write(tmp_path)
    start, end = _frames(tmp_path)[frame]
    offset = {"magic": 0, "header": 4, "block": 6, "content": 40, "checksum": -2}[place]
    _flip(tmp_path / _FIRST, (end if offset < 0 else start) + offset)
    damaged = (tmp_path / _FIRST).read_bytes()
    with pytest.raises(RunDamaged, match=f"{_FIRST}.* at byte {start} of .*--salvage"):
        list(open_run(tmp_path).summaries())
    with pytest.raises(RunDamaged, match=f"{_FIRST}.* at byte {start} of .*--salvage"):
        _resume(tmp_path)
    assert (tmp_path / _FIRST).read_bytes() == damaged


@pytest.mark.parametrize(
    "tail", [pytest.param(os.urandom(100), id="noise"), b"{}\n", b"\0" * 100 + b"x"]
)
def test_noise_behind_the_last_frame_is_damage(tmp_path: Path, tail: bytes) -> None:
    """What no interrupted write leaves was put there by something else."""
    _write(tmp_path)
    with (tmp_path / _FIRST).open("ab") as file:
        file.write(tail)
    with pytest.raises(RunDamaged, match="got something else"):
        _resume(tmp_path)
    store = _resume(tmp_path, salvage=True)
    assert len(store) == _EPISODES
    store.close()
    assert (tmp_path / f"{_FIRST}.damaged").read_bytes().endswith(tail)


@pytest.mark.parametrize("left", [None, 0, 100])
def test_missing_arrays_are_damage(tmp_path: Path, left: int | None) -> None:
    """Going on without them would have old rows name new arrays."""
    _write(tmp_path)
    arrays = tmp_path / _ARRAYS
    content = arrays.read_bytes()
    arrays.unlink()
    if left is not None:
        arrays.write_bytes(content[:left])
    with pytest.raises(RunDamaged, match=rf"bytes or more in .*{_ARRAYS}.*--salvage"):
        _resume(tmp_path)
    store = _resume(tmp_path, salvage=True)
    missing = [
        make_episode(number)
        for number in range(_EPISODES)
        if make_episode(number).id not in store
    ]
    assert len(missing) >= _EPISODES - 3
    assert not any(store.append(missing))
    store.close()
    found = {episode.id: exact(episode) for episode in open_run(tmp_path)}
    assert found == {
        make_episode(number).id: exact(make_episode(number))
        for number in range(_EPISODES)
    }


@pytest.mark.parametrize("frame", [0, 3, 5])
def test_salvaging_keeps_all_that_can_be_read(tmp_path: Path, frame: int) -> None:
    """The episodes of other frames stay; the file as it was is kept, each time."""
    _write(tmp_path)
    for round_ in range(2):
        start, end = _frames(tmp_path)[frame]
        _flip(tmp_path / _FIRST, (start + end) // 2)
        damaged = (tmp_path / _FIRST).read_bytes()
        store = _resume(tmp_path, salvage=True)
        (mended,) = store.salvaged
        assert mended.copy.read_bytes() == damaged
        assert mended.kept == len(store) == _EPISODES - 2
        lost = [
            make_episode(number)
            for number in range(_EPISODES)
            if make_episode(number).id not in store
        ]
        assert not any(store.append(lost))
        store._release()
        assert len(list(open_run(tmp_path).summaries())) == _EPISODES, round_
    whole = _resume(tmp_path, salvage=True)
    assert whole.salvaged == []
    whole.close()


@pytest.mark.parametrize("episode_format", FORMATS)
def test_no_damage_is_ever_read_as_something_else(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """Wherever a byte is flipped: an error, or exactly the episodes that were there."""
    _write(tmp_path, episode_format)
    (path,) = tmp_path.glob("episodes-*")
    content = path.read_bytes()
    whole = {make_episode(one).id: exact(make_episode(one)) for one in range(_EPISODES)}
    told = 0
    for place in range(0, len(content), max(1, len(content) // 60)):
        _flip(path, place)
        try:
            found = {episode.id: exact(episode) for episode in open_run(tmp_path)}
        except RunDamaged:
            told += 1
        else:
            # Of Parquet, a few bytes are never looked at.
            assert found.items() <= whole.items(), place
        path.write_bytes(content)
    assert told > 40


@pytest.mark.parametrize("spoil", ["page", "end"])
def test_a_damaged_parquet_part_is_mended(tmp_path: Path, spoil: str) -> None:
    """What its row groups still give stays, and the rest can be played again."""
    _write(tmp_path, "parquet")
    (path,) = tmp_path.glob("*.parquet")
    _flip(path, 200 if spoil == "page" else -6)
    with contextlib.suppress(RunDamaged):
        # Only ids and statuses are read, which may be whole.
        _resume(tmp_path, "parquet")._release()
    store = _resume(tmp_path, "parquet", salvage=True)
    (mended,) = store.salvaged
    assert mended.copy.name == "episodes-00000.parquet.damaged"
    assert mended.kept == len(store) == 0
    assert not any(store.append([make_episode(number) for number in range(3)]))
    store.close()
    assert len(list(open_run(tmp_path))) == 3


# Damage that is only seen by whoever looks at everything


def _invert(path: Path, place: int) -> None:
    """Invert a byte, of what may be zeros."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 130, -1])
def test_a_damaged_array_is_told_and_mended(tmp_path: Path, place: int) -> None:
    """Its checksum is in the row: nobody is given another array for it."""
    _write(tmp_path)
    _invert(tmp_path / _ARRAYS, place)
    told = rf"checksum \w+ in .*{_ARRAYS}' at byte \d+, got .*--salvage"
    with pytest.raises(RunDamaged, match=told) as raised:
        list(open_run(tmp_path))
    assert raised.value.detail == {"file": str(tmp_path / _ARRAYS)}
    with pytest.raises(RunDamaged, match=told):
        _resume(tmp_path)
    with pytest.raises(RunDamaged, match=told):
        list(open_run(tmp_path).summaries(verify=True))
    assert len(list(open_run(tmp_path).summaries())) == _EPISODES
    store = _resume(tmp_path, salvage=True)
    (mended,) = store.salvaged
    assert mended.kept == len(store) == _EPISODES - 1
    (lost,) = (
        episode
        for episode in map(make_episode, range(_EPISODES))
        if episode.id not in store
    )
    assert store.append([lost]) == [None]
    store.close()
    found = {episode.id: exact(episode) for episode in open_run(tmp_path)}
    assert found == {
        episode.id: exact(episode) for episode in map(make_episode, range(_EPISODES))
    }


@pytest.mark.parametrize("left", [None, 0, 100])
def test_missing_arrays_are_told_to_whoever_verifies(
    tmp_path: Path, left: int | None
) -> None:
    """Summaries alone need none."""
    _write(tmp_path)
    arrays = tmp_path / _ARRAYS
    content = arrays.read_bytes()
    arrays.unlink()
    if left is not None:
        arrays.write_bytes(content[:left])
    assert len(list(open_run(tmp_path).summaries())) == _EPISODES
    with pytest.raises(RunDamaged, match=rf"bytes or more in .*{_ARRAYS}.*--salvage"):
        list(open_run(tmp_path).summaries(verify=True))


def test_damage_is_not_sealed(tmp_path: Path) -> None:
    """Parquet has checksums of its own, which would hide it."""
    episodes = map(make_episode, range(_EPISODES))
    write_run(tmp_path, episodes, episode_format="parquet", close=False)
    _invert(tmp_path / _ARRAYS, 0)
    with pytest.raises(RunDamaged, match="checksum"):
        seal_part(tmp_path, 0)
    assert not list(tmp_path.glob("*.parquet*"))
    assert (tmp_path / _FIRST).exists()


def test_a_run_without_checksums_of_arrays_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it; what is added has them."""
    _write(tmp_path)
    with (tmp_path / _FIRST).open("rb") as file:
        lines = [
            re.sub(rb',"crc32":\d+', b"", line)
            for frame in read_frames(file)
            for line in frame.lines()
        ]
    assert not any(b"crc32" in line for line in lines)
    replace_frames(tmp_path / _FIRST, [lines])
    assert len(list(open_run(tmp_path).summaries(verify=True))) == _EPISODES
    store = _resume(tmp_path)
    assert store.append([make_episode(_EPISODES)]) == [None]
    store.close()
    found = {episode.id: exact(episode) for episode in open_run(tmp_path)}
    wanted = map(make_episode, range(_EPISODES + 1))
    assert found == {episode.id: exact(episode) for episode in wanted}


def _damaged_steps(folder: Path) -> Path:
    """A Parquet part with one damaged byte, in a column that no summary needs."""
    _write(folder, "parquet")
    (path,) = folder.glob("*.parquet")
    group = pyarrow.parquet.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (column,) = (
        one
        for one in columns
        if one.path_in_schema.endswith("observation")
        and one.path_in_schema.startswith("steps")
    )
    # Behind the header of the page.
    _invert(path, column.data_page_offset + column.total_compressed_size // 2)
    return path


def test_a_damaged_column_of_a_sealed_part_is_told(tmp_path: Path) -> None:
    """By resuming, which needs ids alone, and by whoever verifies; nothing changes."""
    path = _damaged_steps(tmp_path)
    damaged = path.read_bytes()
    told = rf"Parquet file of episodes at .*{path.name}.*--salvage"
    assert len(list(open_run(tmp_path).summaries())) == _EPISODES
    with pytest.raises(RunDamaged, match=told):
        list(open_run(tmp_path).summaries(verify=True))
    with pytest.raises(RunDamaged, match=told):
        _resume(tmp_path, "parquet")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("episode_format", FORMATS)
def test_nothing_is_forgotten_of_a_damaged_run(
    tmp_path: Path, episode_format: EpisodeFormat
) -> None:
    """Before it is known that everything is whole, what failed is not dropped."""
    failed = make_episode(20, outcome=PolicyFailure(exception="x", message="y"))
    write_run(tmp_path, [failed], episode_format=episode_format)
    # For Parquet that is a part of its own.
    episodes = map(make_episode, range(_EPISODES))
    write_run(tmp_path, episodes, episode_format=episode_format)
    if episode_format == "parquet":
        _flip(tmp_path / "episodes-00001.parquet", 200)
    else:
        _invert(tmp_path / _ARRAYS, -1)
    before = {one.name: one.read_bytes() for one in tmp_path.glob("*s-*")}
    with pytest.raises(RunDamaged):
        RunStore(
            tmp_path,
            make_manifest(episode_format),
            resume=True,
            durable=False,
            forget=["policy_failed"],
        )
    assert {one.name: one.read_bytes() for one in tmp_path.glob("*s-*")} == before
    assert not (tmp_path / "attempts.jsonl").exists()


@pytest.mark.parametrize("spoiled", [b"\xff", b"{"])
def test_damaged_attempts_are_mended(tmp_path: Path, spoiled: bytes) -> None:
    """The lines that can be read stay, and the file as it was."""
    _write(tmp_path)
    attempt = Attempt(outcome=PolicyFailure(exception="x", message="y"), length=1)
    write_attempts(tmp_path, {"a/0": [attempt], "b/0": [attempt]})
    path = tmp_path / "attempts.jsonl"
    damaged = path.read_bytes().replace(b'"a/0"', b'"a/' + spoiled + b'"', 1)
    if spoiled == b"{":
        damaged = b"{" + damaged
    path.write_bytes(damaged)
    with pytest.raises(RunDamaged, match=r"attempts\.jsonl.*--salvage"):
        _resume(tmp_path)
    store = _resume(tmp_path, salvage=True)
    (mended,) = store.salvaged
    assert "kept 1 earlier attempts that can be read" in str(mended)
    assert mended.copy.read_bytes() == damaged
    assert store.earlier == {"b/0": [attempt]}
    store.close()
    _resume(tmp_path).close()
