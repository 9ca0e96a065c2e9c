"""A module that takes longer to import than any test waits."""

from __future__ import annotations

import time

from tests.environments import ScriptedEnvironment

__all__ = ["ScriptedEnvironment"]

time.sleep(60)
