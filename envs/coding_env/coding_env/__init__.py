"""An environment that runs Python code."""

from .client import CodingEnv
from .models import CodeError, CodingAction, CodingObservation, CodingState

__all__ = [
    "CodeError",
    "CodingAction",
    "CodingEnv",
    "CodingObservation",
    "CodingState",
]
