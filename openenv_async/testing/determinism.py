"""`assert_deterministic`: the same seed and actions, the same episode."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from ..client import EnvClient
from ..conformance import subject_of
from ..conformance.subject import Trace, difference_of_traces
from ..errors import LocalProtocolError
from ..rollout.adapters.sampling import sampler_of
from ..server.app import EnvironmentLike

__all__ = ["Deterministic", "assert_deterministic"]

Deterministic: TypeAlias = EnvironmentLike | EnvClient[Any, Any, Any]
"""A class, a spec, a name, the address of a server, or an open session."""


async def assert_deterministic(
    env: Deterministic,
    *,
    seed: int = 0,
    actions: Sequence[Any] | None = None,
    steps: int = 32,
    options: Mapping[str, Any] | None = None,
    ignore: Collection[str] = ("$.metadata",),
) -> None:
    """Play an episode twice; observations, rewards and flags have to be equal.

    Two sessions play it, one after the other; an open session plays it twice.

    Args:
        env: What to play.
        seed: For both resets.
        actions: What to do; None draws actions from the schema.
        steps: How many to draw.
        options: For both resets.
        ignore: Paths of observations that may differ, such as `$.elapsed`.

    Raises:
        AssertionError: They differ; names the step and the place.
        OpenEnvError: It could not be played.
    """
    if isinstance(env, EnvClient):
        first, second = await _on_session(env, seed, actions, steps, options)
    else:
        async with subject_of(env, steps=steps, options=options) as subject:
            plan = subject.actions(seed) if actions is None else actions
            first = await subject.episode(seed, plan)
            second = await subject.episode(seed, plan)
    difference = difference_of_traces(first, second, ignore=ignore)
    if difference is not None:
        raise AssertionError(f"seed {seed} gave two different episodes: {difference}")


async def _on_session(
    env: EnvClient[Any, Any, Any],
    seed: int,
    actions: Sequence[Any] | None,
    steps: int,
    options: Mapping[str, Any] | None,
) -> tuple[Trace, Trace]:
    if actions is None:
        types = type(env).payloads
        if types is None or types.action_type is object:
            raise LocalProtocolError(
                "expected actions for a session of a GenericEnv, which has no type to "
                "draw them from"
            )
        sampler = sampler_of(types.action_type, seed=seed)
        actions = [sampler.sample() for _ in range(steps)]
    first, second = [await _episode(env, seed, actions, options) for _ in range(2)]
    return first, second


async def _episode(
    env: EnvClient[Any, Any, Any],
    seed: int,
    actions: Sequence[Any],
    options: Mapping[str, Any] | None,
) -> Trace:
    given = None if options is None else dict(options)
    results = [await env.reset(seed=seed, options=given)]
    for action in actions:
        if results[-1].done:
            break
        results.append(await env.step(action))
    return Trace(
        tuple(result.observation for result in results),
        tuple(actions[: len(results) - 1]),
    )
