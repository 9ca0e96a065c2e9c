"""Every check passes for a sound environment, and fails for the broken one alone."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from typing import Any

import anyio
import msgspec
import pytest

from openenv_async import LocalProtocolError, UnknownEnvironment, messages
from openenv_async.conformance import (
    CHECKS,
    Check,
    Subject,
    ending,
    run_check,
    run_checks,
    subject_of,
)
from openenv_async.environment import AnyEnvironment, find_spec
from openenv_async.memory import MemoryServer
from openenv_async.protocol.tables import PERMITS, Stage
from tests.conformance.broken import BROKEN, Sound, descriptors, hoard
from tests.environments import ScriptedEnvironment
from tests.serving import serving


@pytest.fixture(autouse=True)
def _tidied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what the broken ones keep, and do not wait for it for long."""
    monkeypatch.setattr(ending, "_PATIENCE", 0.2)
    yield
    hoard.clear()
    while descriptors:
        os.close(descriptors.pop())


async def _checked(target: Any, **options: Any) -> dict[str, Check]:
    async with subject_of(target, **options) as subject:
        return {check.name: check async for check in run_checks(subject)}


def _failed(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.detail for name, check in checks.items() if not check.passed}


# Sound ones


async def test_a_sound_environment_passes_everything() -> None:
    """All checks are made and pass; none is skipped."""
    checks = await _checked(Sound)
    assert list(checks) == list(CHECKS)
    assert not _failed(checks)
    assert not [check for check in checks.values() if check.skipped]
    assert all(check.detail and check.seconds > 0 for check in checks.values())


@pytest.mark.parametrize("execution", ["thread", "process"])
async def test_it_passes_wherever_it_runs(execution: Any) -> None:
    """Threads and worker processes change nothing."""
    spec = await anyio.to_thread.run_sync(
        lambda: find_spec("tests.conformance.broken:Sound", execution=execution)
    )
    assert not _failed(await _checked(spec))


async def test_it_passes_on_a_running_server() -> None:
    """The same checks are made over a socket."""
    async with serving(Sound) as server:
        checks = await _checked(server.url)
    assert not _failed(checks)
    assert "nothing else can be seen" in checks["no leak"].detail


async def test_one_of_several_environments_is_checked() -> None:
    """The name says which; an unknown one is an error."""
    async with serving(ScriptedEnvironment, Sound) as server:
        async with subject_of(server.url, environment="walk") as subject:
            assert subject.description.name == "walk"
            assert (await run_check("step after the end", subject)).passed
        with pytest.raises(UnknownEnvironment):
            async with subject_of(server.url, environment="nowhere"):
                pass


async def test_an_endless_episode_is_not_checked() -> None:
    """What cannot be checked is skipped, says so, and counts as passed."""
    async with subject_of(ScriptedEnvironment) as subject:
        check = await run_check("step after the end", subject)
    assert (check.passed, check.skipped) == (True, True)
    assert "2048 steps" in check.detail


async def test_an_action_type_without_limits_is_not_checked() -> None:
    """Where every action fits, there is no wrong one to try."""
    async with subject_of(Sound, script=[{"by": 1}]) as subject:
        about = msgspec.structs.replace(subject.description, action={})
        loose = dataclasses.replace(subject, description=about)
        check = await run_check("invalid action", loose)
    assert check.skipped


async def test_a_script_takes_the_place_of_random_actions() -> None:
    """Given actions are played over and over."""
    async with subject_of(Sound, script=[{"by": 1}, {"by": 2}], steps=5) as subject:
        assert subject.actions(0) == [{"by": n} for n in (1, 2, 1, 2, 1)]
        trace = await subject.episode(0, subject.actions(0))
        assert [seen["at"] for seen in trace.observations] == [0, 1, 3, 4, 6, 7]


async def test_what_is_ignored_may_differ() -> None:
    """A path that may differ is not compared."""
    (random_one,) = [kind for kind, _, _ in BROKEN if kind.__name__ == "_Random"]
    checks = await _checked(random_one, ignore=("$.luck",))
    assert not _failed(checks)


