"""Checks of single calls: schemas, states, and errors where errors are due."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import (
    EpisodeDone,
    InvalidAction,
    OpenEnvError,
    RequestRejected,
    ResetRequired,
)
from .schemas import faults_of_schema, faults_of_value, invalid_values
from .subject import Session, Subject
from .verdicts import Broken, Unchecked

__all__ = [
    "check_actions",
    "check_invalid_action",
    "check_schema",
    "check_state",
    "check_step_after_done",
    "check_step_before_reset",
]

_SEED: Final = 7
_SPOILT: Final = 24
"""Most wrong actions to try."""
_PATIENCE: Final = 2048
"""Steps in which an episode may end."""


async def check_schema(subject: Subject) -> str:
    """The schemas are sound, and observations and states are what they say."""
    about = subject.description
    schemas = {
        "action": about.action,
        "observation": about.observation,
        "state": about.state,
    }
    for name, schema in schemas.items():
        for fault in faults_of_schema(schema):
            raise Broken(f"the schema of the {name}: {fault}")
    count = 0
    async with subject.session() as session:
        trace = await subject.play(session, _SEED, subject.actions(_SEED))
        for observation in trace.observations:
            count += 1
            for fault in faults_of_value(about.observation, observation):
                raise Broken(
                    f"observation {count} is not what its schema says: {fault}"
                )
        for fault in faults_of_value(about.state, await session.state()):
            raise Broken(f"the state is not what its schema says: {fault}")
    return f"{count} observations and a state fit"


async def check_actions(subject: Subject) -> str:
    """Actions that fit the schema are accepted, one in two at least."""
    actions = subject.actions(_SEED)
    accepted, refusal = 0, ""
    async with subject.session() as session:
        observation = await subject.reset(session, _SEED)
        for action in actions:
            if observation.done:
                observation = await subject.reset(session, _SEED)
            try:
                observation = (await session.step(action)).observation
                accepted += 1
            except InvalidAction as error:
                refusal = f": {_short(action)} was refused, {error.message}"
    if 2 * accepted < len(actions):
        raise Broken(
            f"expected a schema that tells what is accepted, got {accepted} of "
            f"{len(actions)} actions that fit it accepted{refusal}"
        )
    return f"{accepted} of {len(actions)} accepted"


async def check_state(subject: Subject) -> str:
    """state() names the episode and counts its steps."""
    async with subject.session() as session:
        options = None if subject.options is None else dict(subject.options)
        result = await session.reset(seed=_SEED, episode_id="mine", options=options)
        state: dict[str, Any] = await session.state()
        if state.get("episode_id") != "mine":
            raise Broken(
                "expected episode_id 'mine' in the state after "
                f"reset(episode_id='mine'), got {state.get('episode_id')!r}"
            )
        count = 0
        for action in subject.actions(_SEED, 3):
            if result.done:
                break
            try:
                result = await session.step(action)
            except InvalidAction:
                continue
            count += 1
        await _expect_steps(session, count)
        await subject.reset(session, _SEED)
        await _expect_steps(session, 0)
    return f"counted {count} steps"


async def _expect_steps(session: Session, count: int) -> None:
    state: dict[str, Any] = await session.state()
    # What has its default is not sent.
    found = state.get("step_count", 0)
    if found != count:
        raise Broken(f"expected step_count {count} in the state, got {found!r}")


async def check_invalid_action(subject: Subject) -> str:
    """An action that does not fit is refused, not executed, and the episode goes on."""
    valid = subject.actions(_SEED, 1)[0]
    spoilt = invalid_values(subject.description.action, valid)[:_SPOILT]
    if not spoilt:
        raise Unchecked("the schema allows every action")
    async with subject.session() as session:
        await subject.reset(session, _SEED)
        for action in spoilt:
            await _expect_refusal(session, action)
        state: dict[str, Any] = await session.state()
        if state.get("step_count", 0) != 0:
            raise Broken(
                "expected that refused actions change nothing, got step_count "
                f"{state['step_count']!r}"
            )
        try:
            await session.step(valid)
        except InvalidAction:
            return f"{len(spoilt)} wrong actions were refused"
        except OpenEnvError as error:
            raise Broken(
                f"expected an episode that goes on after refusals, got {error.message}"
            ) from error
    return f"{len(spoilt)} wrong actions were refused"


async def _expect_refusal(session: Session, action: object) -> None:
    try:
        await session.step(action)
    except InvalidAction:
        return
    except OpenEnvError as error:
        raise Broken(
            f"expected InvalidAction for {_short(action)}, got "
            f"{type(error).__name__}: {error.message}"
        ) from error
    raise Broken(
        f"expected InvalidAction for {_short(action)}, which the schema does not "
        "allow, but it was executed"
    )


async def check_step_before_reset(subject: Subject) -> str:
    """A step without an episode is refused with `ResetRequired`."""
    async with subject.session() as session:
        await _expect(session, subject, ResetRequired)
    return "refused"


async def check_step_after_done(subject: Subject) -> str:
    """A step after the end of an episode is refused with `EpisodeDone`."""
    async with subject.session() as session:
        trace = await subject.play(session, _SEED, subject.actions(_SEED, _PATIENCE))
        if not trace.done:
            raise Unchecked(f"no episode ended within {len(trace.actions)} steps")
        await _expect(session, subject, EpisodeDone)
        await subject.reset(session, _SEED)
    return f"refused after {len(trace.actions)} steps"


async def _expect(
    session: Session, subject: Subject, kind: type[RequestRejected]
) -> None:
    action = subject.actions(_SEED, 1)[0]
    try:
        await session.step(action)
    except kind:
        return
    except OpenEnvError as error:
        found = f"{type(error).__name__}: {error.message}"
        raise Broken(f"expected {kind.__name__}, got {found}") from error
    raise Broken(f"expected {kind.__name__}, but the step was executed")


def _short(action: object) -> str:
    try:
        text = msgspec.json.encode(action).decode()
    except (TypeError, ValueError):
        text = repr(action)
    return text if len(text) <= 80 else f"{text[:77]}..."
