"""The version of this distribution."""

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
"""Kept equal to pyproject.toml by a test; reading metadata at import takes longer."""
