"""What an environment's `step_count` proves about a step whose reply was lost."""

from __future__ import annotations

from ..errors import Executed

__all__ = ["StepCounter"]


class StepCounter:
    """Follows `step_count` from the reset on, beside the steps that were answered.

    Most environments count their steps, but nothing makes them do it: what the number
    says is only as good as the environment was so far.
    """

    def __init__(self) -> None:
        self.base: int | None = None
        """`step_count` after the reset; None where nothing is known."""
        self.answered = 0
        """Steps since then whose observation arrived."""

    @property
    def expected(self) -> int | None:
        """What `step_count` should be now."""
        return None if self.base is None else self.base + self.answered

    def begin(self, count: int | None) -> None:
        """A reset, or a look at the state: count from here."""
        self.base, self.answered = count, 0

    def step(self, *, observed: bool) -> None:
        """A step was answered, with an observation or with an error of its own."""
        if observed:
            self.answered += 1
        else:
            # It may have raised before it counted, or after.
            self.base = None

    def verdict(self, count: int | None) -> tuple[Executed, str]:
        """Tell whether one more step was executed, from the count that is found.

        Args:
            count: `step_count` now, when nothing runs any more.
        """
        expected = self.expected
        if expected is None or count is None:
            return "unknown", "the environment's step_count cannot tell"
        if count == expected + 1:
            return "yes", f"step_count went from {expected} to {count}"
        if count != expected:
            return "unknown", f"step_count went from {expected} to {count}"
        if not self.answered:
            return "unknown", (
                f"step_count is still {count}, but nobody has seen the environment "
                "count yet"
            )
        # It may have raised before it counted: then it was executed all the same.
        return "unknown", (
            f"step_count is still {count}, although the environment counted the "
            f"{self.answered} steps before: it did not begin the step, or failed in it"
        )
