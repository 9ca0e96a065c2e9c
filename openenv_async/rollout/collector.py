"""`collect`: episodes of many tasks, as fast as environments and policy allow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack, final

from .._aio import shielded
from ..client import AutoresetMode, EnvBatch
from ..errors import LocalProtocolError, SessionBusy
from .agents import AgentDriver
from .drivers import ActDriver, BatchDriver, Driver
from .episodes import Episode
from .options import CollectorKeywords, CollectorOptions
from .policies import AnyPolicy
from .run import Run
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
        SessionBusy: On entering it, another collector plays on the batch, or results
            on it are not taken.
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
        self._is_used = self._is_closed = False

    # Opening and closing

    async def __aenter__(self) -> Collector[ActT, ObsT]:
        if self._is_used:
            raise LocalProtocolError("expected a collector that was not used before")
        self._is_used = True
        await self._batch.loan.take(is_open=bool(self._batch.servers))
        try:
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
        except BaseException:
            try:
                if self._owns_batch:
                    await shielded(self._batch.aclose(), timeout=_CLOSE_TIMEOUT)
            finally:
                self._batch.loan.give_back()
            raise
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
        run = self._run
        if run is None or self._is_closed:
            return
        if run.closing:
            # Somebody closes it already.
            await self._batch.loan.wait()
            return
        run.stop()
        returned = self._batch.loan.returned(self._teardown(run))
        await shielded(returned, timeout=_CLOSE_TIMEOUT)

    async def _teardown(self, run: Run) -> None:
        try:
            await run.aclose()
        finally:
            self._is_closed = True
            if self._owns_batch:
                await self._batch.aclose()

    def abandon(self) -> None:
        """Begin to close it from where nothing can be awaited, such as `__del__`.

        It is closed behind the caller's back. Whatever is called on the batch next
        waits for that.
        """
        run = self._run
        if run is None or run.closing or run.loop.is_closed():
            return
        try:
            is_here = asyncio.get_running_loop() is run.loop
        except RuntimeError:
            is_here = False
        if is_here:
            self._abandon(run)
        else:
            # The garbage collector runs in whatever thread.
            run.loop.call_soon_threadsafe(self._abandon, run)

    def _abandon(self, run: Run) -> None:
        if not run.closing:
            run.stop()
            self._batch.loan.return_later(self._teardown(run))

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


def collect(
    envs: EnvBatch[ActT, ObsT, Any],
    policy: AnyPolicy[ObsT, ActT],
    tasks: TasksLike,
    **options: Unpack[CollectorKeywords],
) -> AsyncGenerator[Episode[ActT, ObsT], None]:
    """Play tasks with a policy, and yield the episodes; see `Collector`.

    A loop that is left by `break`, or whose task is cancelled, ends the run: the next
    call on the batch, or the next `collect`, waits until its sessions are free again.
    `contextlib.aclosing`, or a `Collector`, waits for that itself.

    Args:
        envs: The sessions, opened or not.
        policy: Chooses the actions, or plays.
        tasks: What to play.
        options: The fields of `CollectorOptions`.

    Raises:
        LocalProtocolError: The policy has none of the methods, an option is out of its
            range, or the batch resets by itself.
    """
    return _Episodes(Collector(envs, policy, tasks, CollectorOptions(**options)))


class _Episodes(AsyncGenerator[Episode[ActT, ObsT], None]):
    """A collector as an asynchronous generator.

    No generator function, because those are closed some time after they are dropped:
    what comes next on the batch would meet a run that does not know that it is over.
    """

    def __init__(self, collector: Collector[ActT, ObsT]) -> None:
        self._collector = collector
        self._is_open = self._is_over = self._is_busy = False

    async def asend(self, value: None, /) -> Episode[ActT, ObsT]:
        """Wait for the next episode, as iterating does.

        Raises:
            SessionBusy: Somebody else waits.
        """
        if self._is_busy:
            raise SessionBusy("expected one consumer of episodes at a time")
        if self._is_over:
            raise StopAsyncIteration
        self._is_busy = True
        try:
            if not self._is_open:
                await self._collector.__aenter__()
                self._is_open = True
            return await self._collector.__anext__()
        except (Exception, asyncio.CancelledError):
            # As in a generator: what leaves it ends it.
            await self.aclose()
            raise
        finally:
            self._is_busy = False

    async def athrow(self, *error: Any) -> Episode[ActT, ObsT]:
        """End the run, and raise."""
        await self.aclose()
        given = [one for one in error[:2] if one is not None]
        raise given[-1]

    async def aclose(self) -> None:
        """End the run; idempotent, and complete also when it is cancelled."""
        self._is_over = True
        await self._collector.aclose()

    def __del__(self) -> None:
        self._collector.abandon()


def _driver_of(policy: Any) -> Driver:
    """The way to ask a policy, by the methods that it has."""
    if isinstance(policy, type):
        raise LocalProtocolError(
            f"expected a policy, got the class {policy.__qualname__!r}: make one of it"
        )
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
