"""What an environment's distribution says of itself at length."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from typing import Final

from ..environment import ENTRY_POINTS, EnvironmentSpec

__all__ = ["readme_of"]

_NAME: Final = re.compile(r"\w+")


def readme_of(spec: EnvironmentSpec) -> str:
    """The README: the environment's own, or else that of the package it comes in.

    Empty where there is none. Reads files the first time, so it may block then.
    """
    package = _NAME.match(spec.target)
    return spec.metadata.readme or (_description(package[0]) if package else "")


@functools.cache
def _description(package: str) -> str:
    """The long description of the distribution that registers a package."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if package in (entry.name, entry.module.partition(".")[0]) and entry.dist:
            return str(entry.dist.metadata.json.get("description", ""))
    return ""
