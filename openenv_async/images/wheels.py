"""Collects wheels for an image, outside of it: its build then needs no network.

pip does the work, with whatever the machine's own settings say of indexes. Where the
image's Python is like ours, `pip wheel` also builds packages that have only sources;
for any other, `pip download` takes wheels made for it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Final

import anyio
from anyio.streams.text import TextReceiveStream

from ..errors import BuildFailed
from .packages import Package, Source, read_wheel

__all__ = ["Interpreter", "Report", "build_wheel", "collect_wheels"]

Report = Callable[[str], None]
"""Takes a line of what is going on."""

_PIP: Final = (sys.executable, "-m", "pip")
_QUIET: Final = (
    "--disable-pip-version-check",
    "--no-input",
    "--progress-bar=off",
)
_LAST_LINES: Final = 30
"""How much of pip's output an error shows."""
_OLDEST_GLIBC: Final = 17
"""The `manylinux_2_17` of today's oldest wheels."""
_FULL: Final = "No space left on device"
_MUSL: Final = range(1, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python that packages are collected for.

    Args:
        version: Major and minor version.
        machine: As `platform.machine()` says.
        libc: Name of the C library, `glibc` or `musl`.
        libc_version: Its major and minor version.
    """

    version: tuple[int, int]
    machine: str
    libc: str = "glibc"
    libc_version: tuple[int, int] = (2, 36)

    @staticmethod
    def here() -> Interpreter | None:
        """This one; None if it is not on Linux."""
        if sys.platform != "linux":
            return None
        name, version = platform.libc_ver()
        major, _, minor = version.partition(".")
        return Interpreter(
            version=sys.version_info[:2],
            machine=platform.machine(),
            libc=name or "musl",
            libc_version=(int(major), int(minor)) if name else (1, 2),
        )

    def runs_wheels_of(self, other: Interpreter | None) -> bool:
        """Whether what is built for the other one, perhaps just now, runs here."""
        return (
            other is not None
            and (self.version, self.machine, self.libc)
            == (other.version, other.machine, other.libc)
            and self.libc_version >= other.libc_version
        )

    def tags(self) -> Iterator[str]:
        """The platforms that its wheels may be made for, newest first."""
        if self.libc == "glibc":
            for minor in range(self.libc_version[1], _OLDEST_GLIBC - 1, -1):
                yield f"manylinux_2_{minor}_{self.machine}"
            yield f"manylinux2014_{self.machine}"
        else:
            yield from (f"musllinux_1_{minor}_{self.machine}" for minor in _MUSL)
        yield f"linux_{self.machine}"


async def build_wheel(
    source: Source, folder: Path, *, prepared: Path | None, report: Report
) -> Package:
    """Build a package's wheel into a folder, or copy it there.

    Args:
        source: The package.
        folder: Where the wheel goes.
        prepared: Wheels made earlier. What cannot be built without a network, because
            what builds it is not installed here, is taken from there.
        report: Takes pip's output.

    Raises:
        BuildFailed: pip is not there, or could not build it.
    """
    target = await anyio.to_thread.run_sync(_subfolder, folder)
    run_pip = _Pip(folder, report)
    if source.is_wheel:
        path = anyio.Path(source.path)
        await anyio.Path(target / path.name).write_bytes(await path.read_bytes())
    elif await anyio.to_thread.run_sync(source.can_build_here):
        await run_pip(_BUILD, target, "--no-build-isolation", source.path)
    elif prepared is None:
        await run_pip(_BUILD, target, source.path)
    else:
        # As a file: a name would let a package of an index take its place.
        named = await anyio.to_thread.run_sync(_find_wheel, prepared, source)
        path = anyio.Path(named)
        await anyio.Path(target / path.name).write_bytes(await path.read_bytes())
    return await anyio.to_thread.run_sync(_read_only_wheel, target)


_BUILD: Final = ("wheel", "--no-deps")


def _subfolder(folder: Path) -> Path:
    target = folder / f"own-{sum(1 for _ in folder.glob('own-*'))}"
    target.mkdir()
    return target


def _read_only_wheel(folder: Path) -> Package:
    (wheel,) = folder.glob("*.whl")
    return read_wheel(wheel)


def _find_wheel(folder: Path, source: Source) -> Path:
    pattern = f"{source.name.replace('-', '_')}-[0-9]*.whl"
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BuildFailed(
            f"expected {pattern} in {str(folder)!r}, or what builds it "
            f"({', '.join(source.backend)}) installed here, got neither; "
            "`openenv-async build --prepare` on a machine with network makes it",
            fault="caller",
        )
    return found[-1]


async def collect_wheels(
    requirements: Sequence[str],
    folder: Path,
    *,
    temporary: Path,
    interpreter: Interpreter,
    prepared: Path | None,
    report: Report,
) -> None:
    """Collect wheels of requirements and of all that they need.

    Args:
        requirements: As pip takes them.
        folder: Where the wheels go.
        temporary: Where pip works.
        interpreter: Runs them.
        prepared: Take them from this folder, and use no index.
        report: Takes pip's output.

    Raises:
        BuildFailed: pip is not there, or could not find them all.
    """
    run_pip = _Pip(temporary, report)
    options = [*requirements]
    if prepared is not None:
        options += ["--no-index", "--find-links", str(prepared)]
    if interpreter.runs_wheels_of(Interpreter.here()):
        await run_pip(("wheel",), folder, *options)
        return
    major, minor = interpreter.version
    await run_pip(
        ("download", "--only-binary=:all:", "--implementation=cp"),
        folder,
        f"--python-version={major}.{minor}",
        *(f"--abi={abi}" for abi in (f"cp{major}{minor}", "abi3", "none")),
        *(f"--platform={tag}" for tag in interpreter.tags()),
        *options,
    )


class _Pip:
    """Runs pip; its process ends with a cancelled caller.

    Args:
        temporary: Where it works. It leaves folders behind when it is ended.
        report: Takes its output.
    """

    def __init__(self, temporary: Path, report: Report) -> None:
        self._temporary = temporary
        self._report = report

    async def __call__(
        self, command: tuple[str, ...], folder: Path, *arguments: str | Path
    ) -> None:
        if await anyio.to_thread.run_sync(importlib.util.find_spec, "pip") is None:
            raise BuildFailed(
                f"expected pip for {sys.executable}, which collects the wheels, got "
                "none: `python -m ensurepip`, or `uv pip install pip`",
                fault="caller",
            )
        into = "--dest" if command[0] == "download" else "--wheel-dir"
        words = [*_PIP, *command, *_QUIET, into, str(folder), *map(str, arguments)]
        last: deque[str] = deque(maxlen=_LAST_LINES)
        async with await anyio.open_process(
            words,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, "TMPDIR": str(self._temporary)},
        ) as process:
            assert process.stdout is not None
            output = TextReceiveStream(process.stdout, errors="replace")
            async for line in _lines(output):
                last.append(line)
                self._report(line)
            status = await process.wait()
        if status:
            log = "\n".join(last)
            raise BuildFailed(
                f"expected wheels from pip, got exit status {status}; {_advice(log)}:",
                code="disk_full" if _FULL in log else None,
                detail={"log": log},
            )


def _advice(log: str) -> str:
    if _FULL in log:
        return "the disk of the temporary folder is full; its last output"
    if "No matching distribution found" in log:
        return (
            "without network, give the wheels that `--prepare` made elsewhere "
            "with `--wheels`; its last output"
        )
    return "its last output"


async def _lines(stream: TextReceiveStream) -> AsyncIterator[str]:
    rest = ""
    async for text in stream:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line
    if rest:
        yield rest
