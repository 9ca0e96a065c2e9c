"""Policies to begin with: random, scripted, a chat model, a PyTorch module."""

from .chat import ChatPolicy
from .random import RandomPolicy
from .scripted import ScriptedPolicy
from .torch import Categorical, TorchPolicy

__all__ = [
    "Categorical",
    "ChatPolicy",
    "RandomPolicy",
    "ScriptedPolicy",
    "TorchPolicy",
]