async def test_no_environment_is_an_error() -> None:
    """What is nowhere cannot be checked."""
    with pytest.raises(LocalProtocolError, match="no_such_package"):
        async with subject_of("no_such_package"):
            pass


# Broken ones


@pytest.mark.parametrize(
    ("broken", "name", "detail"),
    [pytest.param(*row, id=row[0].__name__) for row in BROKEN],
)
async def test_a_broken_environment_fails_its_check_alone(
    broken: type[AnyEnvironment], name: str, detail: str
) -> None:
    """The check that looks for the fault finds it, and no other one fails."""
    failed = _failed(await _checked(broken))
    assert list(failed) == [name]
    assert re.search(detail, failed[name]), failed[name]


@pytest.mark.parametrize(
    ("stage", "name"),
    [(Stage.NEW, "step before reset"), (Stage.DONE, "step after the end")],
)
async def test_a_server_that_permits_everything_fails(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, name: str
) -> None:
    """A step that should be refused, but is executed, is found."""
    permits: dict[Any, str] = PERMITS[stage]
    monkeypatch.setitem(permits, messages.Step, "")
    assert list(_failed(await _checked(Sound))) == [name]


async def test_a_server_that_refuses_with_another_error_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wrong error is no right answer."""
    permits: dict[Any, str] = PERMITS[Stage.NEW]
    monkeypatch.setitem(permits, messages.Step, "episode_done")
    failed = _failed(await _checked(Sound))
    assert "got EpisodeDone" in failed["step before reset"]


async def test_sessions_that_stay_on_a_server_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that keeps closed sessions is found from outside."""
    before: list[int] = []

    async def health(_url: str) -> dict[str, int]:
        before.append(0)
        return {"sessions": 0 if len(before) == 1 else 8}

    async with MemoryServer(Sound) as server:
        subject = await Subject.at(server.url)
        monkeypatch.setattr(ending, "server_health", health)
        check = await run_check("no leak", subject)
    assert not check.passed
    assert check.detail == "expected 0 sessions after closing ours, got 8"


@pytest.mark.parametrize("name", list(CHECKS))
async def test_a_server_that_is_gone_fails_every_check(name: str) -> None:
    """What cannot be done is a failure with a reason, not an exception."""
    async with MemoryServer(Sound) as server:
        subject = await Subject.at(server.url)
    check = await run_check(name, subject)
    assert not check.passed
    assert check.detail.startswith("ConnectFailed: expected a server in this process")


# Odd ones


async def test_an_unsound_schema_fails() -> None:
    """A schema that nobody can follow is found before anything is played."""
    async with subject_of(Sound) as subject:
        about = msgspec.structs.replace(subject.description, state={"type": "int"})
        check = await run_check(
            "schema", dataclasses.replace(subject, description=about)
        )
    assert check.detail == (
        "the schema of the state: expected a type of JSON at $, got 'int'"
    )


async def test_an_action_that_cannot_be_drawn_fails() -> None:
    """What keeps a check from being made is a failure, with its reason."""
    async with subject_of(Sound) as subject:
        about = msgspec.structs.replace(
            subject.description, action={"type": "string", "pattern": "(?=a)b"}
        )
        check = await run_check(
            "actions", dataclasses.replace(subject, description=about)
        )
    assert not check.passed
    assert check.detail.startswith("LocalProtocolError: ")


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError("odd"), "ValueError('odd')"),
        (
            ExceptionGroup("two", [ExceptionGroup("one", [KeyError(1)]), OSError()]),
            "KeyError(1)",
        ),
    ],
)
async def test_an_error_of_any_kind_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    detail: str,
) -> None:
    """It is told, and logged with its traceback; the next check goes on."""

    async def fail(_subject: Subject) -> str:
        raise error

    monkeypatch.setitem(CHECKS, "schema", fail)
    checks = await _checked(Sound)
    assert _failed(checks) == {"schema": detail}
    assert "check 'schema' failed" in caplog.text
