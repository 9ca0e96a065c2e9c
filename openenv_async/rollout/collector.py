"""`collect`: episodes of many tasks, as fast as environments and policy allow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack, final

from .._aio import shielded
from ..client import AutoresetMode, EnvBatch
from ..errors import LocalProtocolError
from .agents import AgentDriver
from .drivers import ActDriver, BatchDriver
from .episodes import Episode
from .options import CollectorKeywords, CollectorOptions
from .policies import AnyPolicy
from .run import Driver, Run
from .starts import TasksLike
from .timing import RunStatistics

__all__ = ["Collector", "collect"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")

_CLOSE_TIMEOUT = 60.0


@final
class Collector(Generic[ActT, ObsT]):
    """Plays tasks with a policy; iterate over it for the episodes.

    Every session of the batch plays one episode after the other. None waits for
    another one, and what happens to one episode harms no other: a failure is recorded
    in its outcome. Use it as an async context manager; leaving it, whyever, ends all
    episodes, and leaves neither a session nor a task behind.

    Given the same tasks, seeds and a deterministic policy, the episodes are the same
    whatever the timing; only their order is not. `seeding` tells how seeds derive.

    Args:
        envs: `EchoEnv.batch(url, size=256)`, or with `provider` a fleet of servers.
            One that is not open is opened, and closed at the end.
        policy: See `Policy`, `BatchPolicy` and `Agent`.
        tasks: What to play; any iterable, also an async or an endless one, or a number.
        options: How.

    Raises:
        LocalProtocolError: The policy has none of the methods, or the batch resets by
            itself.
    """

    def __init__(
        self,
        envs: EnvBatch[ActT, ObsT, Any],
        policy: AnyPolicy[ObsT, ActT],
        tasks: TasksLike,
        options: CollectorOptions | None = None,
    ) -> None:
        if envs.autoreset is not AutoresetMode.DISABLED:
            raise LocalProtocolError(
                "expected a batch with autoreset 'Disabled', got "
                f"{envs.autoreset.value!r}"
            )
        self.options = options or CollectorOptions()
        self._batch = envs
        self._driver = _driver_of(policy)
        self._tasks = tasks
        self._owns_batch = False
        self._run: Run | None = None

    # Opening and closing

    async def __aenter__(self) -> Collector[ActT, ObsT]:
        if self._run is not None:
            raise LocalProtocolError("expected a collector that was not used before")
        if not self._batch.servers:
            await self._batch.open()
            self._owns_batch = True
        self._run = Run(
            self._batch,
            self._driver,
            self._tasks,
            self.options,
            keep=not self._owns_batch,
        )
        self._run.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all episodes, and close what was opened; idempotent.

        Complete also when it is cancelled. Episodes that nobody took are gone.
        """
        if self._run is not None:
            await shielded(self._teardown(self._run), timeout=_CLOSE_TIMEOUT)

    async def _teardown(self, run: Run) -> None:
        try:
            await run.aclose()
        finally:
            if self._owns_batch:
                await self._batch.aclose()

    # Episodes

    def __aiter__(self) -> AsyncIterator[Episode[ActT, ObsT]]:
        return self

    async def __anext__(self) -> Episode[ActT, ObsT]:
        """Wait for the next episode; cancelling it loses none.

        Raises:
            OpenEnvError: No session is left and none can be opened.
            Exception: What the source of tasks raised.
        """
        episode = await self._opened().delivery.take()
        if episode is None:
            raise StopAsyncIteration
        return episode

    async def groups(self) -> AsyncGenerator[list[Episode[ActT, ObsT]], None]:
        """Yield groups instead of single episodes; needs the order `grouped`.

        Raises:
            LocalProtocolError: The order is another one.
        """
        if self.options.order != "grouped":
            raise LocalProtocolError(
                f"expected the order 'grouped', got {self.options.order!r}"
            )
        group: list[Episode[ActT, ObsT]] = []
        async for episode in self:
            if group and group[0].group != episode.group:
                # A group of a cancelled run, whose other episodes never began.
                yield group
                group = []
            group.append(episode)
            if len(group) == self.options.group_size:
                yield group
                group = []
        if group:
            yield group

    # Control

    def pause(self) -> None:
        """Start no episode and call no policy until `resume`; idempotent.

        What environments are doing goes on. Use `wait_quiet` before changing what the
        policy computes with.
        """
        self._opened().pause()

    def resume(self) -> None:
        """Go on; timeouts of episodes do not count the pause. Idempotent."""
        self._opened().resume()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self._opened().paused

    async def wait_quiet(self) -> None:
        """Wait until no call of the policy is running.

        For an agent a call is a whole episode.
        """
        await self._opened().meter.wait_quiet()

    def cancel(self) -> None:
        """End all episodes as they are, and start no more.

        They are truncated as `cancelled`, and iterating ends behind them.
        """
        self._opened().cancel()

    def statistics(self, *, slowest: int = 5) -> RunStatistics:
        """Where the run stands; cheap enough to be asked ten times a second.

        Args:
            slowest: How many of the slowest sessions to name.
        """
        return self._opened().statistics(slowest)

    def _opened(self) -> Run:
        if self._run is None:
            raise LocalProtocolError("expected an open collector: use `async with`")
        return self._run


async def collect(
    envs: EnvBatch[ActT, ObsT, Any],
    policy: AnyPolicy[ObsT, ActT],
    tasks: TasksLike,
    **options: Unpack[CollectorKeywords],
) -> AsyncGenerator[Episode[ActT, ObsT], None]:
    """Play tasks with a policy, and yield the episodes; see `Collector`.

    A loop that is left by `break` ends the run when the generator is collected: use
    `contextlib.aclosing`, or a `Collector`, to know when.

    Args:
        envs: The sessions, opened or not.
        policy: Chooses the actions, or plays.
        tasks: What to play.
        options: The fields of `CollectorOptions`.
    """
    async with Collector(envs, policy, tasks, CollectorOptions(**options)) as collector:
        async for episode in collector:
            yield episode


def _driver_of(policy: Any) -> Driver:
    """The way to ask a policy, by the methods that it has."""
    for method, kind in (
        ("play", AgentDriver),
        ("act_batch", BatchDriver),
        ("act", ActDriver),
    ):
        found = getattr(policy, method, None)
        if callable(found):
            driver: Driver = kind(policy)
            return driver
    raise LocalProtocolError(
        f"expected a policy with `act`, `act_batch` or `play`, got {policy!r}"
    )
