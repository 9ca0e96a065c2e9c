"""Entry point: builds the command and turns our errors into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from .. import version
from ..errors import OpenEnvError
from .commands import LazyGroup

__all__ = ["app", "main"]

_HELP: Final = """Async-first environments for agentic RL.

Exit status of all commands: 0 on success; 1 when what was asked was tried and failed
(a server or an engine that is not there, a check, a damaged run); 2 when the command
line, or what it names, is wrong (an option, an environment, a policy, a file of tasks,
the folder of a run); 130 after Ctrl-C and 143 after SIGTERM.
"""

app = typer.Typer(
    name="openenv-async",
    cls=LazyGroup,
    help=_HELP,
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
    pass


def main() -> None:
    """Run the command.

    Exit status, the same for all commands: 0 on success; 1 when what was asked was
    tried and failed; 2 when the command line, or what it names, is wrong, so that
    trying it again is of no use; 128 and the signal's number when it was interrupted.
    """
    try:
        app()
    except OpenEnvError as error:
        print(f"openenv-async: {error}", file=sys.stderr)
        sys.exit(2 if error.fault == "caller" else 1)
