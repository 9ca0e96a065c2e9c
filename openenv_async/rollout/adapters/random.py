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
        optional: Share of the fields with a default that are drawn all the same. None
            draws none of them, unless a type has no others.

    Raises:
        LocalProtocolError: The type has no JSON Schema.
    """

    def __init__(
        self,
        action: type[ActT] | UnionType | Mapping[str, Any],
        *,
        optional: float | None = None,
    ) -> None:
        self._optional = optional
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
            optional = self._optional
            if optional is None:
                optional = 0.0 if _has_required(self._schema, self._schema) else 0.5
            sampler = Sampler(self._schema, seed=episode.policy_seed, optional=optional)
            episode.memory["sampler"] = sampler
        value = sampler.sample()
        if self._type is not None:
            # Through the wire's encoding, which knows arrays and binary data.
            value = msgspec.msgpack.decode(MSGPACK.encode(value), type=self._type)
        return cast(ActT, value)


def _has_required(schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether an object of this schema, or of each of several, has to have a field."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        return _has_required(root.get("$defs", {}).get(name, {}), root)
    kinds = schema.get("anyOf", schema.get("oneOf"))
    if kinds:
        return all(_has_required(kind, root) for kind in kinds)
    return bool(schema.get("required")) or "properties" not in schema
