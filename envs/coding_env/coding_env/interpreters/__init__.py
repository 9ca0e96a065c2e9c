"""The interpreters that run code in a worker, and the plain data they exchange."""

from __future__ import annotations

from .base import (
    Ask,
    ErrorInfo,
    Interpreter,
    Kind,
    Outcome,
    make_interpreter,
    warm_up,
)
from .literals import LiteralFault, from_literal, to_literal

__all__ = ["Ask", "ErrorInfo", "Interpreter", "Kind", "LiteralFault", "Outcome"]
__all__ += ["from_literal", "make_interpreter", "to_literal", "warm_up"]
