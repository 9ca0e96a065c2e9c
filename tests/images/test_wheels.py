"""Wheels are built and collected with pip, for the Python that will run them."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from openenv_async import ProviderError
from openenv_async.errors import BuildFailed
from openenv_async.images.packages import Package, Source, find_source
from openenv_async.images.wheels import Interpreter, build_wheel, collect_wheels

BOOKWORM = Interpreter(version=(3, 11), machine="x86_64", libc_version=(2, 36))


async def _package(
    folder: Path, name: str, *, needs: str = "", backend: str = ""
) -> Source:
    """A package that consists of one empty module."""
    return await to_thread.run_sync(_write_package, folder, name, needs, backend)


def _write_package(folder: Path, name: str, needs: str, backend: str) -> Source:
    folder.mkdir(parents=True)
    (folder / f"{name}.py").touch()
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["{backend or "hatchling"}"]\n'
        'build-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "1"\ndependencies = [{needs}]\n'
    )
    return find_source(folder)


async def _build(source: Source, folder: Path, prepared: Path | None = None) -> Package:
    lines: list[str] = []
    await anyio.Path(folder).mkdir(exist_ok=True)
    package = await build_wheel(source, folder, prepared=prepared, report=lines.append)
    assert source.is_wheel or prepared or any("wheel" in line for line in lines)
    return package


async def _collect(
    requirement: str, folder: Path, prepared: Path, interpreter: Interpreter
) -> list[str]:
    await collect_wheels(
        [requirement],
        folder,
        temporary=prepared.parent,
        interpreter=interpreter,
        prepared=prepared,
        report=lambda _: None,
    )
    return [name.split("-")[0] for name in await to_thread.run_sync(_names, folder)]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def _same(one: Path, other: Path) -> bool:
    contents = [await anyio.Path(path).read_bytes() for path in (one, other)]
    return one != other and contents[0] == contents[1]


def _here() -> Interpreter:
    here = Interpreter.here()
    assert here is not None, "these tests run on Linux"
    return here


# The interpreter


def test_tags_go_from_the_newest_to_the_oldest_library() -> None:
    """A wheel for an older glibc runs on a newer one, but not the other way round."""
    tags = list(BOOKWORM.tags())
    assert tags[0] == "manylinux_2_36_x86_64"
    assert tags[-2:] == ["manylinux2014_x86_64", "linux_x86_64"]
    assert "manylinux_2_17_x86_64" in tags
    assert "manylinux_2_37_x86_64" not in tags


def test_musl_has_tags_of_its_own() -> None:
    """Alpine's wheels are others."""
    alpine = dataclasses.replace(BOOKWORM, libc="musl", libc_version=(1, 2))
    assert list(alpine.tags()) == [
        "musllinux_1_1_x86_64",
        "musllinux_1_2_x86_64",
        "linux_x86_64",
    ]


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ({}, True),
        ({"libc_version": (2, 31)}, True),
        ({"libc_version": (2, 39)}, False),
        ({"version": (3, 12)}, False),
        ({"machine": "aarch64"}, False),
        ({"libc": "musl", "libc_version": (1, 2)}, False),
    ],
)
def test_wheels_of_a_like_machine_run(change: dict[str, object], runs: bool) -> None:
    """What is built on the other one runs, if its C library is not newer."""
    other = dataclasses.replace(BOOKWORM, **change)  # type: ignore[arg-type]  # of the right types
    assert BOOKWORM.runs_wheels_of(other) is runs
    assert not BOOKWORM.runs_wheels_of(None)


def test_this_interpreter_knows_itself() -> None:
    """What is built here runs here."""
    here = _here()
    assert here.version == sys.version_info[:2]
    assert here.runs_wheels_of(here)


# Building


async def test_a_folder_is_built(tmp_path: Path) -> None:
    """The wheel is in the folder, and nothing is left beside the sources."""
    source = await _package(tmp_path / "source", "thing")
    package = await _build(source, tmp_path / "wheels")
    assert (package.name, package.version) == ("thing", "1")
    assert package.wheel.is_relative_to(tmp_path / "wheels")
    left = await to_thread.run_sync(_names, tmp_path / "source")
    assert left == ["pyproject.toml", "thing.py"]


