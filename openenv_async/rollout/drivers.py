"""How policies are asked: many episodes at once, or each in a task of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol, cast, final

import anyio

from ..errors import LocalProtocolError, OpenEnvError
from .calls import Call, PolicyMisuse, check_awaitable, is_foreign_cancellation
from .episodes import Outcome, PolicyFailure
from .live import LiveEpisode, Phase
from .outcomes import outcome_of_policy_error
from .policies import Decision

if TYPE_CHECKING:
    from .run import Run

__all__ = [
    "ActDriver",
    "BatchDriver",
    "Driver",
]


class Driver(Protocol):
    """Asks the policy: one driver for each shape of policy."""

    batches: bool
    """Whether one call serves many episodes."""

    def ready(self, live: LiveEpisode) -> None:
        """An observation has come, and the episode goes on."""
        ...

    def ended(self, live: LiveEpisode, outcome: Outcome) -> None:
        """The last observation has come."""
        ...

    def failed(self, live: LiveEpisode, error: OpenEnvError, outcome: Outcome) -> None:
        """A call failed."""
        ...

    def gone(self, live: LiveEpisode) -> None:
        """Nobody waits for the episode any more; called once, while it is not over."""
        ...

    async def run(self, run: Run) -> None:
        """Do what needs a task, until it is cancelled."""
        ...


@final
class BatchDriver:
    """Forms batches from the observations that wait, and calls the policy with them.

    Args:
        policy: Has a method `act_batch`.
    """

    batches = True

    def __init__(self, policy: Any) -> None:
        self._act_batch: Callable[..., Any] = policy.act_batch
        self._knows_episodes = _takes_two(policy.act_batch)
        self._waiting: deque[LiveEpisode] = deque()
        self._deciding = 0
        """Episodes in calls that are running."""
        self._wake: asyncio.Future[None] | None = None
        self._hurry = False
        self._run: Run
        self._forming: anyio.Lock

    def ready(self, live: LiveEpisode) -> None:
        """An observation has come, and the episode goes on."""
        self._waiting.append(live)
        if self._wake is not None:
            self._notify()

    def ended(self, live: LiveEpisode, outcome: Outcome) -> None:
        """The last observation has come."""
        self._run.finish(live, outcome)

    def failed(self, live: LiveEpisode, error: OpenEnvError, outcome: Outcome) -> None:
        """A call failed."""
        self._run.finish(live, outcome)

    def gone(self, live: LiveEpisode) -> None:
        """Nobody waits for the episode any more."""
        if live.phase is Phase.WAITING and live in self._waiting:
            self._waiting.remove(live)
        # With one episode less, the others may be all that can come.
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self, run: Run) -> None:
        """Call the policy for ever, so many times at once as the options say."""
        self._run = run
        self._forming = anyio.Lock()
        calls = run.options.batching.calls
        if calls == 1:
            await self._call_for_ever()
        for number in range(calls):
            run.spawn(self._call_for_ever(), f"openenv-async-policy-{number}")

    async def _call_for_ever(self) -> None:
        """Call the policy for ever, or until somebody else does so in its place."""
        while True:
            async with self._forming:
                lives = await self._next()
            if not await self._call(lives):
                return

    def _replace(self, count: int) -> None:
        """A call for so many episodes was abandoned: its task may never come back."""
        self._deciding -= count
        self._run.spawn(self._call_for_ever(), "openenv-async-policy-again")

    # Forming batches

    async def _next(self) -> list[LiveEpisode]:
        """Wait for a batch."""
        batching = self._run.options.batching
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        try:
            while True:
                await self._run.wait_resumed()
                if self._is_enough(batching.min):
                    break
                if self._waiting and timer is None and batching.timeout is not None:
                    timer = loop.call_later(batching.timeout, self._on_timeout)
                self._wake = loop.create_future()
                await self._wake
        finally:
            self._wake = None
            self._hurry = False
            if timer is not None:
                timer.cancel()
        count = len(self._waiting)
        if batching.max is not None and count > batching.max:
            count = batching.max
        self._deciding += count
        return [self._waiting.popleft() for _ in range(count)]

    def _is_enough(self, least: int) -> bool:
        count = len(self._waiting)
        if not count:
            return False
        possible = self._run.active - self._deciding
        return self._hurry or count >= least or count >= possible

    def _on_timeout(self) -> None:
        self._hurry = True
        self._notify()

    # Calling

    async def _call(self, lives: list[LiveEpisode]) -> bool:
        """Call the policy; returns whether it was not abandoned meanwhile."""
        run = self._run
        began_ns = perf_counter_ns()
        call = Call(run, lives, began_ns, lambda: self._replace(len(lives)))
        for live in lives:
            live.waited_ns = began_ns - live.since_ns
            live.since_ns = began_ns
            live.phase = Phase.POLICY
        failure: PolicyFailure | None = None
        decisions: list[Any] = []
        try:
            decisions = await self._decide(lives)
        except asyncio.CancelledError as error:
            if not is_foreign_cancellation():
                raise
            failure = outcome_of_policy_error(error)
        except PolicyMisuse:
            raise
        except Exception as error:  # noqa: BLE001 (recorded in the episodes)
            failure = outcome_of_policy_error(error)
        finally:
            ended_ns = perf_counter_ns()
            was_abandoned = call.is_over
            call.end(ended_ns)
            if not was_abandoned:
                self._deciding -= len(lives)
        if was_abandoned:
            return False
        if failure is not None:
            for live in lives:
                live.last_ns = ended_ns
                run.finish(live, failure)
        else:
            self._apply(lives, decisions, ended_ns - began_ns)
        return True

    async def _decide(self, lives: list[LiveEpisode]) -> list[Any]:
        arguments: list[Any] = [[live.observation for live in lives]]
        if self._knows_episodes:
            arguments.append([live.context for live in lives])
        timeout = self._run.options.policy_timeout
        async with asyncio.timeout(timeout):
            found = await check_awaitable(self._act_batch(*arguments), "act_batch")
        decisions = list(found)
        if len(decisions) != len(lives):
            raise LocalProtocolError(
                f"expected {len(lives)} actions from the policy, got {len(decisions)}"
            )
        return decisions

    def _apply(
        self, lives: list[LiveEpisode], decisions: list[Any], took_ns: int
    ) -> None:
        run = self._run
        chosen: list[LiveEpisode] = []
        actions: list[Any] = []
        for live, decision in zip(lives, decisions, strict=True):
            if live.phase is Phase.OVER:
                continue  # Cut off while the policy thought.
            if type(decision) is Decision:
                given = cast(Any, decision)
                live.extras = given.extras
                decision = given.action
            elif isinstance(decision, Exception):
                run.finish(live, outcome_of_policy_error(decision))
                continue
            else:
                live.extras = {}
            live.thought_ns = took_ns
            chosen.append(live)
            actions.append(decision)
        if chosen:
            run.post(chosen, actions)


@final
class ActDriver:
    """Plays each episode in a task of its own, which asks the policy step by step.

    Args:
        policy: Has a method `act`.
    """

    batches = False

    def __init__(self, policy: Any) -> None:
        self._act: Callable[..., Any] = policy.act
        self._run: Run

    async def run(self, run: Run) -> None:
        """Nothing more is to do than what the episodes' tasks do."""
        self._run = run

    def ready(self, live: LiveEpisode) -> None:
        """An observation has come, and the episode goes on."""
        if live.task is None:
            live.task = self._run.spawn(self._play(live), "openenv-async-episode")
        elif live.future is not None and not live.future.done():
            live.future.set_result(None)

    def ended(self, live: LiveEpisode, outcome: Outcome) -> None:
        """The last observation has come."""
        self._run.finish(live, outcome)

    def failed(self, live: LiveEpisode, error: OpenEnvError, outcome: Outcome) -> None:
        """A call failed."""
        self._run.finish(live, outcome)

    def gone(self, live: LiveEpisode) -> None:
        """Nobody waits for the episode any more: neither does its task."""
        if live.task is not None and live.task is not asyncio.current_task():
            live.task.cancel()

    async def _play(self, live: LiveEpisode) -> None:
        run = self._run
        loop = asyncio.get_running_loop()
        while live.phase is not Phase.OVER:
            await run.wait_resumed()
            began_ns = perf_counter_ns()
            live.waited_ns = began_ns - live.since_ns
            live.since_ns = began_ns
            live.phase = Phase.POLICY
            call = Call(run, [live], began_ns)
            try:
                decision = await self._decide(live)
            except asyncio.CancelledError as error:
                if not is_foreign_cancellation():
                    raise
                decision = error
            except PolicyMisuse:
                raise
            except Exception as error:  # noqa: BLE001 (recorded in the episode)
                decision = error
            finally:
                ended_ns = perf_counter_ns()
                call.end(ended_ns)
            if live.phase is not Phase.POLICY:
                return  # Cut off, but the policy swallowed the cancellation.
            live.last_ns = ended_ns
            live.thought_ns = ended_ns - began_ns
            if isinstance(decision, BaseException):
                run.finish(live, outcome_of_policy_error(decision))
                return
            live.extras = {}
            if type(decision) is Decision:
                given = cast(Any, decision)
                live.extras = given.extras
                decision = given.action
            live.future = loop.create_future()
            run.post([live], [decision])
            await live.future

    async def _decide(self, live: LiveEpisode) -> Any:
        timeout = self._run.options.policy_timeout
        if timeout is None:
            return await check_awaitable(
                self._act(live.observation, live.context), "act"
            )
        async with asyncio.timeout(timeout):
            return await check_awaitable(
                self._act(live.observation, live.context), "act"
            )


def _takes_two(method: Callable[..., Any]) -> bool:
    """Whether a policy wants the episodes beside the observations."""
    try:
        inspect.signature(method).bind(None, None)
    except TypeError:
        return False
    return True
