"""What calls return: step results, failures in a batch, where the time went."""

from __future__ import annotations

import contextlib
import enum
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from ..arrays import Array
from ..environment import Observation
from ..errors import Executed, LocalProtocolError, OpenEnvError

__all__ = [
    "AutoresetMode",
    "BatchResult",
    "Failure",
    "GenericObservation",
    "Ready",
    "StepResult",
    "Timing",
    "revive",
]

ObsT = TypeVar("ObsT")


class Timing(msgspec.Struct, frozen=True):
    """Where a call's time went, in nanoseconds."""

    round_trip_ns: int
    """From the call to its reply, on the client's clock."""
    queue_ns: int
    """Waiting on the server for the environment."""
    environment_ns: int
    """In the environment's own code."""
    encode_ns: int
    """Encoding the observation."""

    @property
    def wire_ns(self) -> int:
        """Everything else: both event loops, the kernel, the network."""
        known = self.queue_ns + self.environment_ns + self.encode_ns
        return max(0, self.round_trip_ns - known)


class StepResult(msgspec.Struct, Generic[ObsT], frozen=True):
    """The outcome of a `reset` or a `step`."""

    observation: ObsT
    round_trip_ns: int = 0
    queue_ns: int = 0
    environment_ns: int = 0
    encode_ns: int = 0
    is_reset: bool = False
    """Whether the observation begins an episode."""
    final: StepResult[ObsT] | None = None
    """With same-step autoreset: the result that ended the episode before."""

    @property
    def reward(self) -> float | None:
        """The observation's reward; None where there is none."""
        return _fields(self.observation).reward

    @property
    def terminated(self) -> bool:
        """Whether the task reached its end."""
        return _fields(self.observation).terminated

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off."""
        return _fields(self.observation).truncated

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        observation = _fields(self.observation)
        return observation.terminated or observation.truncated

    @property
    def info(self) -> dict[str, Any]:
        """The observation's metadata."""
        return _fields(self.observation).metadata

    @property
    def timing(self) -> Timing:
        """Where the time of the call went."""
        return Timing(
            self.round_trip_ns, self.queue_ns, self.environment_ns, self.encode_ns
        )


class Failure(msgspec.Struct, frozen=True):
    """In a batch: the call on this session failed. It has no reward."""

    error: OpenEnvError
    final: StepResult[Any] | None = None
    """With same-step autoreset, when the reset failed: the result that ended the
    episode."""

    @property
    def executed(self) -> Executed:
        """Whether the environment ran the call."""
        return self.error.executed


BatchResult: TypeAlias = StepResult[ObsT] | Failure
"""What stands in a session's place: its result, or why there is none."""


class AutoresetMode(enum.Enum):
    """What happens to a session whose episode is over; as in Gymnasium."""

    NEXT_STEP = "NextStep"
    """The next `step` ignores the action and resets: its result `is_reset`."""
    SAME_STEP = "SameStep"
    """The step that ends an episode also resets: the result is the first one of the
    next episode, and its `final` is the last one of the episode before."""
    DISABLED = "Disabled"
    """Nothing: a step fails with `EpisodeDone` until `reset` is called."""

    @classmethod
    def of(cls, value: AutoresetMode | str) -> AutoresetMode:
        """The mode of that name.

        Raises:
            LocalProtocolError: There is none.
        """
        try:
            return cls(value)
        except ValueError as error:
            modes = [mode.value for mode in cls]
            raise LocalProtocolError(
                f"expected one of {modes!r}, got {value!r}"
            ) from error


class Ready(msgspec.Struct, Generic[ObsT], frozen=True):
    """The sessions that were done first."""

    indices: list[int]
    """Places of the sessions in the batch, in the order of their replies."""
    results: list[BatchResult[ObsT]]
    """Their results, in the same order."""

    def __len__(self) -> int:
        return len(self.indices)


class GenericObservation(dict[str, Any]):
    """An observation of unknown type: a dict, with the fields that all share."""

    @property
    def reward(self) -> float | None:
        """The reward; None where there is none."""
        reward: float | None = self.get("reward")
        return reward

    @property
    def terminated(self) -> bool:
        """Whether the task reached its end."""
        return bool(self.get("terminated", False))

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off."""
        return bool(self.get("truncated", False))

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def metadata(self) -> dict[str, Any]:
        """What else came with the observation."""
        return dict(self.get("metadata") or {})


def _fields(observation: object) -> Observation | GenericObservation:
    # Both kinds have the same attributes, and an isinstance here would be paid for
    # with every access.
    return observation  # type: ignore[return-value]  # see above


def revive(value: object) -> object:
    """Turn maps that describe arrays into `Array`, at any depth."""
    if isinstance(value, dict):
        fields: dict[object, object] = value  # pyright: ignore[reportUnknownVariableType]  # of whatever
        if fields.get("kind") == "array" and fields.keys() == {
            "kind",
            "dtype",
            "shape",
            "data",
        }:
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert(fields, Array)
        return {key: revive(item) for key, item in fields.items()}
    if isinstance(value, list):
        items: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # of whatever
        return [revive(item) for item in items]
    return value
