"""The commands, each imported when it is asked for.

`serve` starts a server in a fraction of a second; what the others need, tables and
engines and checks, takes longer to import than all of that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

__all__ = ["COMMANDS", "LazyGroup"]

COMMANDS: Final = (
    "serve",
    "rollout",
    "show",
    "replay",
    "init",
    "validate",
    "bench",
    "build",
    "cleanup",
    "doctor",
)
"""Each is a function of the module of its name, in the order of `--help`."""


class LazyGroup(TyperGroup):
    """Commands that are imported by name.

    Contexts have no type here, because older versions of typer take them from click
    and newer ones have their own.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them, for `--help` and shell completion."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        function: Callable[..., Any] = getattr(module, cmd_name)
        single = typer.Typer(
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode="markdown",
        )
        single.command(cmd_name)(function)
        return cast(TyperCommand, get_command(single))
