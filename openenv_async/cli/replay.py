"""`openenv-async replay`: plays a run's actions again and looks for differences."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from ..errors import LocalProtocolError
from ..providers import LocalProvider, Provider
from ..providers.docker import DockerProvider
from ..rollout.episodes import Episode
from ..rollout.runs import EnvironmentRecord, ReplayReport, Run, open_run
from ..rollout.runs import replay as play_again
from ..scaffold import importable_target, search_path, search_variables

__all__ = ["replay"]

_SHOWN = 10
"""Differences that are printed."""


def replay(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    target: Annotated[
        str,
        typer.Option(
            "--env",
            metavar="ENV_OR_URL",
            help="Where to play, if not where the run was played.",
            show_default=False,
        ),
    ] = "",
    image: Annotated[
        str, typer.Option(help="Container image to play in.", show_default=False)
    ] = "",
    environment: Annotated[
        str | None, typer.Option(help="Which of the server's environments.")
    ] = None,
    episode: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK/INDEX", help="Only this episode; may be repeated."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Episodes at a time.")
    ] = 16,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="What may differ, such as 'observation.metadata.*'."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How far numbers may be apart, relatively.")
    ] = 0.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each call.")
    ] = 60.0,
    token: Annotated[
        str | None,
        typer.Option(envvar="OPENENV_ASYNC_TOKEN", help="The server's bearer token."),
    ] = None,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
) -> None:
    """Check that an environment is deterministic: play a run again, with its seeds.

    Every episode gets its recorded actions; observations, rewards and ends are
    compared up to the episode's first difference. Exit status 1 if there is one.
    """
    opened = open_run(run)
    url, provider = _where(opened, target, image)
    report = _run(
        _chosen(opened, episode),
        url=url,
        provider=provider,
        environment=environment or opened.manifest.environment.name,
        token=token,
        concurrency=concurrency,
        ignore=ignore or (),
        tolerance=tolerance,
        timeout=timeout,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _show(report)
    if report.differing:
        raise typer.Exit(1)


def _where(run: Run, target: str, image: str) -> tuple[str | None, Provider | None]:
    """The address, or what starts a server."""
    if target and image:
        raise LocalProtocolError("expected --env or --image, and not both")
    record = run.manifest.environment
    if not target and not image and record.source:
        return None, _as_recorded(record)
    if not target and not image:
        target, image = record.target, record.image
    if image:
        return None, DockerProvider(image)
    if not target:
        raise LocalProtocolError(
            "expected --env or --image: the run does not say where it was played"
        )
    target, variables = importable_target(target), search_path(target)
    if "://" in target:
        return target, None
    return None, LocalProvider(target, environment=variables)


def _as_recorded(record: EnvironmentRecord) -> Provider:
    """What starts the environment of a run from the folder that it was played from."""
    if not Path(record.source).is_dir():
        raise LocalProtocolError(
            f"expected {record.target!r} in {record.source!r} as when the run was "
            "played, got no such folder: name where it is now with --env"
        )
    variables = search_variables(record.source)
    return LocalProvider(record.target, environment=variables)


def _chosen(run: Run, ids: list[str] | None) -> Iterable[Episode[Any, Any]]:
    def one_by_one(ids: list[str]) -> Iterator[Episode[Any, Any]]:
        for id in ids:
            yield run.episode(id)

    return one_by_one(ids) if ids else run


def _run(episodes: Iterable[Episode[Any, Any]], **options: Any) -> ReplayReport:
    async def run() -> ReplayReport:
        return await play_again(episodes, options.pop("url"), **options)

    return anyio.run(run)


def _show(report: ReplayReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for found in report.differences[:_SHOWN]:
        where = f"step {found.step}" if found.step else "the reset"
        console.print(
            f"{escape(found.episode)}, {where}: expected {escape(found.path)} "
            f"{escape(found.expected)}, got {escape(found.got)}"
        )
    if report.differing > _SHOWN:
        console.print(f"... and {report.differing - _SHOWN} more episodes")
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    console.print(
        f"{report.episodes} episodes with {report.steps} steps played again, "
        f"{report.differing} differ{skipped}"
    )
