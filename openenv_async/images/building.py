"""Builds an image that serves an environment, from the environment's package."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from ..errors import BuildFailed, ProviderError
from .context import Contents, collect, deliver, pack, reporter, workplace
from .engine import connected, ensure_base, probe, refusals, refused
from .packages import Source, find_source
from .progress import BuildProgress, BuiltImage, Progress
from .wheels import Interpreter

if TYPE_CHECKING:
    from aiodocker import Docker

__all__ = ["DEFAULT_BASE", "build_image", "prepare_wheels"]

DEFAULT_BASE: Final = "python:3.11-slim"
"""What images start from."""

_ASSUMED: Final = Interpreter(version=(3, 11), machine="x86_64")
"""What wheels are prepared for where no engine can tell."""
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""Docker's words for what Python calls a machine."""
_LAST_LINES: Final = 30
"""How much of a build's output an error shows."""
_CHUNK: Final = 1 << 20
_COMMAND: Final = re.compile(r"The command '.*' returned", re.DOTALL)
_STEP: Final = re.compile(r"Step (\d+)/(\d+) : (.*)")
_PART: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(
    r"((?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?"
    rf"{_PART}(?:/{_PART})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
)
"""What an engine takes as a name: host and port, path, tag."""
_COLOUR: Final = re.compile(r"\x1b\[\d*m")
_CHATTER: Final = (" ---> ", "Removing intermediate container ")
"""Lines that explain no failure."""


def _ignore(_progress: BuildProgress) -> None:
    """Nobody listens."""


async def build_image(
    path: str | Path | None,
    *,
    tags: Sequence[str] = (),
    base: str = DEFAULT_BASE,
    target: str | None = None,
    extras: Sequence[str] = ("server",),
    platform: str | None = None,
    wheels: str | Path | None = None,
    network: str = "none",
    labels: Mapping[str, str] | None = None,
    use_cache: bool = True,
    url: str | None = None,
    progress: Progress = _ignore,
) -> BuiltImage:
    """Build an image that serves an environment.

    Everything is collected as wheels on this machine, so the build itself needs no
    network. Cancelling it ends the build and removes what it left, but for the layers
    that the engine keeps as its cache.

    Args:
        path: Folder of the environment's package, or its wheel. None builds the base
            image: the SDK's server without an environment.
        tags: Names for the image; by default the package's, as `echo-env:latest`.
        base: Image to start from; it has Python 3.11 or newer, and pip.
        target: What to serve, as `openenv-async serve` takes it; by default the one
            environment that the package registers.
        extras: Optional parts of the package to install, as far as it has them.
        platform: As `linux/arm64`; by default the engine's own.
        wheels: A folder that `prepare_wheels` filled; no index is used then.
        network: What the steps of the build may reach: `none`, or a network of the
            engine, such as `default`.
        labels: Labels to add.
        use_cache: Whether layers of earlier builds are used again.
        url: Where the engine listens; by default as Docker's own tools find it.
        progress: Takes lines of what is going on.

    Raises:
        BuildFailed: A step failed; its `code` and text say which, and what to do.
        ProviderError: No engine answers, or there is no such package, or it does not
            say what to serve, or a tag is no name for an image.
    """
    # At once: the engine would refuse a wrong name only after the build.
    wanted = [(name, *_split(name)) for name in tags]
    source, prepared = await anyio.to_thread.run_sync(_checked, path, wheels)
    async with connected(url) as docker, workplace() as folder:
        await ensure_base(
            docker, base, platform=platform, report=reporter(progress, "base")
        )
        contents = await collect(
            source,
            folder,
            extras=extras,
            interpreter=await probe(docker, base),
            prepared=prepared,
            progress=progress,
        )
        served = contents.target(target)
        parameters = {
            "networkmode": network,
            "nocache": "" if use_cache else "1",
            "rm": "1",
            "forcerm": "1",
            "labels": json.dumps(dict(labels or {})),
            "buildargs": json.dumps(contents.arguments(base, served)),
            **({"platform": platform} if platform else {}),
        }
        archive = await anyio.to_thread.run_sync(pack, folder)
        identity = await _build(docker, archive, parameters, progress)
        if not wanted:
            name = contents.default_tag()
            wanted = [(name, *_split(name))]
        return await _named(docker, identity, wanted, contents, served)


async def prepare_wheels(
    path: str | Path | None,
    folder: str | Path,
    *,
    base: str = DEFAULT_BASE,
    extras: Sequence[str] = ("server",),
    platform: str | None = None,
    url: str | None = None,
    progress: Progress = _ignore,
) -> tuple[Path, ...]:
    """Collect what `build_image` needs, for a machine without a network.

    The wheels fit the base image, if an engine has it or can pull it; otherwise they
    fit Python 3.11 on the platform, and `progress` is told so.

    Args:
        path: As `build_image` takes it.
        folder: Where the wheels go; made if need be. What lies there stays.
        base: As `build_image` takes it.
        extras: As `build_image` takes it.
        platform: As `build_image` takes it.
        url: As `build_image` takes it.
        progress: As `build_image` takes it.

    Returns:
        The wheels.

    Raises:
        BuildFailed: pip could not find or build them all.
        ProviderError: There is no such package.
    """
    source, _ = await anyio.to_thread.run_sync(_checked, path, None)
    report = reporter(progress, "base")
    try:
        async with connected(url) as docker:
            await ensure_base(docker, base, platform=platform, report=report)
            interpreter = await probe(docker, base)
    except ProviderError as error:
        machine = (platform or "").removeprefix("linux/").partition("/")[0] or "amd64"
        machine = _MACHINES.get(machine, machine)
        interpreter = dataclasses.replace(_ASSUMED, machine=machine)
        major, minor = interpreter.version
        report(
            f"assuming Python {major}.{minor} on {machine}, because nobody can tell "
            f"what {base!r} has: {error.message}"
        )
    async with workplace() as place:
        await collect(
            source,
            place,
            extras=extras,
            interpreter=interpreter,
            prepared=None,
            progress=progress,
        )
        return await anyio.to_thread.run_sync(deliver, place, Path(folder))


