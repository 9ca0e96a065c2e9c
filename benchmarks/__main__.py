"""Command line of the benchmark: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report, results
from benchmarks.contenders import Contenders
from benchmarks.openenv_venv import OPENENV_VERSION, openenv_python
from benchmarks.processes import ROOT, BenchmarkError, bench_folder
from benchmarks.rounds import Outcome, Settings, play_round

_FULL = Settings(
    rounds=3,
    seconds=0.8,
    warmup=0.25,
    idle_sdk=10_000,
    idle_openenv=1_000,
    only="*",
)
_QUICK = dataclasses.replace(
    _FULL, rounds=1, seconds=0.1, warmup=0.05, idle_openenv=100
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.report:
        found = json.loads(arguments.report.read_text(encoding="utf-8"))
        _show(found, readme=arguments.readme)
        return 0
    try:
        with asyncio.Runner() as runner:
            found = runner.run(_run(arguments))
    except BenchmarkError as error:
        _say(f"error: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("stopped")
        return 130
    path = arguments.output or _default_output(found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _say(f"wrote {path}")
    _show(found, readme=arguments.readme)
    return 0


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Play all rounds, within the time that is given."""
    task = asyncio.current_task()
    assert task is not None
    # Children have groups of their own: cancelling is what ends them.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    settings = _settings(arguments)
    python = None
    if not arguments.without_openenv:
        _say(f"openenv {OPENENV_VERSION}: looking for its virtual environment")
        python = await openenv_python(arguments.openenv_python)
    contenders = Contenders(openenv_python=python, loop=arguments.loop)
    found: dict[str, Any] = {
        "commit": await results.commit(),
        "started": results.now(),
        "machine": await results.machine(python),
        "settings": {**dataclasses.asdict(settings), "loop": arguments.loop},
    }
    rounds: list[Outcome] = []
    errors: list[dict[str, str]] = []
    try:
        async with asyncio.timeout(60 * arguments.minutes):
            for number in range(settings.rounds):
                _say(f"round {number + 1} of {settings.rounds}")
                outcome, failed = await play_round(number, settings, contenders, _say)
                rounds.append(outcome)
                errors.append(failed)
    except TimeoutError as error:
        if not rounds:
            raise BenchmarkError("no round ended in time") from error
        _say(f"stopped after {len(rounds)} rounds: out of time")
        found["settings"]["rounds"] = len(rounds)
    return {
        **found,
        "ended": results.now(),
        "medians": results.medians(rounds),
        "rounds": rounds,
        "errors": errors,
    }


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {
        name: getattr(arguments, name)
        for name in ("rounds", "seconds", "warmup", "only")
        if getattr(arguments, name) is not None
    }
    return dataclasses.replace(_QUICK if arguments.quick else _FULL, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--rounds", type=int, help=f"default {_FULL.rounds}")
    parser.add_argument("--seconds", type=float, help="length of each window")
    parser.add_argument("--warmup", type=float, help="seconds before each window")
    parser.add_argument(
        "--only", metavar="GLOB", help="cases by key, e.g. '*/awaited/*/n256/*'"
    )
    parser.add_argument(
        "--loop",
        choices=("uvloop", "asyncio"),
        default="uvloop",
        help="event loop of our clients; OpenEnv's use asyncio",
    )
    parser.add_argument(
        "--openenv-python",
        type=Path,
        metavar="PATH",
        help=f"an interpreter with openenv {OPENENV_VERSION}, instead of installing it",
    )
    parser.add_argument("--without-openenv", action="store_true")
    parser.add_argument("--minutes", type=float, default=15, help="end by then")
    parser.add_argument(
        "--output", type=Path, help="default .bench/results-<commit>.json"
    )
    parser.add_argument(
        "--readme", action="store_true", help="write the tables to README.md"
    )
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="only show an earlier run"
    )
    return parser


def _default_output(found: dict[str, Any]) -> Path:
    return bench_folder() / f"results-{found['commit']['name'][:12]}.json"


def _show(found: dict[str, Any], *, readme: bool) -> None:
    text = report.markdown(found)
    sys.stdout.write(text)
    if readme:
        report.write_between_markers(ROOT / "README.md", text)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
