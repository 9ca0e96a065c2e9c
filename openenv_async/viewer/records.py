"""A recorded episode as the pane's records: one for each request, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..client import GenericObservation
from ..rollout.episodes import (
    EnvironmentFailure,
    Episode,
    EpisodeStep,
    InfrastructureFailure,
    PolicyFailure,
    Terminated,
    Truncated,
)

__all__ = ["records_of"]


def records_of(episode: Episode[Any, Any]) -> Iterator[dict[str, object]]:
    """Yield an episode's reset, its steps, and what ended it from outside.

    Times of steps are what the episode's clock says: the time at which each began is
    the sum of what was before.
    """
    at = episode.started * 1000
    yield _record(
        "reset"
        if episode.initial_observation is not None or episode.steps
        else "error",
        1,
        at=at,
        request={
            "seed": episode.seed,
            "episode_id": None,
            "options": episode.task.options,
        },
        payload=_payload(episode),
    )
    for seq, step in enumerate(episode.steps, 2):
        timing = step.timing
        at += (timing.idle_ns + timing.policy_ns + timing.round_trip_ns) / 1e6
        yield _step(seq, step, at)
    ending = _ending(episode)
    if ending is not None and (
        episode.initial_observation is not None or episode.steps
    ):
        kind, payload = ending
        yield _record(kind, len(episode.steps) + 2, at=at, payload=payload)


def _payload(episode: Episode[Any, Any]) -> object:
    """What the reset gave; where it failed, why."""
    if episode.initial_observation is not None or episode.steps:
        return episode.initial_observation
    ending = _ending(episode)
    return None if ending is None else ending[1]


def _step(seq: int, step: EpisodeStep[Any, Any], at: float) -> dict[str, object]:
    timing = step.timing
    return _record(
        "step",
        seq,
        at=at,
        request=step.action,
        payload=step.observation,
        reward=step.reward,
        terminated=step.terminated,
        truncated=step.truncated,
        timings={
            "queueNs": timing.queue_ns,
            "environmentNs": timing.environment_ns,
            "encodeNs": timing.encode_ns,
            "roundTripNs": timing.round_trip_ns or None,
        },
        extras=step.extras,
    )


def _record(
    kind: str,
    seq: int,
    *,
    at: float,
    request: object = None,
    payload: object = None,
    reward: float | None = None,
    terminated: bool = False,
    truncated: bool = False,
    timings: dict[str, object] | None = None,
    extras: dict[str, object] | None = None,
) -> dict[str, object]:
    if isinstance(payload, GenericObservation):
        payload = dict(payload)
    return {
        "kind": kind,
        "seq": seq,
        "at": at or None,
        "request": request,
        "payload": payload,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "dropped": 0,
        "timings": timings,
        # What was on the wire was not recorded.
        "requestBytes": None,
        "payloadBytes": None,
        **({"extras": extras} if extras else {}),
    }


def _ending(episode: Episode[Any, Any]) -> tuple[str, dict[str, object]] | None:
    """Kind and payload of a last record; None where the environment ended it."""
    match episode.outcome:
        case Terminated():
            return None
        case Truncated(reason="environment"):
            return None
        case Truncated(reason=reason):
            text = f"the episode was cut off: {reason.replace('_', ' ')}"
            return "ended", {"code": f"truncated: {reason}", "message": text}
        case EnvironmentFailure() as failure:
            return "error", {
                "code": "environment_failed",
                "message": f"{failure.exception}: {failure.message}",
                "executed": failure.executed,
                "fault": "environment",
                "detail": {
                    "exception": failure.exception,
                    "traceback": failure.traceback,
                },
            }
        case PolicyFailure() as failure:
            return "error", {
                "code": "policy_failed",
                "message": f"{failure.exception}: {failure.message}",
                "executed": "no",
                "fault": "caller",
                "detail": {
                    "exception": failure.exception,
                    "traceback": failure.traceback,
                },
            }
        case InfrastructureFailure() as failure:
            return "error", {
                "code": failure.kind,
                "message": failure.message,
                "executed": failure.executed,
                "retryable": failure.retryable,
                "fault": "infrastructure",
            }
