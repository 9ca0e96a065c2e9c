"""uvicorn's WebSocket, with a way around ASGI's events for our own application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol,
)
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from .connection import DIRECT

__all__ = ["DirectProtocol"]


class DirectProtocol(WebSocketsSansIOProtocol):
    """A `DirectSocket` for applications that ask for it, uvicorn's own otherwise."""

    _received: Callable[[bytes, bool], None] | None = None
    _writable: Callable[[], None] | None = None

    def handle_connect(self, event: Request) -> None:
        """Offer the way around in the scope."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
            extensions[DIRECT] = self

    def tap(
        self,
        received: Callable[[bytes, bool], None],
        writable: Callable[[], None],
    ) -> None:
        """See `DirectSocket.tap`."""
        self._received = received
        self._writable = writable

    def send_receive_event_to_app(self) -> None:
        """Hand a message over, to the tap if there is one."""
        if self._received is None:
            super().send_receive_event_to_app()
            return
        frames, self.frames = self.frames, []
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if not self.close_sent:
            self._received(bytes(data), self.curr_msg_data_type == "text")

    def resume_writing(self) -> None:
        """The peer takes more."""
        super().resume_writing()
        if self._writable is not None:
            self._writable()

    @property
    def is_full(self) -> bool:
        """See `DirectSocket.is_full`."""
        return not self.writable.is_set()

    def write(self, frame: bytes, *, is_text: bool) -> None:
        """See `DirectSocket.write`."""
        if self.disconnected or self.close_sent or self.transport.is_closing():
            return
        try:
            if is_text:
                self.conn.send_text(frame)
            else:
                self.conn.send_binary(frame)
        except InvalidState:
            return  # The peer has begun to close.
        self.transport.writelines(self.conn.data_to_send())

    def read(self, *, wanted: bool) -> None:
        """See `DirectSocket.read`."""
        if self.transport.is_closing():
            return
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def limit(self, size: int, *, keepalive: float | None) -> None:
        """See `DirectSocket.limit`."""
        self.conn.max_message_size = size
        if keepalive is not None:
            self.ping_interval = self.ping_timeout = keepalive
            self.start_keepalive()

    def abort(self) -> None:
        """See `DirectSocket.abort`."""
        self.transport.abort()
