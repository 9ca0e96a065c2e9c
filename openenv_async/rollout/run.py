"""The machinery of a run: sessions that play episodes, refilled as they become free.

One task takes what arrives on the batch, records it, and hands every observation to
the driver, which knows how to ask the policy. There is no task and no future for a
step. Sessions that were lost, or that do something nobody waits for any more, are
replaced behind the back of the others.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from contextvars import copy_context
from time import perf_counter_ns
from typing import Any, Final, final

import anyio
import msgspec

from .._aio import Tasks, shielded
from ..client import EnvBatch, Failure, Ready
from ..errors import DeadlineExceeded, OpenEnvError, SessionClosed
from .adaptive import Adapter
from .delivery import Delivery
from .drivers import Driver
from .episodes import Episode, Outcome, Terminated, Truncated, has_failed, outcome_label
from .groups import Groups
from .live import LiveEpisode, Phase, Start, unstarted
from .options import CollectorOptions
from .outcomes import outcome_of_error
from .policies import EpisodeContext
from .reach import Reach
from .starts import Starts, TasksLike
from .timing import Meter, RunStatistics

__all__ = ["Run"]

_logger = logging.getLogger("openenv_async.rollout")

_TICK: Final = 0.25
"""Seconds between looks at deadlines, stragglers and rates."""
_TICKS_PER_TIMEOUT: Final = 20
"""How exactly a short episode timeout is kept."""
_BACKOFF: Final = (0.05, 2.0)
"""Seconds before the first and, at most, between later tries to replace sessions."""
_TEARDOWN_TIMEOUT: Final = 15.0
_LOST_PATIENCE: Final = 1.0
"""Seconds that a teardown waits for a server that is out of reach."""

_TERMINATED: Final = Terminated()
_BY_ENVIRONMENT: Final = Truncated(reason="environment")
_BY_MAX_STEPS: Final = Truncated(reason="max_steps")
_BY_TIMEOUT: Final = Truncated(reason="episode_timeout")
_CUT_OFF: Final = Truncated(reason="cut_off")
_CANCELLED: Final = Truncated(reason="cancelled")


@final
class Run:
    """Plays tasks on the sessions of a batch.

    Args:
        batch: The sessions; open, and nobody else's meanwhile.
        driver: Asks the policy.
        tasks: What to play.
        options: How.
        keep: Whether the batch is used afterwards.
    """

    def __init__(
        self,
        batch: EnvBatch[Any, Any, Any],
        driver: Driver,
        tasks: TasksLike,
        options: CollectorOptions,
        *,
        keep: bool,
    ) -> None:
        self.options = options
        self._keep = keep
        self._batch = batch
        self._driver = driver
        size = len(batch)
        most = size if options.concurrency is None else min(options.concurrency, size)
        self._limit = most
        self._adapter: Adapter | None = None
        if options.adaptive is not None:
            self._adapter = Adapter(options.adaptive, most)
            self._limit = self._adapter.limit
        self.delivery = Delivery(options.queue_size or most, self.schedule)
        self._groups = Groups(options)
        self._starts = Starts(
            tasks,
            options,
            window=options.lookahead or most,
            read=self._groups.add,
            changed=self.schedule,
        )
        self.meter = Meter(max_batch=options.batching.max, batches=driver.batches)
        self._lives: list[LiveEpisode | None] = [None] * size
        self._free: deque[int] = deque(range(size))
        self._sessions = batch.session_ids
        self._environment = batch.environment
        self.abandoned_calls = 0
        """Calls of the policy that did not end when they were cancelled."""
        self.active = 0
        """Episodes that are being played."""
        self._lost: set[int] = set()
        """Places of sessions that nobody has begun to replace."""
        self._replacing: set[int] = set()
        self._reach = Reach(batch, self.meter, options.recovery_timeout)
        self.loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._context = copy_context()
        """For tasks, lest the policy runs in one that may use the batch as we do."""
        self._scheduled = False
        self.closing = False
        self._cancelled = False
        self._posted = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._paused_ns = 0

    # Tasks

    def start(self) -> None:
        """Begin."""
        self.spawn(self._starts.run(), "openenv-async-tasks")
        self.spawn(self._receive(), "openenv-async-receive")
        self.spawn(self._watch(), "openenv-async-watch")
        self.spawn(self._driver.run(self), "openenv-async-policy")
        if self._adapter is not None:
            self.spawn(self._adapt(self._adapter), "openenv-async-adapt")

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]:
        """Start a task of the run; what it raises, the consumer is told."""
        context = self._context.copy()
        task = self._tasks.spawn(self._guarded(coroutine), name, context)
        # One that is cancelled before it began would leave it behind, unawaited.
        task.add_done_callback(lambda _: coroutine.close())
        return task

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:  # noqa: BLE001 (raised in the consumer)
            self.delivery.fail(error)

    def stop(self) -> None:
        """Begin nothing any more; `aclose` has to follow."""
        self.closing = True
        self._starts.close()

    async def aclose(self) -> None:
        """End all tasks, and give up what is on its way. Cancelling changes nothing."""
        self.stop()
        await shielded(self._teardown(), timeout=_TEARDOWN_TIMEOUT)
        self.delivery.end()

    async def _teardown(self) -> None:
        await self._tasks.aclose()
        busy = [
            live.place
            for live in self._lives
            if live is not None and _is_in_flight(live)
        ]
        for place in busy:
            self._lives[place] = None
        if self._keep and (busy or self._lost):
            # Whoever owns the batch gets it back with sessions that are idle.
            await self._replace_at_last([*busy, *self._lost])

    async def _replace_at_last(self, places: list[int]) -> None:
        """Open new sessions in these places, if there is a server to do it."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_without_server, group.cancel_scope)
            problems = await self._batch.replace(places)
            for failure in problems.values():
                _logger.debug("a session stays lost: %s", failure.error.message)
            group.cancel_scope.cancel()

    async def _end_without_server(self, scope: anyio.CancelScope) -> None:
        """Give up what waits for a server when none has been there for a moment."""
        absent = 0.0
        while absent < _LOST_PATIENCE:
            await anyio.sleep(_TICK)
            self._reach.look((), ())
            absent = absent + _TICK if self._reach.unreachable else 0.0
        _logger.warning("no server is there to open sessions: they stay lost")
        scope.cancel()

    # Starting

    def schedule(self) -> None:
        """Look for what can start, at the end of this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._on_schedule)

    def _on_schedule(self) -> None:
        self._scheduled = False
        try:
            self._refill()
        except Exception as error:  # noqa: BLE001 (raised in the consumer)
            self.delivery.fail(error)

    def _refill(self) -> None:
        if self.closing:
            return
        begun: list[LiveEpisode] = []
        while self._may_start():
            start = self._starts.pop()
            if start is None:
                break
            begun.append(self._begin(start))
        if begun:
            with self._batch.loan.used():
                self._batch.send_reset(
                    [live.place for live in begun],
                    seeds=[live.start.seed for live in begun],
                    options=[live.start.task.options for live in begun],
                    timeout=self.options.reset_timeout or self.options.step_timeout,
                )
            self._posted.set()
        self._note_held()
        if self._lost:
            places = sorted(self._lost)
            self._lost.clear()
            self._replacing.update(places)
            self.spawn(self._replace(places), "openenv-async-replace")
        if self._starts.exhausted and not self._starts and not self.active:
            self.delivery.put(self._groups.release())
            self.delivery.end()

    def _may_start(self) -> bool:
        return (
            bool(self._free)
            and self.active < self._limit
            and not self.delivery.full
            and self._resumed.is_set()
        )

    def _note_held(self) -> None:
        """Who keeps a free session from starting, for the verdict."""
        now_ns = perf_counter_ns()
        if not self._free or self.active >= self._limit:
            self.meter.held("", now_ns)
        elif self.delivery.full:
            self.meter.held("consumer", now_ns)
        elif not self._starts and not self._starts.exhausted:
            self.meter.held("tasks", now_ns)
        else:
            self.meter.held("", now_ns)

    def _begin(self, start: Start) -> LiveEpisode:
        place = self._free.popleft()
        now_ns = perf_counter_ns()
        timeout = self.options.episode_timeout
        live = LiveEpisode(
            start,
            EpisodeContext(
                start.task,
                id=start.episode_id,
                seed=start.seed,
                policy_seed=start.policy_seed,
                environment=self._environment,
                group_index=start.index,
                attempt=len(start.past) + 1,
            ),
            place=place,
            session=self._sessions[place],
            now_ns=now_ns,
            started=time.time(),
            deadline_ns=None if timeout is None else now_ns + int(timeout * 1e9),
        )
        self._lives[place] = live
        self.active += 1
        return live

    # Steps

    def post(self, lives: list[LiveEpisode], actions: list[Any]) -> None:
        """Send actions, one for each episode."""
        now_ns = perf_counter_ns()
        for live, action in zip(lives, actions, strict=True):
            live.action = action
            live.phase = Phase.ENVIRONMENT
            live.since_ns = now_ns
        places, timeout = [live.place for live in lives], self.options.step_timeout
        with self._batch.loan.used():
            self._batch.send(places, actions, timeout=timeout)
        self._posted.set()

    async def state(self, live: LiveEpisode) -> object:
        """Read the state of an episode's environment.

        Raises:
            SessionClosed: The run is over.
            OpenEnvError: The call failed; the episode goes on.
        """
        if self.closing:
            # The batch would wait until the run has given it back.
            raise SessionClosed("expected an episode of a run that is not over")
        # If this is cancelled, the session is not free until the answer has come.
        live.reading = True
        try:
            with self._batch.loan.used():
                (state,) = await self._batch.state(
                    indices=[live.place], timeout=self.options.step_timeout
                )
            if isinstance(state, Failure):
                raise state.error
        except OpenEnvError:
            live.reading = False
            raise
        live.reading = False
        return state

    async def _receive(self) -> None:
        """Take what arrives, for ever; the task is its own, and so is the context."""
        self._batch.loan.use()
        while True:
            async for ready in self._batch.ready():
                self._take_all(ready)
            # Nothing is in flight: until something is, there is nothing to wait for.
            self._posted.clear()
            await self._posted.wait()

    def _take_all(self, ready: Ready[Any]) -> None:
        now_ns = perf_counter_ns()
        lives, driver, most = self._lives, self._driver, self.options.max_steps
        note = self.meter.round_trips_ns.append
        over = False
        for place, result in zip(ready.indices, ready.results, strict=True):
            live = lives[place]
            if live is None:
                continue  # Nobody waits for it any more; it is being replaced.
            if isinstance(result, Failure):
                self._failed(live, result.error)
                over = True
                continue
            if live.first is None:
                live.record_reset(result, now_ns)
            else:
                live.record_step(result, now_ns)
                note(result.round_trip_ns)
            observation = result.observation
            if observation.terminated:
                driver.ended(live, _TERMINATED)
            elif observation.truncated:
                driver.ended(live, _BY_ENVIRONMENT)
            elif most is not None and len(live.steps) >= most:
                driver.ended(live, _BY_MAX_STEPS)
            else:
                driver.ready(live)
                continue
            over = True
        if over:
            self._refill()

    def _failed(self, live: LiveEpisode, error: OpenEnvError) -> None:
        in_reset = live.phase is Phase.RESET
        reached = not isinstance(error, SessionClosed)
        live.record_failure(perf_counter_ns(), reached=reached)
        live.replace = isinstance(error, SessionClosed | DeadlineExceeded)
        if (
            in_reset
            and isinstance(error, SessionClosed)
            and error.executed == "no"
            and not live.start.stale
        ):
            # The session ended while it was free: of this episode nothing was lost.
            self._withdraw(live)
            self._starts.put(msgspec.structs.replace(live.start, stale=True))
            return
        self._driver.failed(live, error, outcome_of_error(error, in_reset=in_reset))

    # Ending

    def finish(self, live: LiveEpisode, outcome: Outcome) -> None:
        """The episode is over; its session plays another one. Idempotent."""
        if live.phase is Phase.OVER:
            return
        now_ns = perf_counter_ns()
        self._withdraw(live)
        self.meter.finished(live, now_ns)
        start, options = live.start, self.options
        if (
            has_failed(outcome)
            and len(start.attempts) < options.retries
            and outcome.__struct_config__.tag in options.retry_on
            and not self._cancelled
            and not self._groups.is_due(start.task.id, now_ns)
        ):
            self.meter.retries += 1
            self._starts.retry(start, live.attempt(outcome))
        else:
            self._deliver(live.episode(outcome, options.metadata), now_ns)
        self.schedule()

    def _withdraw(self, live: LiveEpisode) -> None:
        if _is_in_flight(live):
            live.replace = True
        self._driver.gone(live)
        live.phase = Phase.OVER
        self._lives[live.place] = None
        self.active -= 1
        if live.replace:
            self._lost.add(live.place)
        else:
            self._free.append(live.place)
        self.schedule()

    def _deliver(self, episode: Episode[Any, Any], now_ns: int) -> None:
        self.meter.episodes += 1
        self.meter.outcomes[outcome_label(episode.outcome)] += 1
        self.delivery.put(self._groups.ended(episode, now_ns))
        if self.options.cut_off is not None and self._groups.is_due(
            episode.group, now_ns
        ):
            self._cut_off(episode.group)

    def _cut_off(self, group: str) -> None:
        """End what is left of a group."""
        now_ns = perf_counter_ns()
        for start in self._starts.withdraw(group):
            episode = unstarted(
                start,
                _CUT_OFF,
                environment=self._environment,
                metadata=self.options.metadata,
            )
            self._deliver(episode, now_ns)
        self._give_up(self._of_group(group), _CUT_OFF)

    def _of_group(self, group: str) -> list[LiveEpisode]:
        return [live for live in self.lives if live.start.task.id == group]

    def _give_up(self, lives: Iterable[LiveEpisode], outcome: Outcome) -> None:
        for live in lives:
            # An agent that has reached the end may still be busy with itself.
            self.finish(live, live.outcome or outcome)

    @property
    def lives(self) -> list[LiveEpisode]:
        """The episodes that are being played."""
        return [live for live in self._lives if live is not None]

    # Replacing

    @property
    def _gone(self) -> set[int]:
        """Places of sessions that are replaced, or have to be."""
        return self._lost | self._replacing

    async def _replace(self, places: list[int]) -> None:
        """Open new sessions in these places, however long that takes."""
        pause, most = _BACKOFF
        while places:
            with self._batch.loan.used():
                problems = await self._batch.replace(places)
            self._sessions = self._batch.session_ids
            opened = [place for place in places if place not in problems]
            self._free.extend(opened)
            self._replacing.difference_update(opened)
            places = list(problems)
            if opened:
                self.schedule()
            if places:
                problem = problems[places[0]].error
                _logger.info("= %s sessions are lost: %s", len(places), problem.message)
                self._reach.look(self.lives, self._gone)
                self._reach.check(problem)
                await anyio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, most)

    # Time

    async def _watch(self) -> None:
        tick = _TICK
        if self.options.episode_timeout is not None:
            tick = min(tick, self.options.episode_timeout / _TICKS_PER_TIMEOUT)
        while True:
            await anyio.sleep(tick)
            now_ns = perf_counter_ns()
            self.meter.note(self.lives, now_ns)
            self._reach.look(self.lives, self._gone)
            if self._reach.unreachable:
                self._reach.check()
            if not self._resumed.is_set():
                continue
            self._give_up(
                [
                    live
                    for live in self.lives
                    if live.deadline_ns is not None and live.deadline_ns <= now_ns
                ],
                _BY_TIMEOUT,
            )
            for group in self._groups.due(now_ns):
                self._cut_off(group)

    async def _adapt(self, adapter: Adapter) -> None:
        steps, sums = 0, [0] * 5
        while True:
            await anyio.sleep(adapter.interval)
            lives, now_ns = self.lives, perf_counter_ns()
            before, steps = steps, self.meter.steps(lives)
            past, sums = sums, self.meter.sums(lives, now_ns)
            if not self._resumed.is_set():
                continue
            policy, _, queue, _, idle = (
                (new - old) / 1e9 for new, old in zip(sums, past, strict=True)
            )
            count = steps - before
            self._limit = adapter.decide(
                queue=queue / count if count else None,
                policy=(policy + idle) / count if count else None,
                saturated=self.active >= self._limit,
            )
            self.schedule()

    # From outside

    def pause(self) -> None:
        """Start no episode and call no policy; what is on its way arrives."""
        if self._resumed.is_set():
            self._resumed.clear()
            self._paused_ns = perf_counter_ns()

    def resume(self) -> None:
        """Go on; deadlines of episodes move by the length of the pause."""
        if self._resumed.is_set():
            return
        paused_ns = perf_counter_ns() - self._paused_ns
        for live in self.lives:
            if live.deadline_ns is not None:
                live.deadline_ns += paused_ns
        self._resumed.set()
        self.schedule()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return not self._resumed.is_set()

    async def wait_resumed(self) -> None:
        """Wait while it is paused."""
        if not self._resumed.is_set():
            await self._resumed.wait()

    def cancel(self) -> None:
        """End all episodes as they are; the consumer still gets them."""
        self._cancelled = True
        self._starts.close()
        self._give_up(self.lives, _CANCELLED)
        self.resume()
        self.schedule()

    def statistics(self, slowest: int) -> RunStatistics:
        """Where the run stands."""
        reach = self._reach
        reach.look(self.lives, self._gone)
        return self.meter.snapshot(
            self.lives,
            now_ns=perf_counter_ns(),
            queued=len(self.delivery),
            pending=len(self._starts),
            lost=len(self._gone),
            unreachable=reach.unreachable,
            silent_for=reach.silent_for,
            unreachable_for=reach.dead_for,
            gives_up_after=reach.timeout,
            limit=self._limit,
            paused=self.paused,
            slowest=slowest,
        )


def _is_in_flight(live: LiveEpisode) -> bool:
    return live.reading or live.phase in (Phase.RESET, Phase.ENVIRONMENT)
