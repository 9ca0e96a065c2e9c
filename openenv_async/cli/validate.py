"""`openenv-async validate`: does an environment keep what every environment has to?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from ..conformance import CHECKS, Check, run_checks, subject_of
from ..errors import LocalProtocolError
from ..scaffold import importable_target

__all__ = ["validate"]


def validate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ENV_OR_URL",
            help="What `serve` takes, the folder of a package, or the address of a "
            "running server.",
        ),
    ],
    environment: Annotated[
        str | None, typer.Option(help="Which of the server's environments.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="Only this: " + ", ".join(CHECKS)),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of an episode.")] = 16,
    options: Annotated[
        str | None, typer.Option(metavar="JSON", help="Options for every reset.")
    ] = None,
    actions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Play these actions, one as JSON a line, instead of random ones.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="What may differ, such as '$.elapsed'."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each call.")
    ] = 30.0,
    token: Annotated[
        str | None,
        typer.Option(envvar="OPENENV_ASYNC_TOKEN", help="The server's bearer token."),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the results as JSON.")
    ] = False,
) -> None:
    """Check an environment: schema, determinism, errors, concurrency, leaks, close.

    Exit status 1 if a check fails. What cannot be checked, as the end of an episode
    that has none, is said so and does not fail.
    """
    unknown = [name for name in only or () if name not in CHECKS]
    if unknown:
        raise LocalProtocolError(f"expected one of {list(CHECKS)!r}, got {unknown!r}")
    details = {
        "token": token,
        "steps": steps,
        "timeout": timeout,
        "options": None if options is None else _decoded(options, "--options"),
        "script": [] if actions is None else _script(actions),
        "ignore": ("$.metadata", *(ignore or ())),
    }
    console = Console(highlight=False, soft_wrap=True)
    checks: list[Check] = []

    async def run() -> None:
        where = importable_target(target)
        async with subject_of(where, environment=environment, **details) as subject:
            async for check in run_checks(subject, only):
                checks.append(check)
                if not as_json:
                    _show(console, check)

    anyio.run(run)
    failed = [check for check in checks if not check.passed]
    if as_json:
        sys.stdout.write(msgspec.json.encode(checks).decode() + "\n")
    else:
        skipped = sum(check.skipped for check in checks)
        passed = len(checks) - len(failed) - skipped
        console.print(f"{passed} passed, {len(failed)} failed, {skipped} not checked")
    if failed:
        raise typer.Exit(1)


def _show(console: Console, check: Check) -> None:
    word, style = "passed", "green"
    if check.skipped:
        word, style = "skipped", "yellow"
    elif not check.passed:
        word, style = "failed", "red"
    console.print(
        f"[{style}]{word:<8}[/] {check.name:<22} {check.seconds:>6.2f} s  "
        f"{escape(check.detail)}"
    )


def _decoded(text: str, option: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise LocalProtocolError(
            f"expected JSON as {option}, got {text!r}: {error}"
        ) from error


def _script(path: Path) -> list[object]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_decoded(line, f"a line of {path}") for line in lines if line.strip()]
