"""Runs code that nobody vouches for: a fenced worker process per session."""

from .execution import Execution
from .limits import Limits
from .pool import PoolConfig, SandboxPool
from .sandbox import Sandbox

__all__ = ["Execution", "Limits", "PoolConfig", "Sandbox", "SandboxPool"]
