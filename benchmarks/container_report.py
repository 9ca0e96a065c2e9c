"""Tables of containers for people, in Markdown, from the medians of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from benchmarks.container_floors import container_verdicts
from benchmarks.floors import Verdict, ratio
from benchmarks.report import short, table
from benchmarks.rounds import Outcome

__all__ = ["container_markdown"]

_MISSING: Final = "n/a"
_MARKS: Final = {True: "met", False: "not met", None: _MISSING}
_CODING: Final = (
    ("session start (`reset`)", "reset/code/n1"),
    ("session start, 64 at once", "reset/code/n64"),
    ("step, 1 session", "awaited/code/n1"),
    ("step, 64 sessions, each 10 a second", "paced/code/n64"),
    ("step, 64 sessions, each as fast as it can", "awaited/code/n64"),
)


def container_markdown(results: Mapping[str, Any]) -> str:
    """Render the results as they are saved.

    Args:
        results: What `containers` writes to JSON.
    """
    medians: Outcome = results["medians"]
    sections = (
        _heading(results),
        _floors(medians),
        _starts(medians),
        _coding(medians),
        _transports(medians),
    )
    return "\n\n".join(sections) + "\n"


def _heading(results: Mapping[str, Any]) -> str:
    machine, commit, engine = (results[key] for key in ("machine", "commit", "engine"))
    settings = results["settings"]
    dirty = " with changes" if commit["dirty"] else ""
    return (
        f"Measured {results['started']} at commit `{commit['name'][:12]}`{dirty} on "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['kernel']}, Docker "
        f"{engine['version']} ({engine['storage']}), medians of {settings['rounds']} "
        f"interleaved rounds of {settings['seconds']:g} s. Images are there before. "
        "OpenEnv 0.10.0 runs as its `LocalDockerProvider` and its client do by "
        "themselves; its coding environment is its own executor in an environment "
        "that, unlike its repository's, allows more than one session."
    )


def _floors(medians: Outcome) -> str:
    head = ("containers", "floor", "go for", "measured", "floor", "goal")
    return table(head, [_floor_row(verdict) for verdict in container_verdicts(medians)])


def _floor_row(verdict: Verdict) -> tuple[str, ...]:
    floor = verdict.floor
    scale, unit = _scale(floor.metric) if not floor.theirs else (1.0, "times")
    sign = "" if floor.theirs else "under "
    value = verdict.value
    return (
        floor.what,
        f"{sign}{floor.floor * scale:g} {unit}",
        f"{sign}{floor.goal * scale:g} {unit}",
        _MISSING if value is None else f"{short(value * scale)} {unit}",
        *(_MARKS[verdict.reaches(goal=goal)] for goal in (False, True)),
    )


def _scale(metric: str) -> tuple[float, str]:
    return (1e-3, "ms") if metric.endswith("_us") else (1e3, "ms")


def _starts(medians: Outcome) -> str:
    rows = []
    for name, payload in (("echo", "text"), ("coding", "code")):
        ours = f"sdk/start/{payload}/n1/unix"
        theirs = f"openenv/start/{payload}/n1/tcp"
        keys = (
            ours,
            f"sdk/start/{payload}/n1/tcp",
            f"bare/start/{payload}/n1/tcp",
            theirs,
        )
        times = ratio(medians, ours, theirs, "seconds")
        rows.append(
            (
                name,
                *(_cell(medians, key, _seconds) for key in keys),
                _MISSING if times is None else short(times),
            )
        )
    head = (
        "cold start to first reset, s",
        "openenv_async, Unix socket, no network",
        "openenv_async, published port",
        "bare `docker run` of a WebSocket server",
        "OpenEnv 0.10.0, `LocalDockerProvider`",
        "times OpenEnv",
    )
    return table(head, rows)


def _coding(medians: Outcome) -> str:
    rows = []
    for name, case in _CODING:
        keys = (
            f"sdk-local/{case}/unix",
            f"sdk/{case}/unix",
            f"sdk/{case}/tcp",
            f"openenv/{case}/tcp",
        )
        rows.append((name, *(_cell(medians, key, _milliseconds) for key in keys)))
    head = (
        "coding, p50 / p99 in ms, and a second",
        "local processes",
        "container, Unix socket",
        "container, published port",
        "OpenEnv 0.10.0 in a container, code in the server's process",
    )
    return table(head, rows)


def _transports(medians: Outcome) -> str:
    rows = []
    for sessions in (1, 64, 1024):
        cells = [
            _cell(medians, f"{contender}/awaited/text/n{sessions}/{transport}", _micros)
            for contender, transport in (
                ("sdk", "unix"),
                ("sdk", "tcp"),
                ("openenv", "tcp"),
            )
        ]
        cells += [
            _cell(medians, f"sdk/batch/text/n{sessions}/{transport}", _rate)
            for transport in ("unix", "tcp")
        ]
        rows.append((str(sessions), *cells))
    head = (
        "echo in a container, sessions",
        "`await env.step`, p50 / p99 µs, Unix socket",
        "published port",
        "OpenEnv 0.10.0",
        "`batch.step`, steps/s, Unix socket",
        "published port",
    )
    return table(head, rows)


# Cells


def _cell(
    medians: Outcome, key: str, show: Callable[[Mapping[str, float]], str]
) -> str:
    try:
        return show(medians[key])
    except KeyError:
        return _MISSING


def _seconds(metrics: Mapping[str, float]) -> str:
    first = metrics.get("first_seconds")
    text = short(metrics["seconds"])
    return text if first is None else f"{text} (first of a process {short(first)})"


def _milliseconds(metrics: Mapping[str, float]) -> str:
    p50, p99 = (short(metrics[name] / 1e3) for name in ("p50_us", "p99_us"))
    return f"{p50} / {p99}, {metrics['steps_per_s']:,.0f}/s"


def _micros(metrics: Mapping[str, float]) -> str:
    return f"{metrics['p50_us']:,.0f} / {metrics['p99_us']:,.0f}"


def _rate(metrics: Mapping[str, float]) -> str:
    return f"{metrics['steps_per_s']:,.0f}"
