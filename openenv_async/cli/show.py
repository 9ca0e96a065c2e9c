"""`openenv-async show`: what a run holds, or one of its episodes step by step."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..arrays import encodable
from ..rollout.episodes import Episode, outcome_label
from ..rollout.runs import Distribution, Run, RunSummary, open_run, summarise
from ..rollout.runs.readable import readable
from ..server import bind_tcp
from ..viewer import create_viewer_app, run_viewer

__all__ = ["show"]

_WIDTH: Final = 60
"""Characters of an action or observation in a table."""
_BAR: Final = 30
_PLAIN_WIDTH: Final = 200
"""Characters of a line where nobody watches a terminal."""


def show(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    episode: Annotated[
        str | None,
        typer.Option(metavar="TASK/INDEX", help="Show this episode step by step."),
    ] = None,
    full: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--full", help="With --episode: do not cut values short.")
    ] = False,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print it as JSON.")
    ] = False,
    quick: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--quick",
            help="Read only what is shown, and do not look for damage in the rest.",
        ),
    ] = False,
    web: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--web", help="Show it in a browser, in the debug pane.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="With --web: port; 0 is a free one.")
    ] = 0,
) -> None:
    """Show a run: returns, lengths, failures and times, or one episode.

    All of the run is read and compared with its checksums, which takes up to four
    seconds for a gigabyte, and damage is an error. With --quick, and with --web, what
    is not shown is not looked at. The run may still be written to. With --web, until
    Ctrl-C.
    """
    if web:
        if as_json or episode is not None or full or quick:
            raise typer.BadParameter("expected --web alone, or with --port")
        _show_web(run, port)
        return
    opened = open_run(run)
    console = _console()
    if episode is not None:
        found = opened.episode(episode)
        if as_json:
            print(msgspec.json.encode(found, enc_hook=encodable).decode())
        else:
            _show_episode(console, found, full=full)
        return
    summary = summarise(opened.summaries(verify=not quick))
    if as_json:
        manifest = msgspec.to_builtins(opened.manifest)
        print(
            msgspec.json.encode(
                {"manifest": manifest, "summary": summary}, enc_hook=encodable
            ).decode()
        )
    else:
        _show_run(console, opened, summary)
        if quick:
            console.print("not verified: only what is shown here was read")


def _show_web(run: Path, port: int) -> None:
    app = create_viewer_app(run)
    # Whoever is on this machine may read it, and nobody else.
    bound = bind_tcp("127.0.0.1", port)
    address = f"http://127.0.0.1:{bound.getsockname()[1]}/web/"
    print(f"showing {run} at {address}, until Ctrl-C", flush=True)
    run_viewer(app, bound)


def _console() -> Console:
    """As wide as a terminal; elsewhere wide enough for all columns."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


# Runs


def _show_run(console: Console, run: Run, summary: RunSummary) -> None:
    manifest = run.manifest
    about = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    about.add_row("environment", escape(manifest.environment.name))
    for name, value in manifest.config.items():
        about.add_row(escape(name), escape(str(value)))
    about.add_row("seed", str(manifest.seed))
    about.add_row("created", manifest.created)
    about.add_row("episodes", _extent(run, summary))
    about.add_row("steps", str(summary.steps))
    if summary.started is not None and summary.ended is not None:
        took = datetime.timedelta(seconds=round(summary.ended - summary.started))
        about.add_row("took", str(took))
    console.print(about)
    console.print(_outcomes(summary))
    console.print(_distributions(summary))
    if summary.histogram:
        console.print(_histogram(summary))
    time = summary.time
    console.print(
        f"time: {time.policy:.0%} policy, {time.environment:.0%} environment, "
        f"{time.wire:.0%} wire, {time.queue:.0%} queue, {time.idle:.0%} idle"
    )


def _extent(run: Run, summary: RunSummary) -> str:
    """How many episodes there are, and how many there should be."""
    expected = run.manifest.runtime.get("episodes")
    found, tasks = f"{summary.episodes}", f"{summary.groups} tasks"
    if not isinstance(expected, int):
        return f"{found}, of {tasks}"
    if summary.episodes >= expected:
        return f"{found}, all of {tasks}"
    return f"{found} of {expected}, of {tasks} so far; --resume plays what is missing"


def _outcomes(summary: RunSummary) -> Table:
    table = Table("outcome", title="outcomes", box=None, title_justify="left")
    table.add_column("episodes", justify="right")
    for label, count in summary.outcomes.items():
        table.add_row(escape(label), str(count))
    if summary.not_finite:
        table.add_row("(return is not finite)", str(summary.not_finite))
    if summary.tried_again:
        table.add_row("(run again after a failure)", str(summary.tried_again))
    return table


def _distributions(summary: RunSummary) -> Table:
    table = Table("", title="distributions", box=None, title_justify="left")
    for heading in ("count", "mean", "std", "min", "p10", "p50", "p90", "max"):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, Distribution]] = [
        ("return", summary.returns),
        ("length", summary.lengths),
        ("seconds", summary.seconds),
    ]
    for name, spread in rows:
        numbers = (
            *(spread.mean, spread.deviation, spread.least, spread.p10),
            *(spread.p50, spread.p90, spread.most),
        )
        texts = [f"{number:.4g}" if spread.count else "" for number in numbers]
        table.add_row(name, str(spread.count), *texts)
    return table


def _histogram(summary: RunSummary) -> Table:
    table = Table("return", title="returns", box=None, title_justify="left")
    table.add_column("episodes", justify="right")
    table.add_column("")
    least, most = summary.returns.least, summary.returns.most
    width = (most - least) / len(summary.histogram)
    highest = max(summary.histogram)
    for place, count in enumerate(summary.histogram):
        if width or count:
            start = least + place * width
            bar = "#" * round(count / highest * _BAR)
            table.add_row(f"{start:.4g} to {start + width:.4g}", str(count), bar)
    return table


# Episodes


def _show_episode(console: Console, episode: Episode[Any, Any], *, full: bool) -> None:
    about = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    about.add_row("episode", escape(episode.id))
    about.add_row("environment", escape(episode.environment))
    about.add_row("seed", str(episode.seed))
    about.add_row("outcome", escape(outcome_label(episode.outcome)))
    about.add_row("return", "none" if episode.return_ is None else f"{episode.return_}")
    for earlier in episode.earlier_attempts:
        label = f"{outcome_label(earlier.outcome)} after {earlier.length} steps"
        about.add_row("earlier attempt", escape(label))
    for name in ("message", "traceback"):
        if text := getattr(episode.outcome, name, ""):
            about.add_row(name, escape(text.rstrip()))
    if episode.task.options:
        about.add_row("options", escape(_text(episode.task.options, full=full)))
    if episode.extras:
        about.add_row("extras", escape(_text(episode.extras, full=full)))
    console.print(about)
    table = Table("step", box=None)
    for heading in ("action", "observation", "reward", "policy ms", "env ms"):
        right = heading not in ("action", "observation")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    table.add_row("0", "", escape(_text(episode.initial_observation, full=full)))
    for number, step in enumerate(episode.steps, 1):
        table.add_row(
            str(number),
            escape(_text(step.action, full=full)),
            escape(_text(step.observation, full=full)),
            "" if step.reward is None else f"{step.reward:.6g}",
            f"{step.timing.policy_ns / 1e6:.2f}",
            f"{step.timing.environment_ns / 1e6:.2f}",
        )
    console.print(table)


def _text(value: object, *, full: bool) -> str:
    text = readable(value)
    return text if full or len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
