"""Plays recorded actions again, with the same seeds: is the environment repeatable?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, final

import anyio
import anyio.to_thread
import msgspec

from ...client import GenericEnv, StepResult
from ...errors import LocalProtocolError, OpenEnvError
from ...providers import Placer, Provider, placer_of
from ..episodes import Episode
from .comparing import Comparison, Mismatch

__all__ = ["Difference", "ReplayReport", "replay"]

_KEPT: Final = 100
"""Differences that a report keeps."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference of an episode."""

    episode: str
    step: int
    """0 for the reset, 1 for what the first action led to."""
    path: str
    """What differs, such as `reward` or `observation.board[3]`; `error` where there
    was an error instead."""
    expected: str
    """What was recorded."""
    got: str


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found."""

    episodes: int
    """That were played again."""
    steps: int
    """That were compared."""
    skipped: int
    """Episodes whose reset had failed: there is nothing to compare with."""
    differing: int
    """Episodes that differ."""
    differences: list[Difference]
    """The first of each, up to a hundred, in the order in which they were found."""

    @property
    def first(self) -> Difference | None:
        """The first difference; None if everything was the same."""
        return self.differences[0] if self.differences else None


async def replay(
    episodes: Iterable[Episode[Any, Any]],
    url: str | None = None,
    *,
    provider: Provider | Placer | None = None,
    environment: str | None = None,
    token: str | None = None,
    concurrency: int = 16,
    timeout: float | None = 60.0,
    ignore: Iterable[str] = (),
    tolerance: float = 0.0,
    played: Callable[[ReplayReport], None] | None = None,
) -> ReplayReport:
    """Play recorded episodes again and compare observations and rewards.

    Every episode is reset with its own seed and options, and gets the recorded actions,
    also where it failed in the end. It is compared up to its first difference.
    Cancelling it leaves nothing behind.

    Args:
        episodes: What was recorded, such as `open_run(folder)`; read in a thread, and
            not further ahead than is played.
        url: The server; or give `provider`.
        provider: Starts the server, or is a fleet of them.
        environment: Which of the server's environments.
        token: Bearer token.
        concurrency: Episodes at a time.
        timeout: Seconds for each call.
        ignore: Paths that may differ, such as `observation.metadata.*`.
        tolerance: How far numbers may be apart, relative to the larger one.
        played: Called after every episode with what was found so far.

    Raises:
        ConnectFailed: There is no server.
        OpenEnvError: Sessions cannot be opened, for whatever other reason.
        RunDamaged: The episodes can't be read any more.
    """
    if concurrency < 1:
        raise LocalProtocolError(f"expected a concurrency above 0, got {concurrency}")
    player = _Player(
        iter(episodes), Comparison(ignore=ignore, tolerance=tolerance), timeout, played
    )
    placer = placer_of(url, provider)
    errors: list[OpenEnvError] = []

    async def play_all(scope: anyio.CancelScope) -> None:
        env = GenericEnv(provider=placer, environment=environment, token=token)
        try:
            await player.play_all(env)
        except OpenEnvError as error:
            # Noted, because the task group would wrap it.
            errors.append(error)
            scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(concurrency):
            group.start_soon(play_all, group.cancel_scope)
    if errors:
        raise errors[0]
    return player.report()


@final
class _Player:
    """Plays episodes on the sessions that it is given."""

    def __init__(
        self,
        episodes: Iterator[Episode[Any, Any]],
        comparison: Comparison,
        timeout: float | None,
        played: Callable[[ReplayReport], None] | None,
    ) -> None:
        self._episodes = episodes
        self._comparison = comparison
        self._timeout = timeout
        self._played = played
        # A generator can run in one thread at a time.
        self._reading = anyio.Lock()
        self._count = self._steps = self._skipped = self._differing = 0
        self._differences: list[Difference] = []

    def report(self) -> ReplayReport:
        """What was found so far."""
        return ReplayReport(
            episodes=self._count,
            steps=self._steps,
            skipped=self._skipped,
            differing=self._differing,
            differences=list(self._differences),
        )

    async def play_all(self, env: GenericEnv) -> None:
        """Play episodes on a session until none is left."""
        async with contextlib.AsyncExitStack() as stack:
            while (episode := await self._next()) is not None:
                if episode.initial_observation is None:
                    self._skipped += 1
                    continue
                if not env.is_open:
                    # Not before there is something to play; again after a loss.
                    await env.aclose()
                    await stack.enter_async_context(env)
                difference = await self._play(env, episode)
                self._count += 1
                if difference is not None:
                    self._differing += 1
                    if len(self._differences) < _KEPT:
                        self._differences.append(difference)
                if self._played is not None:
                    self._played(self.report())

    async def _next(self) -> Episode[Any, Any] | None:
        async with self._reading:
            return await anyio.to_thread.run_sync(next, self._episodes, None)

    async def _play(
        self, env: GenericEnv, episode: Episode[Any, Any]
    ) -> Difference | None:
        step = 0
        found: Mismatch | None
        try:
            result = await env.reset(
                seed=episode.seed, options=episode.task.options, timeout=self._timeout
            )
            found = self._comparison.first(
                "observation", episode.initial_observation, result.observation
            )
            while found is None and step < episode.length:
                recorded = episode.steps[step]
                step += 1
                result = await env.step(recorded.action, timeout=self._timeout)
                self._steps += 1
                found = self._compare(recorded, result)
        except OpenEnvError as error:
            found = Mismatch("error", "no error", f"{error.code}: {error.message}")
        if found is None:
            return None
        return Difference(episode=episode.id, step=step, **found._asdict())

    def _compare(self, recorded: Any, result: StepResult[Any]) -> Mismatch | None:
        for path, expected, got in (
            ("observation", recorded.observation, result.observation),
            ("reward", recorded.reward, result.reward),
            ("terminated", recorded.terminated, result.terminated),
            ("truncated", recorded.truncated, result.truncated),
        ):
            found = self._comparison.first(path, expected, got)
            if found is not None:
                return found
        return None
