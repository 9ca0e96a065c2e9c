"""The three shapes of a policy, and what it is told about an episode.

A policy chooses actions for one episode at a time (`Policy`), for a batch of them
(`BatchPolicy`), or plays a whole episode by itself (`Agent`). All are plain Protocols:
there is nothing to subclass.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, final

import msgspec

from .episodes import EpisodeStep, Task

if TYPE_CHECKING:
    from .agents import AgentEnv

__all__ = [
    "Agent",
    "AnyPolicy",
    "BatchPolicy",
    "Decision",
    "EpisodeBatchPolicy",
    "EpisodeContext",
    "Policy",
]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
ActT_co = TypeVar("ActT_co", covariant=True)
ObsT_contra = TypeVar("ObsT_contra", contravariant=True)


class Decision(msgspec.Struct, Generic[ActT], frozen=True):
    """An action with what else is worth recording about it.

    Anything that encodes may be an extra: `token_ids`, `logprobs`, `value`, arrays.
    """

    action: ActT
    extras: dict[str, object] = msgspec.field(default_factory=dict[str, object])


@final
class EpisodeContext:
    """What a policy may know about the episode that it acts in.

    There is one for each attempt, and it goes with it.
    """

    __slots__ = (
        "_policy_seed",
        "_random",
        "attempt",
        "environment",
        "extras",
        "group_index",
        "id",
        "memory",
        "seed",
        "steps",
        "task",
    )

    def __init__(
        self,
        task: Task,
        *,
        id: str,
        seed: int,
        policy_seed: int,
        environment: str = "",
        group_index: int = 0,
        attempt: int = 1,
    ) -> None:
        self.task = task
        self.id = id
        """As in `Episode.id`."""
        self.seed = seed
        """What the environment was reset with."""
        self.environment = environment
        self.group_index = group_index
        self.attempt = attempt
        self.steps: list[EpisodeStep[Any, Any]] = []
        """What has been recorded so far; only to be read."""
        self.memory: dict[str, Any] = {}
        """The policy's own notes, such as a conversation; not recorded."""
        self.extras: dict[str, object] = {}
        """What the policy wants recorded about the whole episode."""
        self._policy_seed = policy_seed
        self._random: random.Random | None = None

    @property
    def policy_seed(self) -> int:
        """For the policy's own random numbers; the same in every attempt."""
        return self._policy_seed

    @property
    def random(self) -> random.Random:
        """The policy's random numbers: whatever the timing, the same in every run."""
        if self._random is None:
            self._random = random.Random(self._policy_seed)
        return self._random


class Policy(Protocol[ObsT_contra, ActT_co]):
    """Chooses actions for one episode at a time.

    Calls for different episodes overlap, which suits a server that batches by itself.
    What it raises fails the episode.
    """

    async def act(
        self, observation: ObsT_contra, episode: EpisodeContext, /
    ) -> ActT_co | Decision[ActT_co]:
        """Choose the next action; cancelled if the episode is cut off meanwhile."""
        ...


class BatchPolicy(Protocol[ObsT_contra, ActT_co]):
    """Chooses actions for many episodes at once.

    What it raises fails all episodes of the batch; an exception in an action's place
    fails that episode alone.
    """

    async def act_batch(
        self, observations: Sequence[ObsT_contra], /
    ) -> Sequence[ActT_co | Decision[ActT_co] | Exception]:
        """Choose an action for each observation, in the same order."""
        ...


class EpisodeBatchPolicy(Protocol[ObsT_contra, ActT_co]):
    """The same for a policy that wants to know the episodes, too."""

    async def act_batch(
        self,
        observations: Sequence[ObsT_contra],
        episodes: Sequence[EpisodeContext],
        /,
    ) -> Sequence[ActT_co | Decision[ActT_co] | Exception]:
        """Choose an action for each observation, in the same order."""
        ...


class Agent(Protocol):
    """Plays an episode by itself, as a harness with tools of its own does.

    What it raises fails the episode, unless that has ended already. If it returns
    before the end, the episode is truncated.
    """

    async def play(self, env: AgentEnv[Any, Any], task: Task, /) -> None:
        """Play the episode; cancelled if it is cut off meanwhile."""
        ...


AnyPolicy: TypeAlias = (
    Policy[ObsT, ActT]
    | BatchPolicy[ObsT, ActT]
    | EpisodeBatchPolicy[ObsT, ActT]
    | Agent
)
"""What can play episodes. With several methods `play` wins, then `act_batch`."""
