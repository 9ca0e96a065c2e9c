"""Options are checked once."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from openenv_async import LocalProtocolError
from openenv_async.rollout import (
    AdaptiveConcurrency,
    Batching,
    CollectorOptions,
    CutOff,
)
from openenv_async.rollout.options import CollectorKeywords


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (Batching, {"min": 0}, "expected min of at least 1, got 0"),
        (Batching, {"min": 9, "max": 8}, "expected min <= max, got min=9 and max=8"),
        (Batching, {"timeout": -1}, "expected timeout of at least 0, got -1"),
        (AdaptiveConcurrency, {"interval": 0}, "expected interval above 0, got 0"),
        (AdaptiveConcurrency, {"decrease": 1}, "a decrease between 0 and 1, got 1"),
        (CutOff, {"complete": 0}, "expected complete of at least 1, got 0"),
        (CollectorOptions, {"group_size": 0}, "group_size of at least 1, got 0"),
        (CollectorOptions, {"step_timeout": 0}, "step_timeout above 0, got 0"),
        (
            CollectorOptions,
            {"episode_timeout": float("nan")},
            "episode_timeout above 0, got nan",
        ),
        (CollectorOptions, {"retries": -1}, "retries of at least 0, got -1"),
        (CollectorOptions, {"order": "sorted"}, "order to be one of"),
        (CollectorOptions, {"group_seeds": "none"}, "group_seeds to be one of"),
        (CollectorOptions, {"retry_on": ("all",)}, "retry_on to be one of"),
        (
            CollectorOptions,
            {"cut_off": CutOff(complete=3), "group_size": 2},
            "a cut-off at 2 complete episodes at most, got 3",
        ),
    ],
)
def test_options_are_checked(kind: Any, given: dict[str, Any], text: str) -> None:
    """The text names the value and what was expected."""
    with pytest.raises(LocalProtocolError) as caught:
        kind(**given)
    assert text in str(caught.value)


@pytest.mark.parametrize("given", [math.inf, 1e300, math.nan, -math.inf])
@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        (Batching, "timeout", {}),
        (AdaptiveConcurrency, "interval", {}),
        (CutOff, "grace", {"complete": 1}),
        (CollectorOptions, "step_timeout", {}),
        (CollectorOptions, "reset_timeout", {}),
        (CollectorOptions, "episode_timeout", {}),
        (CollectorOptions, "policy_timeout", {}),
        (CollectorOptions, "recovery_timeout", {}),
    ],
)
def test_durations_are_finite(
    kind: Any, name: str, more: dict[str, Any], given: float
) -> None:
    """A clock has to be able to add them; who wants none says None."""
    with pytest.raises(LocalProtocolError, match=f"expected {name} ") as caught:
        kind(**{name: given}, **more)
    assert str(caught.value).endswith(f"got {given!r}")
    if given > 0:
        assert "of at most 1e+08 seconds" in str(caught.value)


def test_keywords_are_the_options() -> None:
    """`collect` takes what `CollectorOptions` has, with the same types."""
    fields = CollectorOptions.__struct_fields__
    assert tuple(CollectorKeywords.__annotations__) == fields
    for name in fields:
        expected = CollectorOptions.__annotations__[name]
        found = CollectorKeywords.__annotations__[name]
        assert getattr(found, "__forward_arg__", found) == expected


def test_options_can_be_written_down() -> None:
    """A run's manifest has them as they were."""
    options = CollectorOptions(cut_off=CutOff(complete=1), metadata={"a": 1})
    written = msgspec.json.encode(options)
    assert msgspec.json.decode(written, type=CollectorOptions) == options
