"""The sessions of a batch, each with what it has in flight."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .. import messages as m
from ..errors import (
    LocalProtocolError,
    OpenEnvError,
    SessionBusy,
    SessionLost,
    StepInterrupted,
)
from ..protocol import ClientSession, decode_error
from .connection import Waiter
from .links import Link, Machine
from .payloads import unwrap
from .results import Failure, StepResult
from .seats import Seat

if TYPE_CHECKING:
    from .batch import EnvBatch

__all__ = [
    "Gather",
    "Slot",
    "check_counts",
    "check_free",
    "counted",
    "slots_at",
    "spread_options",
    "spread_seeds",
]

ItemT = TypeVar("ItemT")


class Gather:
    """One call of `step`, `reset` or `state` that waits for all its sessions."""

    __slots__ = ("future", "missing", "results", "timeout")

    def __init__(self, count: int, timeout: float | None = None) -> None:
        self.timeout = timeout
        self.results: list[Any] = [None] * count
        self.missing = count
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, position: int, result: object) -> None:
        """Take the result of one session; the last one ends the wait."""
        self.results[position] = result
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(None)


class Slot:
    """One session of a batch."""

    __slots__ = (
        "abandoned",
        "batch",
        "connection",
        "done",
        "final",
        "gather",
        "index",
        "interrupted",
        "kind",
        "position",
        "protocol",
        "seat",
        "sent_ns",
        "session",
    )

    def __init__(self, batch: EnvBatch[Any, Any, Any], index: int) -> None:
        self.batch = batch
        self.index = index
        self.seat: Seat | None = None
        self.connection: Link
        self.protocol: Machine
        self.session: ClientSession[Waiter]
        self.kind: type = m.Open
        self.gather: Gather | None = None
        """The call that waits; None while `send` and `ready` are used."""
        self.position = 0
        self.sent_ns = 0
        self.done = False
        self.final: StepResult[Any] | None = None
        self.abandoned = False
        """Whether the caller of the request in flight was cancelled."""
        self.interrupted: StepInterrupted | None = None
        """A cancelled step that was executed, to be told at the next one."""

    @property
    def is_cut_off(self) -> bool:
        """Whether it has no place, or no connection that could come back."""
        return self.seat is None or self.connection.error is not None

    @property
    def is_unreachable(self) -> bool:
        """Whether its connection is lost, but may still come back."""
        return (
            self.seat is not None
            and self.connection.error is None
            and not self.protocol.ready
        )

    @property
    def silence(self) -> float:
        """Seconds for which its server has left a ping unanswered; 0 if it answers."""
        if self.seat is None or self.connection.error is not None:
            return 0.0
        return self.connection.silence(self.session)

    def is_lost_in(self, problems: Mapping[int, Failure]) -> bool:
        """Whether the session was lost when it should be opened."""
        problem = problems.get(self.index)
        return problem is not None and isinstance(problem.error, SessionLost)

    def deliver(self, message: m.ServerMessage) -> None:
        """Take a message of the session; called by the connection."""
        if type(message) is not m.Reply:
            self._deliver_other(message)
            return
        kind = self.kind
        batch = self.batch
        if kind is m.GetState or kind is m.Close:
            self._arrived(self._decode_state(message))
            return
        try:
            observation = batch.decode(message.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._arrived(Failure(decode_error(error)))
            return
        done = self.done = observation.terminated or observation.truncated
        result = StepResult(
            observation,
            perf_counter_ns() - self.sent_ns,
            message.queue_ns,
            message.environment_ns,
            message.encode_ns,
            kind is m.Reset,
            self.final,
        )
        gather = self.gather
        if gather is None or done or self.final is not None:
            self._deliver_unusual(result, done=done)
            return
        # The hot path: what `_arrived` and `Gather.put` do.
        self.gather = None
        gather.results[self.position] = result
        gather.missing -= 1
        if not gather.missing and not gather.future.done():
            gather.future.set_result(None)

    def _deliver_unusual(self, result: StepResult[Any], *, done: bool) -> None:
        if done and self.batch.same_step and self.kind is m.Step and not self.abandoned:
            self.final = result
            gather = self.gather
            timeout = self.batch.timeout if gather is None else gather.timeout
            self.send_reset(None, None, timeout)
            return
        self.final = None
        self._arrived(result)

    def _decode_state(self, reply: m.Reply) -> object:
        if self.kind is m.Close:
            return None
        payloads = self.batch.payloads
        try:
            return payloads.decode(payloads.state, reply.payload)
        except OpenEnvError as error:
            return Failure(error)

    def _deliver_other(self, message: m.ServerMessage) -> None:
        if isinstance(message, m.Progress):
            return
        if isinstance(message, m.Opened):
            if self.kind is m.Open and self.gather is not None:
                self._arrived(None)
            return
        if self.gather is None and not self.abandoned and not self.batch.awaits(self):
            # The session ended while nobody asked; the next call will be told.
            return
        error = unwrap(message)
        if isinstance(error, OpenEnvError):
            final, self.final = self.final, None
            self._arrived(Failure(error, final))

    def _arrived(self, result: object) -> None:
        if self.abandoned:
            self._settled(result)
            return
        gather = self.gather
        if gather is not None:
            self.gather = None
            gather.put(self.position, result)
        else:
            self.batch.arrived(self, result)

    def _settled(self, result: object) -> None:
        """What became of a request whose caller was cancelled."""
        self.abandoned = False
        self.remember(result)
        self.batch.settled()

    def remember(self, result: object) -> None:
        """Keep a result that nobody saw, so that the next step can tell of it."""
        if self.kind is not m.Step and self.kind is not m.Reset:
            return
        if isinstance(result, StepResult):
            self.interrupted = StepInterrupted(
                "an earlier call was cancelled, but the environment executed it",
                executed="yes",
            )
            self.interrupted.result = result
        elif not isinstance(result, Failure):
            return
        elif isinstance(result.error, StepInterrupted) and result.error.result:
            # Of a call before that one: it was about to be told.
            self.interrupted = result.error
        elif result.executed == "no" and result.final is not None:
            self.interrupted = StepInterrupted(
                "an earlier call was cancelled after the step that ended its episode, "
                "before the reset",
                executed="yes",
            )
            self.interrupted.result = result.final
        elif result.executed != "no":
            self.interrupted = StepInterrupted(
                "an earlier call was cancelled while the environment ran it: the "
                f"episode cannot go on without a reset ({result.error.message})",
                executed=result.executed,
            )

    # Sending; failures that are known at once arrive like the others.

    def send_open(self, gather: Gather, position: int, opening: dict[str, Any]) -> None:
        """Begin a new session where its seat is."""
        assert self.seat is not None
        connection = self.connection = self.seat.connection
        self.protocol = connection.protocol
        self.kind, self.gather, self.position = m.Open, gather, position
        self.done, self.final, self.interrupted = False, None, None
        self.abandoned = False
        self.session = connection.protocol.open(secrets.token_hex(16), **opening)
        self.session.waiter = self

    def send_step(self, action: object, timeout: float | None) -> None:
        """Send a step, or what autoreset makes of it."""
        if self.interrupted is not None or (self.done and self.batch.resets):
            self._send_unusual(timeout)
            return
        self.kind = m.Step
        self.sent_ns = perf_counter_ns()
        try:
            self.protocol.step(self.session, action, timeout)
            self._guard(timeout)
        except OpenEnvError as error:
            self._arrived(Failure(error))

    def _guard(self, timeout: float | None) -> None:
        if timeout is not None:
            self.connection.guard(self.session, timeout)

    def refuse(self, error: OpenEnvError) -> None:
        """A request could not even be sent."""
        self._arrived(Failure(error))

    def _send_unusual(self, timeout: float | None) -> None:
        interrupted, self.interrupted = self.interrupted, None
        self.kind = m.Step
        if interrupted is not None:
            self._arrived(Failure(interrupted))
        else:
            # With same-step autoreset only if the reset failed, or was not sent
            # because its step was cancelled.
            self.send_reset(None, None, timeout)

    def send_reset(
        self, seed: int | None, options: dict[str, Any] | None, timeout: float | None
    ) -> None:
        """Send a reset."""
        self.kind = m.Reset
        self.interrupted = None
        self.sent_ns = perf_counter_ns()
        try:
            self.protocol.reset(
                self.session, seed=seed, options=options, timeout=timeout
            )
            self._guard(timeout)
        except OpenEnvError as error:
            self._arrived(Failure(error))

    def send_state(self, timeout: float | None) -> None:
        """Ask for the state."""
        self.kind = m.GetState
        self.sent_ns = perf_counter_ns()
        try:
            self.protocol.state(self.session, timeout)
            self._guard(timeout)
        except OpenEnvError as error:
            self._arrived(Failure(error))

    def send_close(self) -> None:
        """Ask the server to close the environment."""
        self.kind = m.Close
        try:
            self.protocol.close(self.session)
        except OpenEnvError as error:
            self._arrived(Failure(error))


def spread_seeds(
    seeds: int | Iterable[int | None] | None, count: int
) -> list[int | None]:
    """One seed for each session: as given, or consecutive from the first."""
    if seeds is None:
        return [None] * count
    if isinstance(seeds, int):
        return [seeds + position for position in range(count)]
    chosen = list(seeds)
    if len(chosen) != count:
        raise LocalProtocolError(f"expected {count} seeds, got {len(chosen)}")
    return chosen


def spread_options(
    options: dict[str, Any] | Sequence[dict[str, Any] | None] | None, count: int
) -> Sequence[dict[str, Any] | None]:
    """Options for each session: as given, or the same for all."""
    if options is None or isinstance(options, dict):
        return [options] * count
    if len(options) != count:
        raise LocalProtocolError(f"expected {count} options, got {len(options)}")
    return options


def check_counts(size: int, sockets: int | None) -> None:
    """Make sure that a batch can have so many sessions, and sockets.

    Raises:
        LocalProtocolError: It cannot.
    """
    if size < 1:
        raise LocalProtocolError(f"expected a size of at least 1, got {size}")
    if sockets is not None and sockets < 1:
        raise LocalProtocolError(f"expected at least one socket, got {sockets}")


def check_free(slots: Iterable[Slot], posted: Collection[int]) -> None:
    """Make sure that no call is in flight on any of these sessions.

    Args:
        slots: Which.
        posted: Places of those whose posted request has no result yet.

    Raises:
        SessionBusy: One is.
    """
    for slot in slots:
        if (
            slot.session.pending is not None
            or slot.gather is not None
            or slot.index in posted
        ):
            raise SessionBusy(
                f"expected session {slot.index} of the batch to be free, but a call "
                "is in flight on it"
            )


def slots_at(slots: list[Slot], indices: Sequence[int] | None) -> list[Slot]:
    """The slots with these indices, in their order; all without any."""
    if indices is None:
        return slots
    try:
        found = [slots[index] for index in indices]
    except IndexError as error:
        raise LocalProtocolError(
            f"expected indices below {len(slots)}, got {list(indices)!r}"
        ) from error
    if len(set(map(id, found))) != len(found):
        raise LocalProtocolError(f"expected each index once, got {list(indices)!r}")
    return found


def counted(actions: Iterable[ItemT], count: int) -> Sequence[ItemT]:
    """Actions, one for each session."""
    actions = actions if isinstance(actions, Sequence) else list(actions)
    if len(actions) != count:
        raise LocalProtocolError(f"expected {count} actions, got {len(actions)}")
    return actions
