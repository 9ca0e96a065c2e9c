"""`openenv-async init`: a new environment that works at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..scaffold import make_environment, names_of

__all__ = ["init"]


def init(
    name: Annotated[str, typer.Argument(help="What it is called, as in 'word-guess'.")],
    path: Annotated[
        Path, typer.Option(file_okay=False, help="Where its folder goes.")
    ] = Path("."),
) -> None:
    """Make a package with an environment, its client, tests, README and Dockerfile.

    It passes `validate` and its own tests as it is. Nothing is overwritten.
    """
    folder = make_environment(name, parent=path)
    package = names_of(name).package
    print(f"made {folder}; next:")
    for command, why in (
        (f"pip install -e '{folder}[server,test]'", ""),
        (f"openenv-async validate {folder}", "what every environment has to keep"),
        (f"cd {folder} && pytest", "its own tests"),
        (f"openenv-async serve {package}", "at ws://127.0.0.1:8000"),
        (f"openenv-async build {folder}", "a container image"),
    ):
        print(f"  {command}" + (f"  # {why}" if why else ""))
