"""The benchmark of containers, fleet and coding environment.

Run it as `python -m benchmarks.containers`, where a container engine answers. In one
interleaved run: this SDK's containers (without a network, on a Unix socket; and with a
published port), a bare `docker run`, and OpenEnv 0.10.0's `LocalDockerProvider`; its
fleet; and its coding environment beside OpenEnv's.
"""

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

from benchmarks import results
from benchmarks.cases import Payload
from benchmarks.container_engine import (
    containers_of,
    engine_facts,
    remove_containers,
)
from benchmarks.container_images import Images, prepare_images
from benchmarks.container_report import container_markdown
from benchmarks.container_rounds import ContainerSettings, play_containers
from benchmarks.openenv_venv import OPENENV_VERSION, openenv_python
from benchmarks.processes import ROOT, BenchmarkError, bench_folder
from benchmarks.report import write_between_markers
from benchmarks.rounds import Outcome

__all__ = ["main"]

_ROUNDS, _SECONDS, _WARMUP = 5, 1.0, 0.25
_QUICK_SECONDS, _QUICK_WARMUP = 0.1, 0.05


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
    if found is None:
        return 0
    name = f"containers-{found['commit']['name'][:12]}.json"
    path = arguments.output or bench_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _say(f"wrote {path}")
    _show(found, readme=arguments.readme)
    # A smoke run is there to find what does not run at all.
    return 1 if arguments.quick and any(found["errors"]) else 0


async def _run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Play all rounds, within the time that is given; None where there is no engine."""
    task = asyncio.current_task()
    assert task is not None
    # Children have groups of their own: cancelling is what ends them.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        engine = await engine_facts()
    except BenchmarkError as error:
        if not arguments.quick:
            raise
        _say(f"skipped: {error}")
        return None
    settings = await _settings(arguments)
    images = await prepare_images(
        _given(arguments), with_openenv=settings.openenv_python is not None, say=_say
    )
    before = await containers_of(images.names)
    try:
        found = await _measure(arguments, settings, images)
    finally:
        # What a worker was starting when it was ended.
        await remove_containers(sorted(await containers_of(images.names) - before))
    return {**found, "engine": engine, "images": dataclasses.asdict(images)}


async def _measure(
    arguments: argparse.Namespace, settings: ContainerSettings, images: Images
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "commit": await results.commit(),
        "started": results.now(),
        "machine": await results.machine(settings.openenv_python),
        "settings": {
            name: getattr(settings, name)
            for name in ("rounds", "seconds", "warmup", "only")
        },
    }
    rounds: list[Outcome] = []
    errors: list[dict[str, str]] = []
    try:
        async with asyncio.timeout(60 * arguments.minutes):
            for number in range(settings.rounds):
                _say(f"round {number + 1} of {settings.rounds}")
                outcome, failed = await play_containers(number, settings, images, _say)
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


async def _settings(arguments: argparse.Namespace) -> ContainerSettings:
    quick = arguments.quick
    python = None
    if not quick and not arguments.without_openenv:
        _say(f"openenv {OPENENV_VERSION}: looking for its virtual environment")
        python = await openenv_python(arguments.openenv_python)
    return ContainerSettings(
        rounds=arguments.rounds or (1 if quick else _ROUNDS),
        seconds=arguments.seconds or (_QUICK_SECONDS if quick else _SECONDS),
        warmup=_QUICK_WARMUP if quick else _WARMUP,
        only=arguments.only,
        openenv_python=python,
    )


def _given(arguments: argparse.Namespace) -> dict[Payload, str]:
    given: dict[Payload, str] = {}
    if arguments.echo_image:
        given["text"] = arguments.echo_image
    if arguments.coding_image:
        given["code"] = arguments.coding_image
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.containers", description=__doc__
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run without OpenEnv; says so and ends where no engine answers",
    )
    parser.add_argument("--rounds", type=int, help=f"default {_ROUNDS}")
    parser.add_argument("--seconds", type=float, help="length of each window")
    parser.add_argument(
        "--only", metavar="GLOB", default="*", help="cases by key, e.g. '*/start/*'"
    )
    for name in ("echo", "coding"):
        parser.add_argument(
            f"--{name}-image", metavar="IMAGE", help="take this one, build none"
        )
    parser.add_argument(
        "--openenv-python",
        type=Path,
        metavar="PATH",
        help=f"an interpreter with openenv {OPENENV_VERSION}, instead of installing it",
    )
    parser.add_argument("--without-openenv", action="store_true")
    parser.add_argument("--minutes", type=float, default=20, help="end by then")
    parser.add_argument(
        "--output", type=Path, help="default .bench/containers-<commit>.json"
    )
    parser.add_argument(
        "--readme", action="store_true", help="write the tables to README.md"
    )
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="only show an earlier run"
    )
    return parser


def _show(found: dict[str, Any], *, readme: bool) -> None:
    text = container_markdown(found)
    sys.stdout.write(text)
    if readme:
        write_between_markers(ROOT / "README.md", text, name="containers")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
