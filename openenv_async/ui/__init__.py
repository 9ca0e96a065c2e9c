"""The debug pane: files for a browser, served as they lie in this folder."""

from .asking import WEB_VARIABLE, is_web_asked_for
from .pane import Pane, is_pane_path, pane_hint_routes

__all__ = [
    "WEB_VARIABLE",
    "Pane",
    "is_pane_path",
    "is_web_asked_for",
    "pane_hint_routes",
]
