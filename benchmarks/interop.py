"""The benchmark of OpenEnv's clients and servers with ours, in all combinations.

Run it as `python -m benchmarks.interop --docs`: in one interleaved run, OpenEnv 0.10.0
and this SDK as server and as client, and OpenEnv's environment, as it is, on our
server. What a cut connection does to each of them is measured, too. The tables go to
`docs/openenv.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.interop_report import interop_markdown
from benchmarks.interop_rounds import InteropSettings, play_interop
from benchmarks.openenv_venv import OPENENV_VERSION, openenv_python
from benchmarks.processes import ROOT, BenchmarkError, bench_folder
from benchmarks.report import write_between_markers
from benchmarks.rounds import Outcome

__all__ = ["main"]

_FULL = InteropSettings(rounds=3, seconds=0.8, warmup=0.25, idle=256, trials=5)
_QUICK = InteropSettings(rounds=1, seconds=0.1, warmup=0.05, idle=32, trials=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, and return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.report:
        found = json.loads(arguments.report.read_text(encoding="utf-8"))
        _show(found, docs=arguments.docs)
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
    name = f"interop-{found['commit']['name'][:12]}.json"
    path = arguments.output or bench_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _say(f"wrote {path}")
    _show(found, docs=arguments.docs)
    return 1 if any(found["errors"]) else 0


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Play all rounds, within the time that is given."""
    task = asyncio.current_task()
    assert task is not None
    # Children have groups of their own: cancelling is what ends them.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _say(f"openenv {OPENENV_VERSION}: looking for its virtual environment")
    python = await openenv_python(arguments.openenv_python)
    settings = _settings(arguments)
    found: dict[str, Any] = {
        "commit": await results.commit(),
        "started": results.now(),
        "machine": await results.machine(python),
        "settings": dataclasses.asdict(settings),
    }
    rounds: list[Outcome] = []
    errors: list[dict[str, str]] = []
    with contextlib.suppress(TimeoutError), tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(60 * arguments.minutes):
            async for outcome, failed in play_interop(
                settings, python, Path(folder), _say
            ):
                rounds.append(outcome)
                errors.append(failed)
    if not rounds:
        raise BenchmarkError("no round ended in time")
    found["settings"]["rounds"] = len(rounds)
    return {
        **found,
        "ended": results.now(),
        "medians": results.medians(rounds),
        "rounds": rounds,
        "errors": errors,
    }


def _settings(arguments: argparse.Namespace) -> InteropSettings:
    given = {
        name: getattr(arguments, name)
        for name in ("rounds", "seconds", "only")
        if getattr(arguments, name) is not None
    }
    return dataclasses.replace(_QUICK if arguments.quick else _FULL, **given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interop", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--rounds", type=int, help=f"default {_FULL.rounds}")
    parser.add_argument("--seconds", type=float, help="length of each window")
    parser.add_argument(
        "--only", metavar="GLOB", help="cases by key, e.g. 'hosted+ours/*/n256'"
    )
    parser.add_argument(
        "--openenv-python",
        type=Path,
        metavar="PATH",
        help=f"an interpreter with openenv {OPENENV_VERSION}, instead of installing it",
    )
    parser.add_argument("--minutes", type=float, default=6, help="end by then")
    parser.add_argument(
        "--output", type=Path, help="default .bench/interop-<commit>.json"
    )
    parser.add_argument(
        "--docs", action="store_true", help="write the tables to docs/openenv.md"
    )
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="only show an earlier run"
    )
    return parser


def _show(found: dict[str, Any], *, docs: bool) -> None:
    text = interop_markdown(found)
    sys.stdout.write(text)
    if docs:
        write_between_markers(ROOT / "docs" / "openenv.md", text, name="interop")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
