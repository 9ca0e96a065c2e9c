"""A session: one environment with its episode, as the protocol sees it.

Clients reach it through channels: one belongs to the owner, and while somebody has
taken the session over, a second one belongs to the guest.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from .. import messages as m
from ..errors import Executed
from ..messages import Reply
from .channels import COUNTED, Channel, Request
from .tables import OUTCOMES, Outcome, Stage

if TYPE_CHECKING:
    from .server import ServerProtocol
    from .table import SessionTable

__all__ = ["Observed", "Session", "Watcher", "check_observed"]


_RUNNING: Final = Stage.RUNNING
_DONE: Final = Stage.DONE
_KINDS: Final[dict[type, str]] = {
    m.Reset: "reset",
    m.Step: "step",
    m.GetState: "state",
}


class Observed(Protocol):
    """What every observation has, whatever else it has."""

    @property
    def reward(self) -> float | None:
        """The step's reward."""

    @property
    def terminated(self) -> bool:
        """Whether the task reached its end."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off."""
        ...


def check_observed(reward: object, done: object) -> None:
    """Check the fields of an observation that everybody relies on.

    Raises:
        TypeError: The environment put something else there.
    """
    if reward is not None and not isinstance(reward, Real):
        raise TypeError(f"expected a number or None as reward, got {reward!r}")
    if not isinstance(done, bool):
        raise TypeError(f"expected a bool as terminated or truncated, got {done!r}")


class Watcher:
    """One connection's subscription to a session, with a bounded backlog (7.2)."""

    __slots__ = ("dropped", "id", "limit", "protocol", "session")

    def __init__(
        self, protocol: ServerProtocol, session: Session, *, id: int, limit: int
    ) -> None:
        self.protocol = protocol
        self.session = session
        self.id = id
        self.limit = limit
        self.dropped = 0


