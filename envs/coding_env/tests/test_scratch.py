"""Directories of workers, filled by somebody hostile: measured and removed."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from coding_env.sandbox import scratch


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory as a worker gets it."""
    path = tmp_path / "scratch"
    scratch.make(str(path), None)
    return path


def test_make_gives_a_directory_to_its_user_only(top: Path) -> None:
    """A new directory is empty and nobody else may enter it."""
    assert top.stat().st_mode & 0o777 == 0o700
    assert list(top.iterdir()) == []


def test_remove_removes_everything(top: Path) -> None:
    """Files, directories, pipes and shut directories all go; a second time is fine."""
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/c/file").write_text("x")
    (top / "moved-0").mkdir()
    (top / "moved-0/file").write_text("x")
    os.mkfifo(top / "pipe")
    (top / "a/b").chmod(0)
    scratch.remove(str(top))
    assert not top.exists()
    scratch.remove(str(top))


def test_remove_follows_no_link(top: Path, tmp_path: Path) -> None:
    """Links go; what they point at stays, as it was."""
    (tmp_path / "precious").mkdir(mode=0o755)
    (tmp_path / "precious/file").write_text("x")
    (top / "inner").mkdir()
    for folder in (top, top / "inner"):
        (folder / "directory").symlink_to(tmp_path / "precious")
        (folder / "file").symlink_to(tmp_path / "precious/file")
        (folder / "nothing").symlink_to(tmp_path / "missing")
        (folder / "circle").symlink_to(folder)
    scratch.remove(str(top))
    assert (tmp_path / "precious/file").read_text() == "x"
    assert (tmp_path / "precious").stat().st_mode & 0o777 == 0o755


def test_remove_needs_neither_stack_nor_descriptors_for_depth(top: Path) -> None:
    """A thousand directories in one another are removed with a few descriptors."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(top)
        for _ in range(3000):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
    finally:
        os.fchdir(here)
        os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        scratch.remove(str(top))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not top.exists()


def test_measure_counts_blocks_and_entries(top: Path) -> None:
    """What counts is what the disk gives, not what a sparse file claims."""
    (top / "a").mkdir()
    (top / "a/full").write_bytes(b"x" * 100_000)
    with (top / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (top / "link").symlink_to("/usr")
    size, count = scratch.measure(str(top), most_files=100)
    assert count == 4
    assert 100_000 <= size < 200_000


def test_measure_stops_at_too_many(top: Path) -> None:
    """Counting ends above the limit, and depth without end counts as too many."""
    for number in range(50):
        (top / str(number)).touch()
    assert scratch.measure(str(top), most_files=20)[1] == 21
    deep = top
    for _ in range(70):
        deep = deep / "d"
        deep.mkdir()
    assert scratch.measure(str(top), most_files=1000)[1] == 1001


def test_measure_of_what_is_gone_is_nothing(tmp_path: Path) -> None:
    """A directory that is gone takes no disk."""
    assert scratch.measure(str(tmp_path / "gone"), most_files=10) == (0, 0)
