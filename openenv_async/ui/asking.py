"""Whether the environment asks for the debug pane, as OpenEnv's servers read it."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["WEB_VARIABLE", "is_web_asked_for"]

WEB_VARIABLE: Final = "ENABLE_WEB_INTERFACE"


def is_web_asked_for() -> bool:
    """Whether `ENABLE_WEB_INTERFACE` is true, 1 or yes, in any case.

    Read here, and not only in `cli`, because `uvicorn package.server.app:app` has no
    command line of ours: the variable is how whoever starts it asks for the pane.
    """
    return os.environ.get(WEB_VARIABLE, "").strip().lower() in ("1", "true", "yes")
