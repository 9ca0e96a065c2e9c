"""`openenv-async doctor`: what is missing on this machine, and how to get it."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import anyio
import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from ..diagnosis import EXAMINATIONS, Finding, Status, diagnose

__all__ = ["doctor"]

_STYLES: Final[dict[Status, str]] = {
    "ok": "green",
    "missing": "yellow",
    "broken": "red",
}


def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Fail if this is missing, too; one of " + ", ".join(EXAMINATIONS),
        ),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print what was found as JSON.")
    ] = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it.

    Exit status 1 if something is broken that everything needs, or that `--require`
    names; what is only missing is not needed by everybody.
    """
    console = Console(highlight=False, soft_wrap=True)
    findings: list[Finding] = []

    async def run() -> None:
        async for finding in diagnose(required=require or ()):
            findings.append(finding)
            if not as_json:
                _show(console, finding)

    anyio.run(run)
    if as_json:
        sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(1)


def _show(console: Console, finding: Finding) -> None:
    style = _STYLES[finding.status]
    console.print(
        f"[{style}]{finding.status:<8}[/] {finding.name:<13} {escape(finding.found)}"
    )
    if finding.advice:
        console.print(f"{'':<22} -> {escape(finding.advice)}")
