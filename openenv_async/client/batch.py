"""`EnvBatch`: many sessions as one object, stepped together or as they finish."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from .. import messages as m
from .._aio import SPIN_WINDOW, shielded
from ..errors import LocalProtocolError, OpenEnvError, SessionClosed
from ..providers import Placer, Provider, Served, placer_of
from .arrivals import Arrivals, check_bounds
from .connection import ConnectionOptions, closing
from .links import Link
from .loans import Loan
from .payloads import Payloads
from .results import AutoresetMode, BatchResult, Failure, Ready
from .seats import Seat, leave_seats, take_seats
from .slots import (
    Gather,
    Slot,
    check_counts,
    check_free,
    counted,
    slots_at,
    spread_options,
    spread_seeds,
)
from .sync import SyncBatch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EnvBatch"]

_logger = logging.getLogger("openenv_async.client")

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")

_CLOSE_TIMEOUT: Final = 10.0
_FRAME: Final = 32
"""Steps after which the first frame leaves, so that the server can begin with it."""
_LATER_FRAME: Final = 96
"""Steps between later frames: larger, because each costs the server something."""


class EnvBatch(Generic[ActT, ObsT, StateT]):
    """Many sessions with one server, on few sockets.

    Either everything together: `await batch.step(actions)` returns a list in the order
    of the sessions. Or whoever is done first: `send` posts actions, `ready` yields
    results as they come, and the policy never waits for the slowest. In both, a failed
    session has a `Failure` in its place and disturbs no other.

    Made by `EnvClient.batch`; use it as an async context manager.
    """

    def __init__(
        self,
        payloads: Payloads,
        url: str | None,
        *,
        size: int,
        provider: Provider | Placer | None,
        environment: str | None,
        autoreset: AutoresetMode | str,
        sockets: int | None,
        token: str | None = None,
        owner: str = "",
        timeout: float | None = None,
        capacity_timeout: float = 0.0,
        lease: float | None = None,
        hold: bool = False,
        connect_timeout: float = 10.0,
        reconnect_timeout: float = 60.0,
        spin: float = SPIN_WINDOW,
    ) -> None:
        if (url is None) is (provider is None):
            raise LocalProtocolError("expected a url or a provider, and not both")
        check_counts(size, sockets)
        self.autoreset = AutoresetMode.of(autoreset)
        self.payloads = payloads
        self.decode: Callable[[Any], Any] = payloads.observation
        self.same_step = self.autoreset is AutoresetMode.SAME_STEP
        self.resets = self.autoreset is not AutoresetMode.DISABLED
        self._placer = placer_of(url, provider)
        self._sockets = sockets
        self._options = ConnectionOptions(
            token=token,
            connect_timeout=connect_timeout,
            reconnect_timeout=reconnect_timeout,
            spin=spin,
        )
        self._opening: dict[str, Any] = {
            "environment": environment,
            "owner": owner,
            "lease": lease,
            "wait": capacity_timeout,
            "hold": hold,
        }
        self.timeout = timeout
        self._slots = [Slot(self, index) for index in range(size)]
        self._connections: tuple[Link, ...] = ()
        """Each once."""
        self._arrivals = Arrivals()
        self._gathers: set[Gather] = set()
        """Calls that wait for all their sessions."""
        self._abandoned = 0
        """Sessions whose caller was cancelled while a request was in flight."""
        self._calm: asyncio.Future[None] | None = None
        self._is_open = False
        self.loan = Loan(self._arrivals)
        """Who has it to himself: while it is being given back, others wait."""

    def __len__(self) -> int:
        return len(self._slots)

    def sync(self) -> SyncBatch[ActT, ObsT, StateT]:
        """The same, blocking."""
        return SyncBatch(self)

    @property
    def servers(self) -> list[Served]:
        """The servers that the sessions are on, each once."""
        seats = (slot.seat for slot in self._slots)
        return list({seat.server: None for seat in seats if seat})

    # Opening and closing

    async def __aenter__(self) -> EnvBatch[ActT, ObsT, StateT]:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connect and open all sessions; raises like `EnvClient.open`.

        It is all or nothing: if one session cannot be opened, none stays open.
        """
        await self.loan.wait()
        if self._is_open:
            raise LocalProtocolError("expected a batch that is not open yet")
        self._arrivals.clear()
        self._abandoned = 0
        try:
            await self._seat(self._slots)
            results = await self._open_slots(self._slots)
            self._is_open = True
            for result in results:
                if isinstance(result, Failure):
                    raise result.error
        except BaseException:
            self._is_open = True
            await shielded(self.aclose(), timeout=2 * _CLOSE_TIMEOUT)
            raise

    async def _seat(self, slots: Sequence[Slot]) -> None:
        """Put sessions on servers."""
        seats = await take_seats(
            self._placer, len(slots), self._options, sockets=self._sockets
        )
        for slot, seat in zip(slots, seats, strict=True):
            slot.seat = seat
        self._note_connections()

    def _note_connections(self) -> None:
        seats = (slot.seat for slot in self._slots)
        self._connections = tuple({seat.connection: None for seat in seats if seat})

    async def _open_slots(self, slots: Sequence[Slot]) -> list[Any]:
        if not slots:
            return []
        gather = Gather(len(slots))
        self._gathers.add(gather)
        for position, slot in enumerate(slots):
            slot.send_open(gather, position, self._opening)
        try:
            await gather.future
        finally:
            self._gathers.discard(gather)
            for slot in slots:
                # A cancelled call leaves sessions behind that open by themselves.
                slot.gather = None
        return gather.results

    async def aclose(self) -> None:
        """Close all environments and give the connections back; idempotent."""
        await self.loan.wait()
        if not self._is_open:
            return
        self._is_open = False
        try:
            async with closing(self._connections):
                await self._close_slots()
        except TimeoutError:
            _logger.warning(
                "some sessions did not close in time; their leases will end them"
            )
        finally:
            await shielded(self._give_back(), timeout=2 * _CLOSE_TIMEOUT)

    async def _close_slots(self) -> None:
        slots = [slot for slot in self._slots if hasattr(slot, "session")]
        for slot in slots:
            if slot.session.pending is not None and not slot.abandoned:
                self._abandon_running(slot)
        self._arrivals.notify()
        await self._wait_settled(slots)
        live = [slot for slot in slots if slot.session.id and not slot.session.ended]
        if not live:
            return
        gather = self._start(live)
        for slot in live:
            slot.send_close()
        await gather.future
        for slot, result in zip(live, gather.results, strict=True):
            slot.protocol.forget(slot.session)
            if isinstance(result, Failure) and not isinstance(
                result.error, SessionClosed
            ):
                _logger.warning("closing a session: %s", result.error.message)

    async def _give_back(self) -> None:
        for slot in self._slots:
            if hasattr(slot, "session"):
                slot.protocol.abandon(slot.session)
        await self._leave(self._slots)

    async def _leave(self, slots: Iterable[Slot]) -> None:
        """Give up the places of sessions; those are closed, or lost."""
        seats: list[Seat] = []
        for slot in slots:
            if slot.seat is not None:
                seats.append(slot.seat)
                slot.seat = None
        self._note_connections()
        await leave_seats(self._placer, seats)

    # All together

    async def reset(
        self,
        *,
        seeds: int | Iterable[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
        indices: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> list[BatchResult[ObsT]]:
        """Start episodes; the results are in the order of the sessions.

        A session that was lost is opened anew: a reset asks for a new episode, so
        nothing is pretended.

        Args:
            seeds: One for each session, or the first of consecutive ones.
            options: The same for all, or one for each session.
            indices: Only these sessions, in this order.
            timeout: Seconds for each session; None takes the batch's.
        """
        slots = self._choose(indices)
        chosen = spread_seeds(seeds, len(slots))
        each = spread_options(options, len(slots))
        await self._wait_settled(slots)
        self._check_free(slots)
        problems = await self._reopen(slots)
        # Another call may have begun in the meantime.
        self._check_free(slots)
        gather = self._start(slots)
        timeout = self.timeout if timeout is None else timeout
        for slot, seed, option in zip(slots, chosen, each, strict=True):
            if slot.index in problems:
                slot.gather = None
                gather.put(slot.position, problems[slot.index])
            else:
                slot.send_reset(seed, option, timeout)
        return await self._finish(slots, gather)

    async def step(
        self,
        actions: Iterable[ActT],
        *,
        indices: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> list[BatchResult[ObsT]]:
        """Perform an action in each session; the results are in the same order.

        Cancelling it cancels the steps on the server; a session whose step was
        executed all the same has a `StepInterrupted` in its place next time.

        Args:
            actions: One for each session.
            indices: Only these sessions, in this order.
            timeout: Seconds for each session; None takes the batch's.

        Raises:
            SessionBusy: A call is in flight on one of them; nothing was sent.
        """
        slots = self._choose(indices)
        actions = counted(actions, len(slots))
        await self._wait_settled(slots)
        self._check_free(slots)
        if timeout is None:
            timeout = self.timeout
        gather = Gather(len(slots), timeout)
        self._gathers.add(gather)
        sent_ns = perf_counter_ns()
        frame = _FRAME
        for position, slot in enumerate(slots):
            slot.gather = gather
            slot.position = position
            if slot.interrupted is None and not (slot.done and self.resets):
                # What `send_step` does when nothing is special.
                slot.kind = m.Step
                slot.sent_ns = sent_ns
                try:
                    slot.protocol.step(slot.session, actions[position], timeout)
                    if timeout is not None:
                        slot.connection.guard(slot.session, timeout)
                except OpenEnvError as error:
                    slot.refuse(error)
            else:
                slot.send_step(actions[position], timeout)
            frame -= 1
            if not frame:
                self._flush()
                frame = _LATER_FRAME
        return await self._finish(slots, gather)

    async def state(
        self,
        *,
        indices: Sequence[int] | None = None,
        timeout: float | None = None,
    ) -> list[StateT | Failure]:
        """Read the states, without changing them.

        Args:
            indices: Only these sessions, in this order.
            timeout: Seconds for each session; None takes the batch's.
        """
        slots = self._choose(indices)
        await self._wait_settled(slots)
        self._check_free(slots)
        gather = self._start(slots)
        timeout = self.timeout if timeout is None else timeout
        for slot in slots:
            slot.send_state(timeout)
        return await self._finish(slots, gather)

    def _choose(self, indices: Sequence[int] | None) -> list[Slot]:
        if not self._is_open:
            raise LocalProtocolError("expected an open batch: use `async with`")
        return slots_at(self._slots, indices)

    def _check_free(self, slots: Iterable[Slot]) -> None:
        self.loan.check()
        if not self._gathers and not self._arrivals.posted and not self._abandoned:
            return
        check_free(slots, self._arrivals.posted)

    def _start(self, slots: Sequence[Slot]) -> Gather:
        gather = Gather(len(slots))
        self._gathers.add(gather)
        for position, slot in enumerate(slots):
            slot.gather = gather
            slot.position = position
        return gather

    def _flush(self) -> None:
        for connection in self._connections:
            connection.flush()

    async def _finish(self, slots: Sequence[Slot], gather: Gather) -> list[Any]:
        try:
            if slots:
                await gather.future
        except asyncio.CancelledError:
            for slot, result in zip(slots, gather.results, strict=True):
                if slot.gather is gather:
                    self._abandon(slot)
                else:
                    slot.remember(result)
            raise
        finally:
            self._gathers.discard(gather)
        return gather.results

    def _abandon(self, slot: Slot) -> None:
        slot.gather = None
        self._arrivals.posted.discard(slot.index)
        if slot.session.pending is not None:
            slot.abandoned = True
            self._abandoned += 1
            slot.protocol.cancel(slot.session)

    def _abandon_running(self, slot: Slot) -> None:
        """Stop a call that another task still awaits, and tell that task."""
        gather, position = slot.gather, slot.position
        self._abandon(slot)
        if gather is not None:
            error = SessionClosed(
                "the session was closed during the call", executed="unknown"
            )
            gather.put(position, Failure(error))

    async def _wait_settled(self, slots: Sequence[Slot]) -> None:
        """Wait for the outcomes of what a cancelled call left behind."""
        await self.loan.wait()
        while self._abandoned and any(slot.abandoned for slot in slots):
            if self._calm is None or self._calm.done():
                self._calm = asyncio.get_running_loop().create_future()
            # Several calls may wait, and one of them may be cancelled.
            await asyncio.shield(self._calm)

    def settled(self) -> None:
        """A request that a cancelled call left behind has its outcome."""
        self._abandoned -= 1
        if self._calm is not None and not self._calm.done():
            self._calm.set_result(None)

    async def _reopen(self, slots: Sequence[Slot]) -> dict[int, Failure]:
        """Open new sessions in the places of lost ones."""
        lost = [slot for slot in slots if slot.session.ended is not None]
        cut_off = [slot for slot in lost if slot.is_cut_off]
        problems = await self._open_anew(lost, cut_off)
        # A server that ends tells its sessions so before it hangs up.
        left = [one for one in lost if one not in cut_off and one.is_lost_in(problems)]
        for slot in left:
            del problems[slot.index]
        return problems | await self._open_anew(left, left)

    async def _open_anew(
        self, lost: list[Slot], cut_off: list[Slot]
    ) -> dict[int, Failure]:
        problems: dict[int, Failure] = {}
        if cut_off:
            try:
                # Their places first: a server that died may be replaced only then.
                await self._leave(cut_off)
                await self._seat(cut_off)
            except OpenEnvError as error:
                # They stay lost.
                problems = {slot.index: Failure(error) for slot in cut_off}
                lost = [slot for slot in lost if slot.index not in problems]
        results = await self._open_slots(lost)
        for slot, result in zip(lost, results, strict=True):
            if isinstance(result, Failure):
                problems[slot.index] = result
        return problems

    async def replace(self, indices: Sequence[int]) -> dict[int, Failure]:
        """Open new sessions in the places of others, whatever runs on those.

        What was posted for them never arrives. Returns where that failed, and why.
        """
        self.loan.check()
        slots = self._choose(indices)
        for slot in slots:
            self._abandon_running(slot)
            self._arrivals.drop(slot.index)
            if slot.abandoned:
                slot.abandoned = False
                self.settled()
            slot.protocol.abandon(slot.session)
        return await self._reopen(slots)

    # Whoever is done first

    def send(
        self,
        indices: Sequence[int],
        actions: Iterable[ActT],
        *,
        timeout: float | None = None,
    ) -> None:
        """Post actions without waiting; `ready` yields their results.

        Args:
            indices: Which sessions.
            actions: One for each.
            timeout: Seconds for each session; None takes the batch's.

        Raises:
            SessionBusy: A call is in flight on one of them; nothing was sent.
        """
        slots = self._choose(indices)
        actions = counted(actions, len(slots))
        self._check_free(slots)
        timeout = self.timeout if timeout is None else timeout
        for slot, action in zip(slots, actions, strict=True):
            slot.gather = None
            self._arrivals.post(slot.index)
            slot.send_step(action, timeout)

    def send_reset(
        self,
        indices: Sequence[int] | None = None,
        *,
        seeds: int | Iterable[int | None] | None = None,
        options: dict[str, Any] | Sequence[dict[str, Any] | None] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Post resets without waiting; `ready` yields their results.

        Args:
            indices: Which sessions; None for all.
            seeds: As in `reset`.
            options: As in `reset`.
            timeout: Seconds for each session; None takes the batch's.
        """
        slots = self._choose(indices)
        chosen = spread_seeds(seeds, len(slots))
        each = spread_options(options, len(slots))
        self._check_free(slots)
        timeout = self.timeout if timeout is None else timeout
        for slot, seed, option in zip(slots, chosen, each, strict=True):
            slot.gather = None
            self._arrivals.post(slot.index)
            slot.send_reset(seed, option, timeout)

    def awaits(self, slot: Slot) -> bool:
        """Whether something was posted for the session."""
        return slot.index in self._arrivals.posted

    def arrived(self, slot: Slot, result: object) -> None:
        """A posted request has its result."""
        self._arrivals.put(slot.index, result)

    @property
    def in_flight(self) -> int:
        """Posted requests without a result yet."""
        return len(self._arrivals.posted)

    async def ready(
        self,
        *,
        min: int = 1,
        max: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Ready[ObsT]]:
        """Yield the sessions that are done, until nothing is in flight any more.

        Post the next actions inside the loop; a session for which nothing is posted
        is not waited for.

        Args:
            min: Wait for so many results, or for all that are in flight if fewer.
            max: Yield at most so many at a time.
            timeout: Seconds after which fewer than `min`, but at least one, will do.
        """
        check_bounds(min, max)
        await self.loan.wait()
        self.loan.check()
        while self._arrivals:
            await self._arrivals.wait(min, timeout)
            taken = self._arrivals.take(max)
            results: list[Any] = [result for _, result in taken]
            yield Ready([index for index, _ in taken], results)

    @property
    def unreachable(self) -> list[int]:
        """Places of sessions whose connection is lost, while it is tried again."""
        return [slot.index for slot in self._slots if slot.is_unreachable]

    @property
    def silences(self) -> dict[int, float]:
        """Places of sessions whose server answers no ping, and for how many seconds."""
        found = ((slot.index, slot.silence) for slot in self._slots)
        return {index: silence for index, silence in found if silence}

    @property
    def session_ids(self) -> list[str]:
        """Public ids of the sessions."""
        return [slot.session.id for slot in self._slots]

    @property
    def environment(self) -> str:
        """What the server calls the environment."""
        return self._slots[0].session.environment
