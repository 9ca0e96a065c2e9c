"""`openenv-async build`: container images from the packages of environments."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from ..errors import LocalProtocolError, OpenEnvError
from ..images import (
    DEFAULT_BASE,
    BuildProgress,
    BuiltImage,
    Phase,
    Progress,
    build_image,
    prepare_wheels,
)

__all__ = ["build"]

_T = TypeVar("_T")

_WIDTH: Final = 90
"""Characters of a line that the bars show."""
_TITLES: Final[dict[Phase, str]] = {
    "base": "base image",
    "wheels": "wheels",
    "context": "sending",
    "build": "building",
}


def build(
    package: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of the environment's package, or its wheel. Without it, the "
            "base image is built: the SDK's server without an environment.",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", help="Name for the image, if not the package's."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="Image to start from; it has Python and pip.")
    ] = DEFAULT_BASE,
    target: Annotated[
        str | None,
        typer.Option(help="What to serve, if not the package's one environment."),
    ] = None,
    extras: Annotated[
        str, typer.Option(help="Optional parts of the package, separated by commas.")
    ] = "server",
    platform: Annotated[
        str | None, typer.Option(help="As 'linux/arm64', if not the engine's own.")
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(help="Take all wheels from this folder, and use no index."),
    ] = None,
    prepare: Annotated[
        Path | None,
        typer.Option(help="Only collect the wheels there, for --wheels elsewhere."),
    ] = None,
    network: Annotated[
        str, typer.Option(help="What the build's steps may reach: 'none', 'default'.")
    ] = "none",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Label to add.")
    ] = None,
    cache: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option(help="Use layers of earlier builds again.")
    ] = True,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
) -> None:
    """Build an image that serves an environment.

    All packages are collected on this machine, so the build itself needs no network.
    Progress goes to standard error, the result to standard output.
    """
    labels = dict(map(_pair, label or ()))
    parts = [extra for extra in extras.split(",") if extra]
    if prepare is not None:
        _prepare(package, prepare, base, parts, platform, as_json=as_json)
        return
    with _shown() as progress:
        image = _run(
            lambda: build_image(
                package,
                tags=tag or (),
                base=base,
                target=target,
                extras=parts,
                platform=platform,
                wheels=wheels,
                network=network,
                labels=labels,
                use_cache=cache,
                progress=progress,
            )
        )
    print(json.dumps(dataclasses.asdict(image)) if as_json else _described(image))


def _prepare(
    package: Path | None,
    folder: Path,
    base: str,
    extras: list[str],
    platform: str | None,
    *,
    as_json: bool,
) -> None:
    with _shown() as progress:
        wheels = _run(
            lambda: prepare_wheels(
                package,
                folder,
                base=base,
                extras=extras,
                platform=platform,
                progress=progress,
            )
        )
    if as_json:
        print(json.dumps({"folder": str(folder), "wheels": [w.name for w in wheels]}))
    else:
        print(f"collected {len(wheels)} wheels in {folder}")


def _described(image: BuiltImage) -> str:
    what = f"serves {image.target}" if image.target else "serves what it is told"
    return (
        f"built {', '.join(image.tags)}\n"
        f"{image.id}\n"
        f"{image.size / 1e6:.0f} MB; {image.package} {image.version}; {what}"
    )


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise LocalProtocolError(f"expected a label as KEY=VALUE, got {text!r}")
    return key, value


# Running


def _run(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run it to its end; on Ctrl-C and SIGTERM, until it has cleaned up.

    Raises:
        Exit: A signal ended it; the status is a shell's, 128 and its number.
    """
    results: list[_T] = []
    errors: list[OpenEnvError] = []
    signals: list[int] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_end_at_signal, group.cancel_scope, signals)
            try:
                results.append(await work())
            except OpenEnvError as error:
                # Noted, because it would leave the task group in a group of errors.
                errors.append(error)
            group.cancel_scope.cancel()

    anyio.run(main)
    if errors:
        raise errors[0]
    if not results:
        raise typer.Exit(128 + signals[0])
    return results[0]


async def _end_at_signal(scope: anyio.CancelScope, signals: list[int]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for number in received:
            signals.append(number)
            scope.cancel()


# Showing


@contextmanager
def _shown() -> Generator[Progress]:
    """Bars where somebody watches a terminal, and plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield _print_line
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[title]:<10}"),
        BarColumn(bar_width=20),
        # No markup, because pip's lines have brackets.
        TextColumn("{task.description}", markup=False),
    )
    tasks: dict[Phase, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def show(progress: BuildProgress) -> None:
            phase = progress.phase
            if phase not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1, total=1, description="")
                tasks[phase] = bars.add_task("", total=None, title=_TITLES[phase])
            bars.update(
                tasks[phase],
                description=progress.text[:_WIDTH],
                completed=progress.done or 0,
                total=progress.total,
            )

        yield show


def _print_line(progress: BuildProgress) -> None:
    if progress.phase == "context" and progress.done != progress.total:
        return
    print(f"{_TITLES[progress.phase]}: {progress.text}", file=sys.stderr, flush=True)