def _checked(
    path: str | Path | None, wheels: str | Path | None
) -> tuple[Source | None, Path | None]:
    """What to build, and from where, if it is there."""
    source = None if path is None else find_source(Path(path))
    if wheels is None:
        return source, None
    folder = Path(wheels).resolve()
    if not folder.is_dir():
        raise ProviderError(
            f"expected a folder of wheels, got {str(wheels)!r}; "
            "`openenv-async build --prepare` makes one",
            fault="caller",
        )
    return source, folder


# The engine's part


class _Aux(msgspec.Struct):
    identity: str = msgspec.field(name="ID", default="")


class _Detail(msgspec.Struct):
    message: str = ""


class _Said(msgspec.Struct):
    """A line of the engine's answer to a build."""

    stream: str = ""
    status: str = ""
    error: str = ""
    detail: _Detail | None = msgspec.field(name="errorDetail", default=None)
    aux: _Aux | None = None


_decoder: msgspec.json.Decoder[_Said] = msgspec.json.Decoder(_Said)


async def _build(
    docker: Docker, archive: Path, parameters: Mapping[str, str], progress: Progress
) -> str:
    """Have the engine build; returns the image's digest."""
    # aiodocker's own `images.build` cannot say which network the steps may reach, and
    # takes an answer that breaks off for a whole one.
    address = f"{docker.docker_host}/{docker.api_version}/build"
    output = _Output(progress)
    with refusals("the engine to build"):
        async with docker.session.post(
            address,
            params=parameters,
            data=_sent(archive, progress),
            headers={"Content-Type": "application/x-tar"},
        ) as response:
            if response.status >= 400:
                raise refused("the engine to build", await response.text())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    output.take(_decoder.decode(line))
    return output.result()


async def _sent(archive: Path, progress: Progress) -> AsyncIterator[bytes]:
    total = (await anyio.Path(archive).stat()).st_size
    done = 0
    async with await anyio.open_file(archive, "rb") as file:
        while chunk := await file.read(_CHUNK):
            yield chunk
            done += len(chunk)
            progress(
                BuildProgress(
                    phase="context",
                    text="sending the build context",
                    done=done,
                    total=total,
                )
            )


class _Output:
    """What the engine says during a build."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._identity = ""
        self._step = ""
        self._done: int | None = None
        self._total: int | None = None
        self._rest = ""
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def take(self, said: _Said) -> None:
        """Report a line; raises BuildFailed when it says that the build failed."""
        if said.error:
            raise self._failure(said.detail.message if said.detail else said.error)
        if said.aux is not None:
            self._identity = said.aux.identity
        # What a step prints comes in pieces of any size, red if it goes to stderr.
        *lines, self._rest = (self._rest + _COLOUR.sub("", said.stream)).split("\n")
        for line in [*lines, *said.status.splitlines()]:
            if line.strip():
                self._take_line(line.rstrip())

    def _take_line(self, line: str) -> None:
        found = _STEP.match(line)
        if found is not None:
            self._done, self._total = int(found[1]), int(found[2])
            self._step = found[3]
            # What an earlier step printed does not explain why this one failed.
            self._last.clear()
        elif not line.startswith(_CHATTER):
            self._last.append(line)
        self._progress(
            BuildProgress(phase="build", text=line, done=self._done, total=self._total)
        )

    def result(self) -> str:
        """The image's digest; raises BuildFailed if the engine never said it."""
        if not self._identity:
            raise self._failure("the engine ended its answer too early")
        return self._identity

    def _failure(self, reason: str) -> BuildFailed:
        what = "the image to be built"
        if self._done is not None:
            step = " ".join(self._step.split())
            short = step if len(step) <= 60 else f"{step[:57]}..."
            what = f"step {self._done} of {self._total} ({short}) to succeed"
            # The engine repeats the whole command, which may have many lines.
            reason = _COMMAND.sub("its command returned", reason)
        return refused(what, reason, "\n".join(self._last))


async def _named(
    docker: Docker,
    identity: str,
    names: Sequence[tuple[str, str, str]],
    contents: Contents,
    target: str,
) -> BuiltImage:
    """Give an image its names; only what was built whole gets them.

    Args:
        docker: The engine.
        identity: The image.
        names: Each as it was given, and its repository and tag.
        contents: What is in the image.
        target: What it serves.
    """
    for name, repository, tag in names:
        with refusals(f"{name!r} to be a name for an image"):
            await docker.images.tag(identity, repository, tag=tag)
    with refusals("the image that was just built"):
        details = await docker.images.inspect(identity)
    package = contents.environment
    return BuiltImage(
        id=identity,
        tags=tuple(name for name, _, _ in names),
        size=int(details["Size"]),
        target=target,
        package="openenv-async" if package is None else package.name,
        version=contents.sdk_version if package is None else package.version,
    )


def _split(name: str) -> tuple[str, str]:
    """Repository and tag; a colon before a slash belongs to a port."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ProviderError(
            "expected a name for an image in small letters, such as 'echo-env:latest' "
            f"or 'registry.example.com/echo-env:1.0', got {name!r}",
            fault="caller",
        )
    return found[1], found[2] or "latest"
