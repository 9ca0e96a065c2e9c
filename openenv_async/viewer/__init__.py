"""Recorded runs in the debug pane: what `openenv-async show RUN --web` serves."""

from .app import create_viewer_app
from .serving import run_viewer

__all__ = ["create_viewer_app", "run_viewer"]
