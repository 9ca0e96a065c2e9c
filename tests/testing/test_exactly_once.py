"""Exactly once holds under faults, and the check finds it where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from openenv_async import OpenEnvError, StepResult
from openenv_async.client import EnvClient
from openenv_async.memory import Line
from openenv_async.testing import CHAOS, Chaos, Faults, check_exactly_once, exactly_once


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop=0.05),
        Faults(delay=0.3),
        Faults(duplicate=0.4),
        Faults(reorder=0.3),
        Faults(cut=0.15),
        CHAOS,
    ],
    ids=["drop", "delay", "duplicate", "reorder", "cut", "all"],
)
async def test_steps_run_once_under(faults: Faults, seed: int) -> None:
    """No step runs twice, and nobody is told what is not so."""
    chaos = Chaos(seed, up=faults)
    check = await check_exactly_once(chaos.lay, seed=seed)
    assert check.passed, check.detail
    assert sum(chaos.counts.values()) > chaos.counts["frame"] + 1


async def test_nothing_is_lost_on_a_clear_line() -> None:
    """Without faults every step is executed and answered."""
    check = await check_exactly_once(sessions=4, steps=30)
    assert check.passed
    assert check.detail.startswith("120 steps executed of 120 asked for")
    assert "told yes 120, no 0, unknown 0; 0 sessions lost" in check.detail


# It can fail


def _patched(
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[Any, Any], Any],
) -> None:
    monkeypatch.setattr(exactly_once.TallyEnv, "step", step, raising=False)


async def test_a_step_that_is_sent_anew_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that repeats a step as another one is found out."""

    async def step(self: EnvClient[Any, Any, Any], action: Any) -> StepResult[Any]:
        await EnvClient.step(self, action)
        return await EnvClient.step(self, action)

    _patched(monkeypatch, step)
    check = await check_exactly_once(sessions=1, steps=3)
    assert not check.passed
    assert "was executed 2 times" in check.detail


async def test_an_untrue_no_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that denies what was executed is found out."""

    async def step(self: EnvClient[Any, Any, Any], action: Any) -> StepResult[Any]:
        await EnvClient.step(self, action)
        raise OpenEnvError("it was nothing", executed="no")

    _patched(monkeypatch, step)
    check = await check_exactly_once(sessions=1, steps=3)
    assert "step 0/0 was executed 1 times, its caller was told 'no'" in check.detail


async def test_an_untrue_yes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that claims what was not executed is found out."""

    async def step(self: EnvClient[Any, Any, Any], action: Any) -> StepResult[Any]:
        raise OpenEnvError("trust me", executed="yes")

    _patched(monkeypatch, step)
    check = await check_exactly_once(sessions=1, steps=3)
    assert "step 0/0 was executed 0 times, its caller was told 'yes'" in check.detail


async def test_a_wrong_reply_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that belongs to another step is found out."""
    replies: list[StepResult[Any]] = []

    async def step(self: EnvClient[Any, Any, Any], action: Any) -> StepResult[Any]:
        replies.append(await EnvClient.step(self, action))
        return replies[max(0, len(replies) - 2)]

    _patched(monkeypatch, step)
    check = await check_exactly_once(sessions=1, steps=3)
    assert "its reply was that to 0/0, number 1" in check.detail


class _Deaf(Line):
    def send(self, frame: bytes) -> None:
        """Lose it."""

    def end(self) -> None:
        """Nothing waits."""


async def test_a_line_that_carries_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Making no progress is a fault, too."""

    async def open(self: EnvClient[Any, Any, Any]) -> None:
        raise OpenEnvError("nobody there")

    monkeypatch.setattr(EnvClient, "open", open)
    check = await check_exactly_once(lambda *_: _Deaf(), sessions=1, steps=1)
    assert check.detail == "session 0 cannot be opened: nobody there"