async def test_a_wheel_is_taken_as_it_is(tmp_path: Path) -> None:
    """The file is copied; the original stays."""
    built = await _build(
        await _package(tmp_path / "source", "thing"), tmp_path / "wheels"
    )
    source = await to_thread.run_sync(find_source, built.wheel)
    copied = await _build(source, tmp_path / "others")
    assert await _same(copied.wheel, built.wheel)


async def test_what_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    """The error shows pip's last lines, which name the cause."""
    source = await _package(tmp_path / "source", "thing", needs='"not a requirement"')
    with pytest.raises(BuildFailed, match="got exit status 1") as caught:
        await _build(source, tmp_path / "wheels")
    assert "not a requirement" in caught.value.log


async def test_without_its_backend_the_prepared_wheel_is_taken(tmp_path: Path) -> None:
    """No network is there to install the backend, so an earlier wheel serves."""
    built = await _build(await _package(tmp_path / "a", "thing"), tmp_path / "wheels")
    source = await _package(tmp_path / "b", "thing", backend="no-such-backend")
    taken = await _build(source, tmp_path / "others", built.wheel.parent)
    assert await _same(taken.wheel, built.wheel)


async def test_without_backend_and_wheel_the_error_says_what_to_do(
    tmp_path: Path,
) -> None:
    """It names the wheel, the backend, and the command that makes the wheel."""
    source = await _package(tmp_path / "source", "thing", backend="no-such-backend")
    with pytest.raises(BuildFailed) as caught:
        await _build(source, tmp_path / "wheels", prepared=tmp_path)
    for named in ("thing-[0-9]*.whl", "no-such-backend", "--prepare"):
        assert named in str(caught.value)
    assert caught.value.fault == "caller"


async def test_a_missing_pip_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environments made by some tools have none."""
    source = await _package(tmp_path / "source", "thing")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BuildFailed, match=f"expected pip for {sys.executable}"):
        await _build(source, tmp_path / "wheels")


async def test_cancelling_ends_pip(tmp_path: Path) -> None:
    """No process is left behind, which the guards check."""
    source = await _package(tmp_path / "source", "thing")
    await anyio.Path(tmp_path / "wheels").mkdir()
    async with anyio.create_task_group() as group:

        def cancel(_: str) -> None:
            group.cancel_scope.cancel()

        await build_wheel(source, tmp_path / "wheels", prepared=None, report=cancel)
    assert group.cancel_scope.cancelled_caught


# Collecting


@pytest.fixture
async def prepared(tmp_path: Path) -> Path:
    """A folder of wheels: `thing` needs `other`."""
    for name, needs in {"other": "", "thing": '"other"'}.items():
        source = await _package(tmp_path / "sources" / name, name, needs=needs)
        built = await _build(source, tmp_path / "built")
        target = anyio.Path(tmp_path / "prepared" / built.wheel.name)
        await target.parent.mkdir(exist_ok=True)
        await anyio.Path(built.wheel).rename(target)
    return tmp_path / "prepared"


@pytest.mark.parametrize("here", [True, False], ids=["like ours", "another"])
async def test_what_a_package_needs_is_collected(
    tmp_path: Path,
    prepared: Path,
    here: bool,
) -> None:
    """From the folder, without any index, for any Python."""
    other = dataclasses.replace(_here(), version=(3, 99), machine="aarch64")
    found = await _collect(
        "thing", tmp_path / "wheels", prepared, _here() if here else other
    )
    assert found == ["other", "thing"]


async def test_what_is_missing_is_named(tmp_path: Path, prepared: Path) -> None:
    """The error names the package, and how to get it without a network."""
    async for wheel in anyio.Path(prepared).glob("other-*.whl"):
        await wheel.unlink()
    with pytest.raises(ProviderError) as caught:
        await _collect("thing", tmp_path / "wheels", prepared, _here())
    assert "No matching distribution found for other" in str(caught.value)
    assert "--wheels" in str(caught.value)
