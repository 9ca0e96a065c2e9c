"""Prepares the context of a build: a folder with all wheels and the Dockerfile."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tarfile
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

from .. import version
from ..errors import BuildFailed, ProviderError
from .packages import Package, Source, find_sdk
from .progress import BuildProgress, Phase, Progress
from .wheels import Interpreter, Report, build_wheel, collect_wheels

__all__ = ["Contents", "collect", "deliver", "pack", "reporter", "workplace"]

_SDK: Final = "openenv-async"
_INIT: Final = "dumb-init"
"""The first process of a container: passes signals on, and reaps orphans."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes into an image.

    Args:
        environment: The environment's package; None for the SDK's base image.
        extras: Its optional parts to install.
        sdk_wheel: The SDK's wheel, from the context.
        sdk_version: Its version.
    """

    environment: Package | None
    extras: tuple[str, ...]
    sdk_wheel: str
    sdk_version: str

    def target(self, wanted: str | None) -> str:
        """What to serve: what is wanted, or the one environment that there is."""
        package = self.environment
        if package is None:
            return ""
        if wanted:
            return wanted
        if len(package.environments) != 1:
            names = ", ".join(package.environments) or "none"
            raise ProviderError(
                f"expected one environment in {package.name!r} or a target, got "
                f"{names}; `--target` says what to serve",
                fault="caller",
            )
        return package.environments[0]

    def default_tag(self) -> str:
        """The package's name without what all have in common."""
        if self.environment is None:
            return f"{_SDK}:{self.sdk_version}"
        return f"{self.environment.name.lower().removeprefix(f'{_SDK}-')}:latest"

    def arguments(self, base: str, target: str) -> dict[str, str]:
        """The Dockerfile's arguments."""
        arguments = {
            "BASE_IMAGE": base,
            "SDK": self.sdk_wheel,
            "SDK_VERSION": self.sdk_version,
        }
        if self.environment is not None:
            arguments |= {
                "ENVIRONMENT": f"own/{self.environment.wheel.name}",
                "EXTRAS": ",".join(self.extras),
                "TARGET": target,
                "NAME": self.environment.name,
                "VERSION": self.environment.version,
                "SUMMARY": self.environment.summary,
            }
        return arguments


@asynccontextmanager
async def workplace() -> AsyncGenerator[Path]:
    """A temporary folder, which goes even when we are cancelled.

    Raises:
        BuildFailed: There is no room for it, or none left for what goes into it.
    """
    try:
        folder = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp))
    except OSError as error:
        raise BuildFailed(f"expected a temporary folder: {error}") from error
    try:
        await anyio.Path(folder / "context/wheels").mkdir(parents=True)
        yield folder
    except OSError as error:
        raise BuildFailed(
            f"expected room to build in {str(folder)!r}: {error}; TMPDIR chooses "
            "another disk",
            code="disk_full" if error.errno == errno.ENOSPC else None,
        ) from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(
                lambda: shutil.rmtree(folder, ignore_errors=True)
            )


def reporter(progress: Progress, phase: Phase) -> Report:
    """Turns lines into progress of a phase."""
    return lambda text: progress(BuildProgress(phase=phase, text=text))


async def collect(
    source: Source | None,
    folder: Path,
    *,
    extras: Sequence[str],
    interpreter: Interpreter,
    prepared: Path | None,
    progress: Progress,
) -> Contents:
    """Fill a workplace.

    Args:
        source: The environment's package; None for the SDK alone.
        folder: The workplace.
        extras: Optional parts of the package to install, as far as it has them.
        interpreter: What the wheels are for.
        prepared: Wheels made earlier; no index is used then.
        progress: Takes pip's output.

    Raises:
        BuildFailed: pip could not find or build all wheels.
        ProviderError: What pip built is no wheel.
    """
    report = reporter(progress, "wheels")
    requirements = [_INIT]
    own: list[str] = []
    sdk = await anyio.to_thread.run_sync(find_sdk)
    if sdk is None:
        requirements.append(f"{_SDK}[cli]=={version.VERSION}")
    else:
        package = await build_wheel(sdk, folder, prepared=prepared, report=report)
        requirements.append(f"{package.wheel}[cli]")
        own.append(package.wheel.name)
    environment: Package | None = None
    found: tuple[str, ...] = ()
    if source is not None:
        environment = await build_wheel(
            source, folder, prepared=prepared, report=report
        )
        found = tuple(extra for extra in extras if extra in environment.extras)
        brackets = f"[{','.join(found)}]" if found else ""
        requirements.append(f"{environment.wheel}{brackets}")
        own.append(environment.wheel.name)
    context = folder / "context"
    await collect_wheels(
        requirements,
        context / "wheels",
        temporary=folder,
        interpreter=interpreter,
        prepared=prepared,
        report=report,
    )
    sdk_wheel = await anyio.to_thread.run_sync(_arrange, context, own)
    return Contents(
        environment=environment,
        extras=found,
        sdk_wheel=sdk_wheel,
        sdk_version=sdk_wheel.split("-")[1],
    )


def _arrange(context: Path, own: Sequence[str]) -> str:
    """Lay a context out as the Dockerfile expects it; returns the SDK's wheel."""
    shutil.copyfile(Path(__file__).with_name("Dockerfile"), context / "Dockerfile")
    (context / "README.md").touch()
    # Apart from what others made, which the engine then need not install anew.
    (context / "own").mkdir()
    for name in own:
        (context / "wheels" / name).rename(context / "own" / name)
    (sdk,) = context.glob("*/openenv_async-[0-9]*.whl")
    return str(sdk.relative_to(context))


def pack(folder: Path) -> Path:
    """Put a workplace's context into an archive."""
    archive = folder / "context.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder / "context", arcname=".")
    return archive


def deliver(folder: Path, destination: Path) -> tuple[Path, ...]:
    """Copy a workplace's wheels to where they are kept."""
    destination.mkdir(parents=True, exist_ok=True)
    wheels = sorted(folder.glob("context/*/*.whl"))
    return tuple(Path(shutil.copy2(wheel, destination)) for wheel in wheels)
