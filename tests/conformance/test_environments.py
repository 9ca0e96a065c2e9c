"""Our own environments keep what every environment has to."""

from __future__ import annotations

import pytest

from openenv_async.conformance import run_checks, subject_of


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "target",
    [
        "echo_env",
        "coding_env",
        "coding_env?interpreter=cpython",
        "gymnasium_env?id=CartPole-v1",
        "gymnasium_env?id=Pendulum-v1",
        "gymnasium_env?id=FrozenLake-v1",
    ],
)
async def test_environment_conforms(target: str) -> None:
    """All checks pass, or have nothing to look at."""
    async with subject_of(target) as subject:
        checks = [check async for check in run_checks(subject)]
    assert [check for check in checks if not check.passed] == []
    skipped = {check.name for check in checks if check.skipped}
    assert skipped <= {"step after the end"}
