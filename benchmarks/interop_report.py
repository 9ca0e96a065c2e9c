"""The tables of `benchmarks.interop`, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.interop_rounds import PAIRS, SESSIONS
from benchmarks.meter import Metrics
from benchmarks.report import short, table
from benchmarks.rounds import Outcome

__all__ = ["interop_markdown"]

_MISSING = "n/a"
_SERVERS = {
    "theirs": "OpenEnv's",
    "ours": "ours",
    "hosted": "ours, hosting OpenEnv's environment",
    "blocking-theirs": "OpenEnv's; the environment blocks",
    "blocking-hosted": "ours, hosting it; the environment blocks",
    "blocking-inline": "the same, with `--execution inline`",
}
_CLIENTS = {"theirs": "OpenEnv's", "ours": "ours"}
_CUTS = {
    "went_on": "the result of the step comes, and it ran once",
    "told": "an error says so; nothing runs before a reset",
    "fresh": "an error; the next step runs in a new environment that was never reset",
    "twice": "the step runs twice",
    "other": "neither result nor clear error",
}
_TOLD_BY_OURS = (
    "an error says so, and the session is over: nothing runs before another is opened"
)
"""Where our client cannot resume, it begins no session by itself, not by a reset."""
_FLOORS = (
    (
        "OpenEnv's client at our server, 64 sessions",
        ("ours+theirs", "theirs+theirs", 64),
        1.5,
    ),
    (
        "OpenEnv's environment behind our server and client, 256 sessions",
        ("hosted+ours", "theirs+theirs", 256),
        15.0,
    ),
    (
        "the same, where the environment blocks",
        ("blocking-hosted+ours", "blocking-theirs+theirs", 256),
        15.0,
    ),
    (
        "the same, with `--execution inline`",
        ("blocking-inline+ours", "blocking-theirs+theirs", 256),
        15.0,
    ),
    *(
        (
            f"our client at OpenEnv's server, sessions: {sessions}",
            ("theirs+ours", "theirs+theirs", sessions),
            1.0,
        )
        for sessions in SESSIONS
    ),
)
"""What, how many times as fast as what, and the least that it should be."""


def interop_markdown(results: Mapping[str, Any]) -> str:
    """Render the results as they are saved.

    Args:
        results: What `benchmarks.interop` writes to JSON.
    """
    medians: Outcome = results["medians"]
    settings = results["settings"]
    sections = (
        _heading(results),
        table(_head(settings), [_row(medians, settings, *pair) for pair in PAIRS]),
        table(
            ("times as fast as OpenEnv's own pair", "floor", "measured", ""),
            list(_floors(medians)),
        ),
    )
    return "\n\n".join(sections) + "\n"


def _heading(results: Mapping[str, Any]) -> str:
    machine, commit = results["machine"], results["commit"]
    settings = results["settings"]
    dirty = " with changes" if commit["dirty"] else ""
    return (
        f"Measured {results['started']} at commit `{commit['name'][:12]}`{dirty} on "
        f"{machine['cores']} cores ({machine['cpu']}), Python {machine['python']}; "
        f"client and server in processes of their own on loopback, medians of "
        f"{settings['rounds']} interleaved rounds of {settings['seconds']:g} s. "
        f"OpenEnv 0.10.0 runs as installed, with its `GenericEnvClient`; the "
        f"environment echoes a short text. Steps are awaited one by one, by one "
        f"coroutine for each session. Connections are cut after the server has "
        f"answered a step, before the answer reaches the client."
    )


def _head(settings: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = " / ".join(map(str, SESSIONS))
    return (
        "server",
        "client",
        f"steps/s at {sizes} sessions",
        f"p50 ms at {sizes}",
        f"p99 ms at {sizes}",
        f"server KiB for a session, of {settings['idle']}",
        "connection cut in a step",
    )


def _row(
    medians: Outcome, settings: Mapping[str, Any], server: str, client: str
) -> tuple[str, ...]:
    pair = f"{server}+{client}"
    steps = [medians.get(f"{pair}/awaited/n{size}", {}) for size in SESSIONS]
    idle = medians.get(f"{pair}/idle/n{settings['idle']}", {})
    return (
        _SERVERS[server],
        _CLIENTS[client],
        _joined(steps, "steps_per_s", 1, "{:,.0f}".format),
        _joined(steps, "p50_us", 1e-3, short),
        _joined(steps, "p99_us", 1e-3, short),
        _joined([idle], "bytes_per_session", 1 / 1024, short),
        _cuts(medians.get(f"{pair}/cut/n{settings['trials']}", {}), client),
    )


def _joined(found: list[Metrics], name: str, scale: float, show: Any) -> str:
    return " / ".join(
        show(metrics[name] * scale) if name in metrics else _MISSING
        for metrics in found
    )


def _cuts(found: Metrics, client: str) -> str:
    """What a client saw, the most frequent first."""
    texts = _CUTS | {"told": _TOLD_BY_OURS} if client == "ours" else _CUTS
    seen = sorted(
        ((share, name) for name, share in found.items() if share > 0), reverse=True
    )
    if not seen:
        return _MISSING
    if len(seen) == 1:
        return texts[seen[0][1]]
    return "; ".join(f"{share:.0%}: {texts[name]}" for share, name in seen)


def _floors(medians: Outcome) -> Iterator[tuple[str, ...]]:
    for what, (ours, theirs, sessions), floor in _FLOORS:
        rates = [
            medians.get(f"{pair}/awaited/n{sessions}", {}).get("steps_per_s")
            for pair in (ours, theirs)
        ]
        if not rates[0] or not rates[1]:
            yield what, f"{floor:g}", _MISSING, _MISSING
            continue
        times = rates[0] / rates[1]
        met = "met" if times >= floor else "not met"
        yield what, f"{floor:g}", short(times), met
