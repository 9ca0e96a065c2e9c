"""A policy that does what is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, final

from ...errors import LocalProtocolError
from ..episodes import Task
from ..policies import EpisodeContext

__all__ = ["ScriptedPolicy"]

ActT = TypeVar("ActT")


@final
class ScriptedPolicy(Generic[ActT]):
    """Performs a list of actions, one after the other, in every episode.

    An episode that goes on behind the end of its script fails.

    Args:
        script: The actions, or what gives them for a task.
        repeat: Whether to begin again at the end.

    Raises:
        LocalProtocolError: The script is empty.
    """

    def __init__(
        self,
        script: Sequence[ActT] | Callable[[Task], Sequence[ActT]],
        *,
        repeat: bool = False,
    ) -> None:
        if not callable(script) and not script:
            raise LocalProtocolError("expected a script with actions, got an empty one")
        self._script = script
        self._repeat = repeat

    async def act(self, observation: object, episode: EpisodeContext) -> ActT:
        """Take the next action."""
        return self._next(episode)

    async def act_batch(
        self, observations: Sequence[object], episodes: Sequence[EpisodeContext]
    ) -> list[ActT | Exception]:
        """Take the next action of each."""
        chosen: list[ActT | Exception] = []
        for episode in episodes:
            try:
                chosen.append(self._next(episode))
            except LocalProtocolError as error:
                chosen.append(error)
        return chosen

    def _next(self, episode: EpisodeContext) -> ActT:
        script: Sequence[ActT]
        if callable(self._script):
            if "script" not in episode.memory:
                episode.memory["script"] = self._script(episode.task)
            script = episode.memory["script"]
        else:
            script = self._script
        position = len(episode.steps)
        if self._repeat and script:
            position %= len(script)
        if position >= len(script):
            raise LocalProtocolError(
                f"expected an episode of at most {len(script)} steps, but "
                f"{episode.id!r} goes on"
            )
        return script[position]
