"""Tables for people, in Markdown, from the medians of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.floors import Verdict, best_ceiling, ratio, verdicts
from benchmarks.processes import BenchmarkError
from benchmarks.rounds import Outcome

__all__ = ["markdown", "short", "table", "write_between_markers"]

_CALLS = {"awaited": "`await env.step`", "batch": "`batch.step`"}
_MISSING = "n/a"


def markdown(results: Mapping[str, Any]) -> str:
    """Render the results as they are saved.

    Args:
        results: What `__main__` writes to JSON.
    """
    medians: Outcome = results["medians"]
    settings = results["settings"]
    sections = (
        _heading(results),
        _floors(verdicts(medians, idle_sdk=settings["idle_sdk"])),
        _throughput(medians),
        _latency(medians),
        _images(medians),
        _costs(medians),
        _others(medians, settings),
    )
    return "\n\n".join(sections) + "\n"


def write_between_markers(page: Path, text: str, *, name: str = "bench") -> None:
    """Replace what stands between two markers of a page.

    Args:
        page: The page.
        text: What stands there from now on.
        name: Which markers.

    Raises:
        BenchmarkError: The page has no markers.
    """
    opening, closing = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    content = page.read_text(encoding="utf-8")
    before, start, rest = content.partition(opening)
    _, end, after = rest.partition(closing)
    if not start or not end:
        raise BenchmarkError(f"expected {opening} and {closing} in {page}")
    page.write_text(f"{before}{start}\n{text}{end}{after}", encoding="utf-8")


def _heading(results: Mapping[str, Any]) -> str:
    machine, commit = results["machine"], results["commit"]
    settings = results["settings"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["libraries"].items()
    )
    dirty = " with changes" if commit["dirty"] else ""
    return (
        f"Measured {results['started']} at commit `{commit['name'][:12]}`{dirty} on "
        f"{machine['cores']} cores ({machine['cpu']}), {machine['kernel']}, Python "
        f"{machine['python']}, {versions}; client and server in processes of their "
        f"own on loopback, medians of {settings['rounds']} interleaved rounds of "
        f"{settings['seconds']:g} s. OpenEnv 0.10.0 runs as installed, with its "
        f"`GenericEnvClient` and an async environment; our clients run on "
        f"{settings['loop']}."
    )


def _floors(found: Iterable[Verdict]) -> str:
    head = ("against OpenEnv 0.10.0", "floor", "go for", "measured", "floor", "goal")
    return table(head, [_floor_row(verdict) for verdict in found])


def _floor_row(verdict: Verdict) -> tuple[str, ...]:
    floor = verdict.floor
    scale = 1024 if floor.metric == "bytes_per_session" else 1
    sign, unit = ("", " times") if floor.theirs else ("under ", "")
    asked = [f"{sign}{limit / scale:g}{unit}" for limit in (floor.floor, floor.goal)]
    value = _number(verdict.value, lambda v: f"{short(v / scale)}{unit}")
    if floor.ceiling is not None:
        asked = [
            f"{text}, {share:.0%} of the ceiling" if share else text
            for text, share in zip(asked, floor.ceiling, strict=True)
        ]
        if verdict.share is not None:
            value += f", {verdict.share:.0%} of the ceiling"
    marks = {True: "met", False: "not met", None: _MISSING}
    reached = [marks[verdict.reaches(goal=goal)] for goal in (False, True)]
    return (floor.what, *asked, value, *reached)


def _throughput(medians: Outcome) -> str:
    rows = []
    for sessions in (64, 256, 1024):
        for mode, call in _CALLS.items():
            ours = f"sdk/{mode}/text/n{sessions}/tcp"
            single = f"sdk/{mode}/text/n{sessions}/s1/tcp"
            theirs = f"openenv/awaited/text/n{sessions}/tcp"
            rows.append(
                (
                    str(sessions),
                    call,
                    " / ".join(
                        _metric(
                            medians, f"ceiling/{mode}/text/n{sessions}/s{n}/tcp", _rate
                        )
                        for n in (1, 2, 4)
                    ),
                    _metric(medians, ours, _rate),
                    _metric(medians, single, _rate),
                    _metric(medians, theirs, _rate),
                    _times(ratio(medians, ours, theirs, "steps_per_s")),
                    _of_ceiling(medians, ours),
                )
            )
    head = (
        "sessions",
        "steps/s of",
        "bare ceiling, 1 / 2 / 4 sockets",
        "openenv_async",
        "on 1 socket",
        "OpenEnv 0.10.0",
        "times OpenEnv",
        "of the best ceiling",
    )
    return table(head, rows)


def _latency(medians: Outcome) -> str:
    rows = []
    for suffix, cores in (("", "free"), ("/pinned", "one core")):
        theirs = f"openenv/awaited/text/n1/tcp{suffix}"
        for transport, name in (("tcp", "TCP"), ("unix", "Unix socket")):
            ours = f"sdk/awaited/text/n1/{transport}{suffix}"
            ceiling = f"ceiling/awaited/text/n1/{transport}{suffix}"
            rows.append(
                (
                    f"{name}, {cores}",
                    _metric(medians, f"kernel/{transport}{suffix}", _latencies),
                    _metric(medians, ceiling, _latencies),
                    _metric(medians, ours, _latencies),
                    _metric(medians, theirs, _latencies),
                    _times(ratio(medians, ours, theirs, "p50_us")),
                )
            )
    head = (
        "1 session, p50 / p99 in µs",
        "kernel ping-pong (free: two cores)",
        "bare ceiling",
        "openenv_async",
        "OpenEnv 0.10.0 (TCP)",
        "times OpenEnv, p50",
    )
    return table(head, rows)


def _images(medians: Outcome) -> str:
    rows = []
    for sessions in (1, 16, 64):
        for mode, call in _CALLS.items():
            ours = f"sdk/{mode}/image/n{sessions}/tcp"
            best = best_ceiling(medians, ours)
            theirs = [
                f"openenv/awaited/{encoding}/n{sessions}/tcp"
                for encoding in ("list", "base64")
            ]
            rows.append(
                (
                    str(sessions),
                    call,
                    _number(best and best[1], lambda v: f"{v:,.0f}"),
                    _metric(medians, ours, _rate),
                    *(_metric(medians, key, _rate) for key in theirs),
                    *(
                        _times(ratio(medians, ours, key, "steps_per_s"))
                        for key in theirs
                    ),
                )
            )
    head = (
        "sessions",
        "150 KiB observations/s of",
        "best ceiling",
        "openenv_async",
        "OpenEnv, list",
        "OpenEnv, base64",
        "times list",
        "times base64",
    )
    return table(head, rows)


def _costs(medians: Outcome) -> str:
    rows = []
    for sessions in (1, 64, 256, 1024):
        for mode, call in _CALLS.items():
            ours = f"sdk/{mode}/text/n{sessions}/tcp"
            if mode == "batch" and sessions == 1:
                continue
            best = best_ceiling(medians, ours)
            keys = (
                best[0] if best else "",
                ours,
                f"openenv/awaited/text/n{sessions}/tcp",
            )
            rows.append(
                (
                    str(sessions),
                    call,
                    *(_metric(medians, key, _cpu) for key in keys),
                    *(_metric(medians, key, _milliseconds) for key in keys),
                )
            )
    head = (
        "sessions",
        "CPU µs/step, server + client",
        "best ceiling",
        "openenv_async",
        "OpenEnv",
        "p50 / p99 ms: ceiling",
        "openenv_async",
        "OpenEnv",
    )
    return table(head, rows)


def _others(medians: Outcome, settings: Mapping[str, Any]) -> str:
    rows = [
        *_connect_rows(medians),
        (
            f"server memory per idle session, KiB (ours with {settings['idle_sdk']:,} "
            f"sessions, OpenEnv's with {settings['idle_openenv']:,})",
            _metric(medians, f"sdk/idle/text/n{settings['idle_sdk']}/tcp", _kib),
            _metric(
                medians, f"openenv/idle/text/n{settings['idle_openenv']}/tcp", _kib
            ),
            "",
        ),
        *(
            (
                f"import of {what}, s",
                _metric(medians, key, _seconds),
                _metric(medians, "import/openenv", _seconds),
                _times(ratio(medians, key, "import/openenv", "seconds")),
            )
            for what, key in (
                ("the package", "import/openenv_async"),
                ("the client class", "import/openenv_async-client"),
            )
        ),
    ]
    against_gymnasium = []
    for sessions in (16, 64):
        ours = f"sdk/batch/cartpole/n{sessions}/tcp"
        theirs = f"gymnasium/batch/cartpole/n{sessions}/tcp"
        against_gymnasium.append(
            (
                str(sessions),
                _metric(medians, ours, _rate),
                _metric(medians, theirs, _rate),
                _times(ratio(medians, ours, theirs, "steps_per_s")),
            )
        )
    return "\n\n".join(
        (
            table(("", "openenv_async", "OpenEnv 0.10.0", "times"), rows),
            table(
                (
                    "CartPoles, steps/s",
                    "openenv_async, `batch.step`",
                    "Gymnasium's AsyncVectorEnv",
                    "times",
                ),
                against_gymnasium,
            ),
        )
    )


def _connect_rows(medians: Outcome) -> Iterator[tuple[str, ...]]:
    for sessions in (64, 1024):
        theirs = f"openenv/connect/text/n{sessions}/tcp"
        for contender, how in (("sdk", "one by one"), ("sdk-batch", "as a batch")):
            ours = f"{contender}/connect/text/n{sessions}/tcp"
            yield (
                f"connect + reset of {sessions} sessions, {how}, s",
                _metric(medians, ours, _seconds),
                _metric(medians, theirs, _seconds),
                _times(ratio(medians, ours, theirs, "seconds")),
            )


# Cells


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _metric(
    medians: Outcome, key: str, show: Callable[[Mapping[str, float]], str]
) -> str:
    try:
        return show(medians[key])
    except KeyError:
        return _MISSING


def _rate(metrics: Mapping[str, float]) -> str:
    return f"{metrics['steps_per_s']:,.0f}"


def _latencies(metrics: Mapping[str, float]) -> str:
    return f"{metrics['p50_us']:.0f} / {metrics['p99_us']:.0f}"


def _milliseconds(metrics: Mapping[str, float]) -> str:
    return f"{short(metrics['p50_us'] / 1e3)} / {short(metrics['p99_us'] / 1e3)}"


def _cpu(metrics: Mapping[str, float]) -> str:
    return f"{short(metrics['server_cpu_us'])} + {short(metrics['client_cpu_us'])}"


def _seconds(metrics: Mapping[str, float]) -> str:
    return short(metrics["seconds"])


def _kib(metrics: Mapping[str, float]) -> str:
    return short(metrics["bytes_per_session"] / 1024)


def _times(value: float | None) -> str:
    return _number(value, lambda v: f"{short(v)}")


def _of_ceiling(medians: Outcome, ours: str) -> str:
    best = best_ceiling(medians, ours)
    rate = medians.get(ours, {}).get("steps_per_s")
    return f"{rate / best[1]:.0%}" if rate and best else _MISSING


def _number(value: float | None, show: Callable[[float], str]) -> str:
    return _MISSING if value is None else show(value)


def short(value: float) -> str:
    """Show three significant digits, without an exponent."""
    for digits, limit in ((0, 100), (1, 10), (2, 1)):
        if abs(value) >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"
