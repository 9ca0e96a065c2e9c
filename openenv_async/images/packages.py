"""Finds the packages that go into an image, and reads what their wheels say."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Final, cast

from ..errors import ProviderError

__all__ = ["Package", "Source", "find_sdk", "find_source", "read_wheel"]

_ENTRY_POINTS: Final = "openenv_async.environments"
_SDK: Final = "openenv-async"
_REQUIRED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The name at the beginning of a requirement."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder that holds a package, or a wheel of it.

    Args:
        path: The folder with its `pyproject.toml`, or the wheel.
        name: Name of the distribution; empty where the folder does not say.
        backend: Distributions that it takes to build it.
    """

    path: Path
    name: str = ""
    backend: tuple[str, ...] = ()

    @property
    def is_wheel(self) -> bool:
        """Whether there is nothing to build."""
        return self.path.suffix == ".whl"

    def can_build_here(self) -> bool:
        """Whether what it takes to build it is installed here."""
        try:
            for name in self.backend:
                importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """What a wheel says of itself.

    Args:
        wheel: The file.
        name: Name of the distribution.
        version: Its version.
        summary: What it is, in one line; may be empty.
        extras: Its optional parts.
        environments: Names of the environments that it registers.
    """

    wheel: Path
    name: str
    version: str
    summary: str
    extras: frozenset[str]
    environments: tuple[str, ...]


def find_source(path: Path) -> Source:
    """Find a package in a folder, or take a wheel; reads small files.

    Raises:
        ProviderError: There is no package.
    """
    if path.suffix == ".whl" and path.is_file():
        return Source(path)
    if not path.is_dir():
        raise ProviderError(
            "expected the folder of an environment's package, or its wheel, got "
            f"{str(path)!r}: there is no such {'file' if path.suffix else 'folder'}",
            fault="caller",
        )
    project = path / "pyproject.toml"
    try:
        table = tomllib.loads(project.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProviderError(
            f"expected a package, got {str(path)!r} without a pyproject.toml: an "
            "environment is a package of its own, with an entry point in the group "
            f"{_ENTRY_POINTS!r}",
            fault="caller",
        ) from error
    except (OSError, ValueError) as error:
        raise ProviderError(
            f"expected a readable {project}: {error}", fault="caller"
        ) from error
    return Source(path.resolve(), _name(table), _backend(table))


def _name(table: dict[str, object]) -> str:
    project = table.get("project")
    name = cast(dict[str, object], project or {}).get("name")
    return name if isinstance(name, str) else ""


def _backend(table: dict[str, object]) -> tuple[str, ...]:
    system = cast(dict[str, object], table.get("build-system") or {})
    required = cast(list[str], system.get("requires") or ["setuptools"])
    names = map(_REQUIRED.match, required)
    return tuple(name.group() for name in names if name is not None)


def find_sdk() -> Source | None:
    """Find the checkout that this SDK runs from; None if it was installed."""
    # An editable installation runs from there, and so does a plain PYTHONPATH.
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return None
    source = find_source(root)
    return source if source.name == _SDK else None


def read_wheel(wheel: Path) -> Package:
    """Read what a wheel says of itself; blocks while it reads.

    Raises:
        ProviderError: It is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            (info,) = {
                name.split("/")[0]
                for name in archive.namelist()
                if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            }
            found = importlib.metadata.PathDistribution(
                zipfile.Path(archive, f"{info}/")
            )
            metadata = found.metadata
            return Package(
                wheel=wheel,
                name=metadata["Name"],
                version=metadata["Version"],
                summary=metadata["Summary"] or "",
                extras=frozenset(metadata.get_all("Provides-Extra") or ()),
                environments=tuple(
                    entry.name
                    for entry in found.entry_points
                    if entry.group == _ENTRY_POINTS
                ),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ProviderError(
            f"expected a wheel at {str(wheel)!r}: {error}", fault="caller"
        ) from error
