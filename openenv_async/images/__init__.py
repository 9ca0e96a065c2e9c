"""Builds container images from the packages of environments."""

from .building import DEFAULT_BASE, build_image, prepare_wheels
from .progress import BuildProgress, BuiltImage, Phase, Progress

__all__ = [
    "DEFAULT_BASE",
    "BuildProgress",
    "BuiltImage",
    "Phase",
    "Progress",
    "build_image",
    "prepare_wheels",
]
