"""The parts of a run: which files hold its episodes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ...errors import RunError

__all__ = ["Part", "is_begun", "list_parts"]


class Part(NamedTuple):
    """A file of episodes."""

    number: int
    path: Path

    @property
    def is_sealed(self) -> bool:
        """Whether it is a Parquet file."""
        return self.path.suffix == ".parquet"


def is_begun(folder: Path) -> bool:
    """Whether a run has anything that a new one in its place would lose.

    Raises:
        RunError: The folder can't be read.
    """
    if (folder / "attempts.jsonl").exists():
        return True  # Of episodes that were dropped to play them again.
    return any(part.path.stat().st_size for part in list_parts(folder))


def list_parts(folder: Path) -> list[Part]:
    """The parts of a run in order, each once.

    Raises:
        RunError: The folder can't be read.
    """
    found: dict[int, Part] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise RunError(f"expected a run at {str(folder)!r}: {error}") from error
    for name in names:
        matched = re.fullmatch(r"episodes-(\d{5,})\.(jsonl\.zst|parquet)", name)
        if matched is not None:
            # Of both kinds, the Parquet file comes last, and counts.
            number = int(matched[1])
            found[number] = Part(number, folder / name)
    return [found[number] for number in sorted(found)]
