"""Makes new packages of environments, and finds what is in one that is there."""

from .folders import (
    importable_module,
    importable_target,
    search_path,
    search_variables,
    source_folder,
)
from .making import Names, make_environment, names_of

__all__ = [
    "Names",
    "importable_module",
    "importable_target",
    "make_environment",
    "names_of",
    "search_path",
    "search_variables",
    "source_folder",
]
