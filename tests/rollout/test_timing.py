"""Where the time went, in numbers and in a verdict."""

from __future__ import annotations

import pytest

from openenv_async.rollout import Latency, TimeShares
from openenv_async.rollout.adaptive import Adapter
from openenv_async.rollout.options import AdaptiveConcurrency
from openenv_async.rollout.timing import Load, find_bottleneck


def _shares(**shares: float) -> TimeShares:
    return TimeShares(**shares)


@pytest.mark.parametrize(
    ("load", "bound_by", "knob"),
    [
        (
            Load(time=_shares(environment=1.0), away=0.4, blocked=0.5),
            "connection",
            "the server's uptime",
        ),
        (
            Load(time=_shares(environment=1.0), blocked=0.5),
            "consumer",
            "the consumer's speed",
        ),
        (
            Load(time=_shares(environment=1.0), starved=0.5),
            "tasks",
            "the source of tasks",
        ),
        (
            Load(time=_shares(environment=0.9), policy_busy=0.95, fullness=1.0),
            "policy",
            "batching.max",
        ),
        (
            Load(time=_shares(environment=0.9), policy_busy=0.95, fullness=0.2),
            "policy",
            "the policy's speed",
        ),
        (Load(time=_shares(policy=0.6, wire=0.4)), "policy", "the policy's speed"),
        (
            Load(time=_shares(idle=0.6, environment=0.4), fullness=0.1),
            "policy",
            "batching.calls",
        ),
        (
            Load(time=_shares(idle=0.6, environment=0.4)),
            "wire",
            "client processes",
        ),
        (Load(time=_shares(wire=0.6, environment=0.4)), "wire", "sockets"),
        (
            Load(time=_shares(queue=0.6, environment=0.4)),
            "environment",
            "workers or replicas",
        ),
        (
            # A policy that many episodes wait in at once is not busy by that alone.
            Load(time=_shares(environment=0.6, policy=0.4), policy_busy=1.0),
            "environment",
            "concurrency",
        ),
    ],
)
def test_find_bottleneck_names_the_number_to_raise(
    load: Load, bound_by: str, knob: str
) -> None:
    """Whoever the run waits for, and what to change."""
    found = find_bottleneck(load)
    assert (found.bound_by, found.knob) == (bound_by, knob)
    assert found.text.startswith(f"bound by {bound_by}: ")
    assert found.text.endswith(f"raise {knob}")
    assert 0 < found.share <= 1


def test_latency_summarises() -> None:
    """Each value is one that was measured."""
    found = Latency.of(number * 1_000_000 for number in range(1, 101))
    assert found == Latency(count=100, p50=0.05, p99=0.099, longest=0.1)
    assert Latency.of([]) == Latency()


# Adaptive concurrency


def _adapter(**settings: float) -> Adapter:
    return Adapter(
        AdaptiveConcurrency(start=8, increase=4, decrease=0.5, queue_target=0.1), 64
    )


def test_adapter_grows_without_congestion() -> None:
    """By a constant, up to the most, and only while the limit is in the way."""
    adapter = _adapter()
    limits = [adapter.decide(queue=0.01, policy=1.0, saturated=True) for _ in range(20)]
    assert limits[:3] == [12, 16, 20]
    assert limits[-1] == 64
    adapter = _adapter()
    assert adapter.decide(queue=0.01, policy=None, saturated=False) == 8
    assert adapter.decide(queue=None, policy=None, saturated=True) == 8


def test_adapter_shrinks_with_congestion() -> None:
    """By a share, down to the least."""
    adapter = _adapter()
    limits = [adapter.decide(queue=0.2, policy=None, saturated=True) for _ in range(6)]
    assert limits == [4, 2, 1, 1, 1, 1]


def test_adapter_looks_at_the_policy() -> None:
    """If it was told a target."""
    adapter = Adapter(AdaptiveConcurrency(start=8, policy_target=0.5), 8)
    assert adapter.decide(queue=0.0, policy=0.6, saturated=True) < 8
    assert adapter.decide(queue=0.0, policy=0.4, saturated=True) == 8


def test_adapter_keeps_within_the_most() -> None:
    """Also where it would start above it."""
    assert Adapter(AdaptiveConcurrency(start=8, min=4), 2).limit == 2
