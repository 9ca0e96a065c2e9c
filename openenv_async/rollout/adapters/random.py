"""A policy that does anything that the environment's action type allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Generic, TypeVar, cast, final

import msgspec

from ...errors import LocalProtocolError
from ...messages import MSGPACK
from ..policies import EpisodeContext
from .sampling import Sampler

__all__ = ["RandomPolicy"]

ActT = TypeVar("ActT")


@final
class RandomPolicy(Generic[ActT]):
    """Draws actions from their type, or from their JSON Schema.

    What it does in an episode depends on the episode's policy seed alone.

    Args:
        action: The type, such as `EchoAction`; or a schema as a server's `/schema`
            shows it, with which actions are plain values.

    Raises:
        LocalProtocolError: The type has no JSON Schema.
    """

    def __init__(self, action: type[ActT] | UnionType | Mapping[str, Any]) -> None:
        self._schema: Mapping[str, Any]
        self._type: Any = None
        if isinstance(action, Mapping):
            self._schema = action
            return
        try:
            self._schema = msgspec.json.schema(action)
        except (TypeError, RecursionError) as error:
            raise LocalProtocolError(
                f"expected an action type with a JSON Schema, got {action!r}: {error}"
            ) from error
        self._type = action

    async def act(self, observation: object, episode: EpisodeContext) -> ActT:
        """Draw an action."""
        return self._draw(episode)

    async def act_batch(
        self, observations: Sequence[object], episodes: Sequence[EpisodeContext]
    ) -> list[ActT]:
        """Draw an action for each."""
        return [self._draw(episode) for episode in episodes]

    def _draw(self, episode: EpisodeContext) -> ActT:
        sampler: Sampler | None = episode.memory.get("sampler")
        if sampler is None:
            sampler = Sampler(self._schema, seed=episode.policy_seed)
            episode.memory["sampler"] = sampler
        value = sampler.sample()
        if self._type is not None:
            # Through the wire's encoding, which knows arrays and binary data.
            value = msgspec.msgpack.decode(MSGPACK.encode(value), type=self._type)
        return cast(ActT, value)
