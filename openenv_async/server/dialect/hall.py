"""What the connections of OpenEnv's clients share: shapes, and sessions without one.

Sessions that were made over HTTP (`openenv/session/create`) outlive their sockets: at
most one is attached at a time, and when it goes, the session waits for the next one.
OpenEnv keeps such a session for ever; here it ends when nobody used it for its lease.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Final

from ... import messages as m
from ..core import ServerCore
from .seat import Seat
from .shapes import Shape

__all__ = ["Hall", "Shared"]

_logger = logging.getLogger("openenv_async.server")


class Shared:
    """A session that was made over HTTP.

    Args:
        seat: The session.
        id: What clients call it by.
    """

    def __init__(self, seat: Seat, id: str) -> None:
        self.seat: Final = seat
        self.id: Final = id
        self.attached = False
        """Whether a socket is."""
        self.closing = False
        """Whether it ends when the socket goes."""
        self.timer: asyncio.TimerHandle | None = None


class Hall:
    """OpenEnv's side of one server.

    Args:
        core: The server.
        lease: Seconds that a session made over HTTP outlives its last use.
        frame_bytes: Largest frame, and largest body of a request.
    """

    def __init__(self, core: ServerCore, *, lease: float, frame_bytes: int) -> None:
        self.core: Final = core
        self.lease: Final = lease
        self.frame_bytes: Final = frame_bytes
        self.shapes: Final = {name: Shape(spec) for name, spec in core.specs.items()}
        self.default: Final = next(iter(self.shapes))
        self._shared: dict[str, Shared] = {}

    @property
    def tracebacks(self) -> bool:
        """Whether clients may see causes."""
        return self.core.tracebacks

    def shape(self, name: str | None) -> Shape | None:
        """The shape of an environment, the default's without a name."""
        return self.shapes.get(name or self.default)

    def enter(self, shape: Shape, *, label: str = "openenv") -> Seat | m.Failure:
        """Open a session of its own for somebody; returns why that is not possible."""
        seat = Seat(self.core, shape)
        return seat.enter(label=label) or seat

    # Sessions made over HTTP

    def create(self, shape: Shape) -> Shared | m.Failure:
        """Open a session that waits for a socket; returns why that is not possible."""
        key = secrets.token_hex(16)
        id = _new_id(key)
        seat = Seat(self.core, shape)
        refused = seat.enter(key=key, label="openenv over HTTP")
        if refused is not None:
            return refused
        shared = self._shared[id] = Shared(seat, id)
        self.detach(shared)
        return shared

    def adopt(self, seat: Seat) -> Shared:
        """Let HTTP reach a socket's own session, which ends with the socket."""
        id = _new_id(secrets.token_hex(16))
        shared = self._shared[id] = Shared(seat, id)
        shared.attached = shared.closing = True
        return shared

    def find(self, id: object) -> Shared | None:
        """A session by its id."""
        return self._shared.get(id) if isinstance(id, str) else None

    def attach(self, shared: Shared) -> None:
        """A socket takes the session."""
        shared.attached = True
        self._disarm(shared)

    def detach(self, shared: Shared) -> None:
        """The socket is gone; the session waits, unless it is to end."""
        shared.attached = False
        shared.seat.ended = lambda: self.forget(shared)
        if shared.closing:
            self.close(shared)
        elif shared.id in self._shared:
            self.touch(shared)

    def touch(self, shared: Shared) -> None:
        """Somebody uses the session: its lease begins anew."""
        self._disarm(shared)
        if not shared.attached:
            loop = asyncio.get_running_loop()
            shared.timer = loop.call_later(self.lease, self._expire, shared)

    def _expire(self, shared: Shared) -> None:
        if shared.seat.is_busy:
            self.touch(shared)
        else:
            _logger.info("= session %s: nobody used it, it ends", shared.id[:8])
            self.close(shared)

    def close(self, shared: Shared) -> bool:
        """End the session; returns False if it has to wait for its socket."""
        if shared.attached:
            shared.closing = True
            return False
        self.forget(shared)
        shared.seat.leave()
        return True

    def forget(self, shared: Shared) -> None:
        """The session is gone."""
        self._shared.pop(shared.id, None)
        self._disarm(shared)

    def _disarm(self, shared: Shared) -> None:
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None

    def aclose(self) -> None:
        """Forget all sessions; the core closes their environments."""
        for shared in list(self._shared.values()):
            self.forget(shared)

    def capacity_detail(self, failure: m.Failure) -> Mapping[str, object] | None:
        """Numbers of a server that is full, as OpenEnv names them."""
        detail = failure.detail or {}
        if failure.code != "at_capacity":
            return None
        return {
            "active_sessions": detail["sessions"],
            "max_sessions": detail["max_sessions"],
        }


def _new_id(key: str) -> str:
    """Give an id the look of a UUID, which clients expect."""
    return "-".join((key[:8], key[8:12], key[12:16], key[16:20], key[20:]))
