"""Episodes for tests of runs on disk: the same number gives the same episode."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from openenv_async import Array
from openenv_async.rollout.episodes import (
    Attempt,
    EnvironmentFailure,
    Episode,
    EpisodeStep,
    EpisodeTiming,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    StepTiming,
    Task,
    Terminated,
    Truncated,
    has_failed,
)
from openenv_async.rollout.runs import EnvironmentRecord, EpisodeFormat, Manifest
from openenv_async.rollout.runs.store import RunStore

__all__ = [
    "FORMATS",
    "any_episode",
    "exact",
    "floats",
    "make_episode",
    "make_manifest",
    "write_run",
]

FORMATS: tuple[EpisodeFormat, ...] = ("jsonl", "parquet")


def make_manifest(
    episode_format: EpisodeFormat = "jsonl", *, name: str = "made", seed: int = 7
) -> Manifest:
    """The manifest of a run of made episodes."""
    return Manifest(
        environment=EnvironmentRecord(
            name=name, target="made", json_schema={"action": {"type": "object"}}
        ),
        seed=seed,
        config={"policy": "made", "group_size": 2, "limits": (1, 2)},
        episode_format=episode_format,
    )


def floats(*values: float) -> Array:
    """An array of single floats."""
    data = struct.pack(f"<{len(values)}f", *values)
    return Array("<f4", (len(values),), memoryview(data))


def make_episode(
    number: int,
    *,
    length: int = 3,
    outcome: Outcome | None = None,
    arrays: bool = True,
    text: str = "",
) -> Episode[Any, Any]:
    """The episode of that number: two of each task, the second one if it is odd."""
    task, index = divmod(number, 2)
    outcome = Terminated() if outcome is None else outcome

    def seen(step: int) -> dict[str, object]:
        observation: dict[str, object] = {"step": step, "number": number, "text": text}
        return {**observation, "x": floats(step, number)} if arrays else observation

    return Episode(
        id=f"{task}/{index}",
        environment="made",
        task=Task(id=str(task), options={"level": task}, metadata={"answer": "42"}),
        seed=number,
        group=str(task),
        group_index=index,
        group_size=2,
        initial_observation=seen(0),
        steps=[
            EpisodeStep(
                {"move": step},
                seen(step),
                step / 2,
                terminated=step == length,
                extras={"token_ids": [step, 7], "logprobs": [-0.5, -1.0], "value": 1.5},
                timing=StepTiming(policy_ns=step, round_trip_ns=10),
            )
            for step in range(1, length + 1)
        ],
        outcome=outcome,
        return_=None if has_failed(outcome) else length / 2,
        started=1e9 + number,
        timing=EpisodeTiming(total_ns=number, environment_ns=5),
        session=f"s{number}",
        extras={"model": "made"},
        metadata={"run": 1},
    )


def write_run(
    folder: Path,
    episodes: Iterable[Episode[Any, Any]],
    *,
    episode_format: EpisodeFormat = "jsonl",
    flush: int = 2,
    part_bytes: int = 1 << 30,
    close: bool = True,
) -> None:
    """Write a run in flushes of so many episodes; without closing, as after a crash."""
    manifest = make_manifest(episode_format)
    store = RunStore(
        folder, manifest, resume=True, durable=False, part_bytes=part_bytes
    )
    waiting = list(episodes)
    try:
        for start in range(0, len(waiting), flush):
            refused = store.append(waiting[start : start + flush])
            assert not any(refused), refused
        if close:
            store.close()
    finally:
        store._release()


def exact(value: object) -> object:
    """What is equal only for equal values of the same types, NaN and arrays included.

    Observations are maps, whatever class they have.
    """
    match value:
        case Array():
            return ("array", value.dtype, value.shape, bytes(value.data))
        case msgspec.Struct():
            fields = {
                name: exact(getattr(value, name)) for name in value.__struct_fields__
            }
            return (type(value).__name__, fields)
        case dict():
            return {key: exact(item) for key, item in value.items()}
        case list() | tuple():
            return [exact(item) for item in value]
        case float():
            return ("float", "nan" if math.isnan(value) else value.hex())
        case _:
            return (type(value).__name__, value)


# Whatever an episode can hold

_texts = st.text(max_size=8)
_int64 = st.integers(-(2**63), 2**63 - 1)
_arrays = st.builds(
    lambda data, dtype: Array(f"|{dtype}1", (len(data),), memoryview(data)),
    st.binary(max_size=20),
    st.sampled_from("uib"),
)
_keys = st.one_of(
    _texts, st.sampled_from(["$array", "$bytes", "$float", "$escaped", "kind", "data"])
)
_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        _texts,
        st.binary(max_size=9),
        _arrays,
    ),
    lambda values: st.one_of(
        st.lists(values, max_size=3), st.dictionaries(_keys, values, max_size=3)
    ),
    max_leaves=6,
)
_maps = st.dictionaries(_keys, _values, max_size=3)
_rewards = st.none() | st.floats()
_executed = st.sampled_from(["yes", "no", "unknown"])
_outcomes = st.one_of(
    st.builds(Terminated),
    st.builds(
        Truncated,
        reason=st.sampled_from(
            ["environment", "max_steps", "episode_timeout", "agent", "cancelled"]
        ),
    ),
    st.builds(
        EnvironmentFailure,
        exception=_texts,
        message=_texts,
        traceback=_texts,
        executed=_executed,
    ),
    st.builds(PolicyFailure, exception=_texts, message=_texts, traceback=_texts),
    st.builds(
        InfrastructureFailure,
        kind=_texts,
        executed=_executed,
        retryable=st.booleans(),
        message=_texts,
    ),
)
_times = st.integers(0, 2**62)
_timings = st.builds(
    EpisodeTiming,
    total_ns=_times,
    policy_ns=_times,
    wire_ns=_times,
    queue_ns=_times,
    environment_ns=_times,
    idle_ns=_times,
)
_extras = st.one_of(
    _maps,
    st.fixed_dictionaries(
        {},
        optional={
            "token_ids": st.lists(st.integers() | st.booleans(), max_size=3),
            "prompt_token_ids": st.lists(_int64, max_size=3) | _arrays,
            "logprobs": st.lists(st.floats() | st.integers(), max_size=3),
        },
    ),
)
_steps: st.SearchStrategy[EpisodeStep[Any, Any]] = st.builds(
    EpisodeStep,
    action=_values,
    observation=_values,
    reward=_rewards,
    terminated=st.booleans(),
    truncated=st.booleans(),
    extras=_extras,
    timing=st.builds(StepTiming, policy_ns=_times, queue_ns=_times),
)
_attempts = st.builds(
    Attempt, outcome=_outcomes, length=st.integers(0, 99), timing=_timings
)


@st.composite
def any_episode(draw: st.DrawFn) -> Episode[Any, Any]:
    """Any episode that can be written."""
    outcome = draw(_outcomes)
    task = Task(
        id=draw(_texts),
        seed=draw(st.none() | _int64),
        options=draw(st.none() | _maps),
        metadata=draw(_maps),
        priority=draw(st.integers(-9, 9)),
    )
    return Episode(
        id=f"{task.id}/{draw(st.integers(0, 9))}",
        environment=draw(_texts),
        task=task,
        seed=draw(_int64),
        group=task.id,
        group_index=draw(st.integers(0, 9)),
        group_size=draw(st.integers(1, 9)),
        initial_observation=draw(_values),
        steps=draw(st.lists(_steps, max_size=3)),
        outcome=outcome,
        return_=None if has_failed(outcome) else draw(_rewards),
        earlier_attempts=draw(st.lists(_attempts, max_size=2)),
        started=draw(st.floats(0, 1e12)),
        timing=draw(_timings),
        session=draw(_texts),
        extras=draw(_maps),
        metadata=draw(_maps),
    )
