"""The packages of the extra `rollout`, imported when they are first needed."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from ...errors import LocalProtocolError

__all__ = ["arrow_json", "parquet", "pyarrow", "zstandard"]

# `Any`, because pyarrow ships no types.


@functools.cache
def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LocalProtocolError(
            f"expected the package {name.partition('.')[0]!r} to read and write "
            f"episodes: pip install 'openenv-async[rollout]' ({error})"
        ) from error


def zstandard() -> Any:
    """The compression of JSON lines."""
    return _load("zstandard")


def pyarrow() -> Any:
    """Tables in memory."""
    return _load("pyarrow")


def parquet() -> Any:
    """Tables in files."""
    return _load("pyarrow.parquet")


def arrow_json() -> Any:
    """Tables from JSON lines."""
    return _load("pyarrow.json")