class Session:
    """An environment with its episode, as far as the protocol is concerned."""

    __slots__ = (
        "broken",
        "channel",
        "counts",
        "created",
        "environment",
        "episode",
        "guest",
        "host",
        "id",
        "label",
        "owner",
        "queue_ns",
        "request",
        "reward",
        "since_ns",
        "stage",
        "step",
        "table",
        "watchers",
    )

    def __init__(
        self, table: SessionTable, id: str, environment: str, label: str, now: float
    ) -> None:
        self.table = table
        self.id = id
        self.environment = environment
        self.counts = table.counts[environment]
        self.label = label
        self.stage = Stage.NEW
        self.broken = ""
        """Why the episode cannot go on, for the stages BROKEN and POISONED."""
        self.owner: Channel | None = None
        self.guest: Channel | None = None
        self.channel: Channel | None = None
        """The channel whose request is in flight."""
        self.request: Request | None = None
        self.since_ns = int(now * 1e9)
        """When the request in flight arrived, in nanoseconds."""
        self.queue_ns = 0
        """Time the request in flight spent before the environment got it."""
        self.created = now
        self.episode = 0
        self.step = 0
        self.reward: float | None = None
        self.watchers: list[Watcher] | None = None
        self.host: object = None
        """What the server puts here to execute requests; opaque to the protocol."""

    def step_reply(self, observation: Observed, environment_ns: int) -> None:
        """End a step with a small observation: `reply` by the shortest way.

        Raises:
            TypeError, ValueError, OverflowError, RecursionError: The observation cannot
                be encoded; the request is still in flight.
        """
        channel = self.channel
        assert channel is not None
        done = observation.terminated or observation.truncated
        reward = observation.reward
        if (type(reward) is not float and reward is not None) or (
            done is not False and done is not True
        ):
            check_observed(reward, done)
        data = channel.codec.encode(
            Reply(
                channel.handle, channel.seq, observation, self.queue_ns, environment_ns
            )
        )
        small = channel.fast
        if small is None or len(data) > COUNTED:
            self.reply(
                m.raw(channel.codec.encode(observation)),
                done=done,
                reward=reward,
                environment_ns=environment_ns,
            )
            return
        self.request = None
        self.step += 1
        if done:
            self.stage = _DONE
        if reward:
            self.reward = (self.reward or 0.0) + reward
        channel.kept = data
        channel.busy = False
        if not small:
            assert channel.protocol is not None
            channel.protocol.wake()
        small.append(data)

    def reply(
        self,
        payload: m.Payload,
        *,
        done: bool = False,
        reward: float | None = None,
        environment_ns: int = 0,
        encode_ns: int = 0,
    ) -> None:
        """End the request in flight with a payload: an observation or a state.

        Args:
            payload: The value, or its encoding as `msgspec.Raw`.
            done: Whether the observation ends the episode.
            reward: The observation's reward, for lists.
            environment_ns: Time spent in the environment.
            encode_ns: Time spent encoding the payload, where it was measured.

        Raises:
            TypeError, ValueError, OverflowError, RecursionError: The payload cannot be
                encoded; the request is still in flight.
        """
        request = self.request
        channel = self.channel
        assert channel is not None
        # First, because it can fail, and then nothing has happened.
        data = channel.codec.encode(
            m.Reply(
                channel.handle,
                channel.seq,
                payload,
                self.queue_ns,
                environment_ns,
                encode_ns,
            )
        )
        self.request = None
        if len(data) > COUNTED:
            # Smaller ones are sampled on their way out (`ServerProtocol.next_frame`).
            self.counts.record(self.queue_ns, environment_ns)
        if type(request) is m.Step:
            self.step += 1
            self.stage = _DONE if done else _RUNNING
            if reward:
                self.reward = (self.reward or 0.0) + reward
        elif type(request) is m.Reset:
            self.episode += 1
            self.step = 0
            self.reward = reward
            self.stage = OUTCOMES[Outcome.FINAL if done else Outcome.ONGOING][
                self.stage
            ]
        channel.answer(data)
        if (
            self.watchers is not None
            or self.guest is not None
            or channel.guest
            or type(request) is m.Close
        ):
            assert request is not None
            self._replied(request, channel, payload, environment_ns, encode_ns)

    def _replied(
        self,
        request: Request,
        channel: Channel,
        payload: m.Payload,
        environment_ns: int,
        encode_ns: int,
    ) -> None:
        """What follows a reply besides sending it."""
        if type(request) is m.Close:
            self.table.remove(self, asked=channel)
            return
        if self.watchers:
            self._tell_watchers(request, payload, environment_ns, encode_ns)
        self.release_held()

    def fail(
        self,
        code: str,
        message: str,
        *,
        outcome: Outcome = Outcome.UNCHANGED,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """End the request in flight with an error."""
        request = self.request
        channel = self.channel
        assert request is not None
        assert channel is not None
        self.stage = OUTCOMES[outcome][self.stage]
        if outcome is not Outcome.UNCHANGED:
            self.broken = f"{code}: {message}"
        self.request = None
        channel.fail(code, message, executed=executed, detail=detail)
        if self.watchers:
            payload = channel.codec.encode({"code": code, "message": message})
            self._tell_watchers(request, msgspec.Raw(payload), 0, 0, error=True)
        if type(request) is m.Close:
            self.table.remove(self, asked=channel)
        else:
            self.release_held()

    def release_held(self) -> None:
        """Let a request go on that waited for the session's other client."""
        channel = self.owner if self.guest is None else self.guest
        if channel is None or channel.held is None or self.request is not None:
            return
        request = channel.take_held()
        assert request is not None
        # It was accepted when it came; now it takes its place again.
        channel.seq -= 1
        channel.busy = False
        work = channel.accept(request, channel.held_at)
        if work is not None:
            self.table.release(work)

    def break_episode(self, reason: str) -> None:
        """Mark the episode as lost although no request is in flight."""
        if self.stage in (Stage.RUNNING, Stage.DONE):
            self.stage = OUTCOMES[Outcome.BROKEN][self.stage]
            self.broken = reason

    def refresh(self) -> None:
        """Watchers or a guest came or went: replies may have to take another way."""
        for channel in self.channels():
            channel.refresh()

    def progress(self, fraction: float | None, message: str) -> None:
        """Report on the request in flight; lost if nobody is connected."""
        channel = self.channel
        if channel is None or not channel.busy or channel.protocol is None:
            return
        if not channel.protocol.congested:
            channel.say(m.Progress(channel.handle, channel.seq, fraction, message))

    def row(self, now: float) -> m.SessionRow:
        """Describe the session for lists."""
        owner = self.owner
        return m.SessionRow(
            session=self.id,
            environment=self.environment,
            owner=self.label,
            state=self.stage.value,
            episode=self.episode,
            step=self.step,
            reward=self.reward,
            age=now - self.created,
            busy=None if self.request is None else now - self.since_ns / 1e9,
            attached=owner is not None and owner.protocol is not None,
            taken_over=self.guest is not None,
        )

    def channels(self) -> list[Channel]:
        """The channels that exist, the owner's first."""
        return [channel for channel in (self.owner, self.guest) if channel is not None]

    # Watching.

    def _tell_watchers(
        self,
        request: Request,
        payload: m.Payload,
        environment_ns: int,
        encode_ns: int,
        *,
        error: bool = False,
    ) -> None:
        assert self.channel is not None
        codec = self.channel.codec
        asked: object = None
        kind = "error" if error else _KINDS[type(request)]
        if isinstance(request, m.Step):
            asked = request.action
        elif isinstance(request, m.Reset):
            asked = {
                "seed": request.seed,
                "episode_id": request.episode_id,
                "options": request.options,
            }
        times = (self.queue_ns, environment_ns, encode_ns)
        self._tell(codec, kind, request.seq, asked, payload, times)

    def tell_ended(self, code: str) -> None:
        """Tell watchers that nothing follows, whatever the reason."""
        codec = m.MSGPACK if self.owner is None else self.owner.codec
        seq = 0 if self.channel is None else self.channel.seq
        payload = {"code": code, "message": m.CODES[code].meaning}
        self._tell(codec, "ended", seq, None, payload, (0, 0, 0))

    def _tell(
        self,
        codec: m.Codec,
        kind: str,
        seq: int,
        asked: object,
        payload: object,
        times: tuple[int, int, int],
    ) -> None:
        encoded = codec.encode(payload)
        encoded_request = codec.encode(asked)
        for watcher in self.watchers or ():
            watcher.protocol.tell(
                watcher,
                kind,
                seq,
                codec=codec,
                request=encoded_request,
                payload=encoded,
                times=times,
            )
