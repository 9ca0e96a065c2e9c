"""`openenv-async bench`: how fast an environment steps."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from ..benchmark import SpeedReport, measure_speed
from ..scaffold import importable_target, search_path

__all__ = ["bench"]


def bench(
    target: Annotated[
        str,
        typer.Argument(
            metavar="URL_OR_ENV",
            help="The address of a running server, what `serve` takes, or the folder "
            "of a package: then a server is started for it.",
        ),
    ],
    environment: Annotated[
        str | None, typer.Option(help="Which of the server's environments.")
    ] = None,
    sessions: Annotated[
        int, typer.Option(min=1, help="Sessions at the same time.")
    ] = 64,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="For each way of stepping.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(help="Of actions and episodes.")] = 0,
    token: Annotated[
        str | None,
        typer.Option(envvar="OPENENV_ASYNC_TOKEN", help="The server's bearer token."),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the results as JSON.")
    ] = False,
) -> None:
    """Step an environment as fast as it goes, with random valid actions.

    One session by itself, many sessions that do not wait for each other, and the same
    number as a batch. Exit status 1 if no step was answered.
    """

    async def run() -> SpeedReport:
        return await measure_speed(
            importable_target(target),
            environment=environment,
            token=token,
            sessions=sessions,
            seconds=seconds,
            seed=seed,
            variables=search_path(target),
        )

    report = anyio.run(run)
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _show(report)
    if not all(row.steps for row in report.rows):
        raise typer.Exit(1)


def _show(report: SpeedReport) -> None:
    table = Table(title=f"{report.environment}, runs {report.execution}", box=None)
    for heading in ("stepping", "sessions", "steps/s", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "stepping" else "right")
    for heading in ("environment us", "queue us", "resets", "failures"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        failures = ", ".join(f"{count} {kind}" for kind, count in row.failures.items())
        table.add_row(
            row.mode,
            f"{row.sessions:,}",
            f"{row.steps_per_second:,.0f}",
            f"{row.p50_ms:,.3f}",
            f"{row.p99_ms:,.3f}",
            f"{row.environment_us:,.1f}",
            f"{row.queue_us:,.1f}",
            f"{row.resets:,}",
            failures or "0",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("p50 and p99 are of a call: a step, or all steps of a batch.")
