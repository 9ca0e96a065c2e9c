"""Importing OpenEnv without the half that its server does not need.

`openenv.core.env_server` imports Gradio for a web page of its own, which is most of the
seconds and of the memory that the import takes. Our server has its own page.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types
from collections.abc import Generator
from typing import Any, Final

__all__ = ["import_openenv"]

_SERVER: Final = "openenv.core.env_server"
_PAGE: Final = "gradio"


class _Standin(types.ModuleType):
    """A module whose every attribute can be called, subscripted and asked for more."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Standin(f"{self.__name__}.{name}")

    def __call__(self, *_arguments: object, **_named: object) -> Any:
        return self


def import_openenv() -> None:
    """Import OpenEnv's server half, with a stand-in for Gradio while that lasts.

    Only OpenEnv's own modules see the stand-in: what an environment imports afterwards
    is the real thing. Nothing happens where OpenEnv is not installed, where its web
    page is asked for, or where one of the two is imported already.
    """
    asked = os.environ.get("ENABLE_WEB_INTERFACE", "").lower() in ("1", "true", "yes")
    if asked or _PAGE in sys.modules or _SERVER in sys.modules:
        return
    with _standing_in(), contextlib.suppress(ImportError):
        importlib.import_module(_SERVER)


@contextlib.contextmanager
def _standing_in() -> Generator[None, None, None]:
    sys.modules[_PAGE] = _Standin(_PAGE)
    try:
        yield
    finally:
        del sys.modules[_PAGE]
