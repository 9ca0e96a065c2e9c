"""Entry point: builds the command and turns our errors into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import version
from ..errors import OpenEnvError
from .commands import LazyGroup

__all__ = ["app", "main"]

app = typer.Typer(
    name="openenv-async",
    cls=LazyGroup,
    help="Async-first environments for agentic RL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (typer's callback)
    if wanted:
        print(version.VERSION)
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Async-first environments for agentic RL."""


def main() -> None:
    """Run the command.

    Exit status: 0 on success, 1 when the operation failed, 2 for wrong usage.
    """
    try:
        app()
    except OpenEnvError as error:
        print(f"openenv-async: {error}", file=sys.stderr)
        sys.exit(2 if error.fault == "caller" else 1)
