"""What a run directory says about itself: versions, settings, environment, columns."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from ...arrays import encodable
from ...client.description import EnvironmentDescription
from ...errors import RunDamaged, RunError, RunMismatch
from ...version import VERSION
from .parts import is_begun

__all__ = [
    "FORMAT_VERSION",
    "EnvironmentRecord",
    "EpisodeFormat",
    "Manifest",
    "check_new",
    "check_resumable",
    "distribution_versions",
    "read_manifest",
    "sync_folder",
    "write_manifest",
]

FORMAT_VERSION: Final = 1
"""Raised whenever an older reader could misunderstand a run."""

EpisodeFormat = Literal["jsonl", "parquet"]
"""What episodes end up as: JSON Lines compressed with zstd, or Parquet."""

_NAME: Final = "manifest.json"

_COLUMNS: Final = {
    "id": "TASK/INDEX: the episode's name, unique in the run",
    "group": "id of the task, which all episodes of a group share",
    "seed": "what the environment was reset with",
    "status": "terminated, truncated, environment_failed, policy_failed or "
    "infrastructure_failed",
    "reason": "who truncated the episode; empty for every other status",
    "failure": "for the three failures: name, message, traceback, and whether the "
    "environment executed the last request; empty for every other status",
    "return": "undiscounted sum of the rewards; null for failures, never zero for them",
    "task_spec": "JSON text: the task's seed, options, metadata and priority",
    "earlier_attempts": "JSON text: what failed before and was run again",
    "extras": "JSON text: what the policy said beside its actions",
    "metadata": "JSON text: the caller's own",
    "initial_observation": "JSON text; 'null' if the reset failed",
    "steps.action": "JSON text",
    "steps.observation": "JSON text: after the action",
    "steps.token_ids": "what the policy's extras hold under this name; so do "
    "prompt_token_ids and logprobs",
    "nonfinite": "JSON text: rewards that JSON has no number for, by step; 'return' "
    "too; empty if there are none",
    "arrays": 'dtype, shape and bytes of what JSON texts name as {"$array": INDEX} '
    'or {"$bytes": INDEX}: in Parquet in the column data, in JSON Lines at offset in '
    "the file beside, with zlib's CRC-32; C order; an empty dtype is plain bytes",
    "*_ns": "nanoseconds",
}
"""What names do not say by themselves."""


class EnvironmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which environment the episodes are of."""

    name: str
    """As its server calls it."""
    target: str = ""
    """Where it was found: an address, or what `openenv-async serve` takes."""
    source: str = ""
    """The folder, on the machine of the run, with the target's package or module; empty
    where it was installed, or ran already."""
    image: str = ""
    """The container image that served it."""
    metadata: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """What it says about itself at `/metadata`."""
    # Not `schema`: that is the name of a function of msgspec's.
    json_schema: dict[str, object] = msgspec.field(
        name="schema", default_factory=dict[str, object]
    )
    """JSON Schema of action, observation and state."""

    @classmethod
    def of(
        cls,
        description: EnvironmentDescription,
        *,
        target: str = "",
        image: str = "",
        source: str = "",
    ) -> EnvironmentRecord:
        """What a server says about an environment, and where that was found."""
        return cls(
            name=description.name,
            target=target,
            source=source,
            image=image,
            metadata=msgspec.to_builtins(description.metadata),
            json_schema={
                "action": description.action,
                "observation": description.observation,
                "state": description.state,
            },
        )


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed to read the episodes of a run, and to go on with it."""

    environment: EnvironmentRecord
    seed: int
    """The run's own, from which those of tasks without a seed derive."""
    config: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """What decides how episodes turn out, such as the policy: the same on resuming."""
    runtime: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """What only decides how many there are, and how fast they come; the latest, as it
    may differ on resuming."""
    episode_format: EpisodeFormat = "jsonl"
    format_version: int = FORMAT_VERSION
    created: str = msgspec.field(default_factory=lambda: _now())
    """ISO 8601, UTC."""
    versions: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Of distributions that matter; those of this package, of Python and of what
    decides how values are written are added when the run begins."""
    columns: dict[str, str] = msgspec.field(default_factory=_COLUMNS.copy)
    """What the columns hold, as far as their names do not say it."""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def distribution_versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Versions of this package, of Python and of installed distributions; blocks.

    Args:
        others: Distributions to name beside those that every run names; one that is
            not installed is left out.
    """
    versions = {"openenv_async": VERSION, "python": platform.python_version()}
    for name in ("msgspec", "zstandard", "pyarrow", *others):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None if there is none.

    Raises:
        RunDamaged: It is no manifest.
        RunError: It can't be read, or was written by a newer version.
    """
    path = folder / _NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"expected to read {str(path)!r}: {error}") from error
    if not text.strip():
        raise RunDamaged(
            f"expected a manifest in {str(path)!r}, got an empty file: whatever made "
            "it was no run, or the disk lost what it held",
            detail={"file": str(path)},
        )
    try:
        # First, because a newer version may have other fields.
        version = msgspec.json.decode(text, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise RunError(
                f"expected format version {FORMAT_VERSION} or older in {str(path)!r}, "
                f"got {version}: read it with a newer openenv_async",
                fault="caller",
            )
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunDamaged(
            f"expected a manifest in {str(path)!r}, got something else: {error}"
        ) from error


class _Version(msgspec.Struct):
    format_version: int


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest; wholly or not at all, whenever it is interrupted."""
    encoded = msgspec.json.encode(manifest, enc_hook=encodable)
    temporary = folder / f"{_NAME}.tmp"
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(encoded, indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_new(found: Manifest | None, folder: Path) -> None:
    """Make sure that there is no run yet, or none with an episode.

    Raises:
        RunError: There is one.
    """
    if found is not None and is_begun(folder):
        raise RunError(
            f"expected no run at {str(folder)!r} yet, got one of {found.created}: "
            "resume it, or choose another folder",
            fault="caller",
        )


def check_resumable(found: Manifest, wanted: Manifest, folder: Path) -> None:
    """Make sure that new episodes fit to those which are there.

    Raises:
        RunMismatch: They differ in something that decides how episodes turn out.
    """
    pairs: dict[str, tuple[object, object]] = {
        "environment": (found.environment.name, wanted.environment.name),
        "schema": (
            _plain(found.environment.json_schema),
            _plain(wanted.environment.json_schema),
        ),
        "seed": (found.seed, wanted.seed),
        "format": (found.episode_format, wanted.episode_format),
    }
    config = _plain(found.config), _plain(wanted.config)
    for name in sorted({*config[0], *config[1]}):
        pairs[name] = (config[0].get(name), config[1].get(name))
    for name, (before, now) in pairs.items():
        if before != now:
            raise RunMismatch(
                f"expected {name} {before!r} as in the run at {str(folder)!r}, "
                f"got {now!r}: episodes of both would not fit together",
                detail={"setting": name, "expected": before, "got": now},
            )


def _plain(config: Mapping[str, object]) -> dict[str, object]:
    """As it is read back, where tuples are lists."""
    encoded = msgspec.json.encode(config, enc_hook=encodable)
    return msgspec.json.decode(encoded, type=dict[str, object])
