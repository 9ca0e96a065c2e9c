"""What `step_count` proves, and what it does not."""

from __future__ import annotations

import pytest

from openenv_async.client.dialect_counter import StepCounter


def _counter(base: int | None, answered: int) -> StepCounter:
    counter = StepCounter()
    counter.begin(base)
    for _ in range(answered):
        counter.step(observed=True)
    return counter


@pytest.mark.parametrize(
    ("base", "answered", "count", "executed", "text"),
    [
        (0, 0, 1, "yes", "from 0 to 1"),
        (0, 5, 6, "yes", "from 5 to 6"),
        # An environment may begin anywhere.
        (3, 2, 6, "yes", "from 5 to 6"),
        # It did not count, but it may have failed before it would have.
        (0, 5, 5, "unknown", "the 5 steps before"),
        (0, 0, 0, "unknown", "nobody has seen"),
        # It counts something else.
        (0, 5, 9, "unknown", "from 5 to 9"),
        (0, 5, 0, "unknown", "from 5 to 0"),
        # Nothing is known.
        (None, 0, 1, "unknown", "cannot tell"),
        (0, 5, None, "unknown", "cannot tell"),
    ],
)
def test_verdict_says_no_more_than_the_count_proves(
    base: int | None, answered: int, count: int | None, executed: str, text: str
) -> None:
    """Only exactly one more is a proof."""
    verdict, why = _counter(base, answered).verdict(count)
    assert verdict == executed
    assert text in why


def test_a_failed_step_ends_what_is_known() -> None:
    """It may have counted or not, so the next count proves nothing."""
    counter = _counter(0, 2)
    counter.step(observed=False)
    assert counter.expected is None
    assert counter.verdict(3)[0] == "unknown"
