"""A WebSocket on asyncio's callbacks, over websockets' sans-I/O protocol.

Frames arrive in a callback, without a task that has to be woken for each of them: that
is a third of the latency of a lone step.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Final

from websockets.client import ClientProtocol as Framing
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidState,
    InvalidStatus,
    PayloadTooBig,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from ..errors import ConnectFailed, OpenEnvError, RemoteProtocolError, Unauthorized
from .carriers import Socket, carrier_of
from .endpoint import Endpoint

__all__ = ["SpeaksDialect", "WebSocket", "open_websocket"]

_ROOM: Final = 64 * 1024
_LOW_WATER: Final = 256 * 1024
_HIGH_WATER: Final = 1024 * 1024
"""Bytes in the kernel's queue above which frames wait in the outbox instead."""


class SpeaksDialect(RemoteProtocolError):
    """The server took the WebSocket without agreeing to our subprotocol.

    So do OpenEnv's servers. By then they have made a session for it, so `socket` is to
    be used or dropped, not to be forgotten.
    """

    socket: WebSocket | None = None

    def take(self) -> WebSocket | None:
        """The socket, for the first one who asks."""
        socket, self.socket = self.socket, None
        return socket

    def drop(self) -> None:
        """End the socket if nobody took it."""
        socket = self.take()
        if socket is not None:
            socket.abort()


class WebSocket(asyncio.Protocol):
    """One client connection: whole messages in and out.

    Args:
        endpoint: Where it goes.
        subprotocol: What to offer; None offers nothing, and speaks OpenEnv's dialect.
        headers: More headers for the handshake.
        token: Bearer token for the handshake.
        is_text: Whether messages travel as text.
        max_size: Largest message to accept, in bytes.
        received: Called with each message.
        writable: Called when writing is possible again.
        lost: Called once, with itself, when the connection is gone.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        subprotocol: str | None,
        token: str | None,
        is_text: bool,
        max_size: int,
        received: Callable[[bytes], None],
        writable: Callable[[], None],
        lost: Callable[[Socket], None],
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._framing = Framing(
            parse_uri(endpoint.websocket_url),
            subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]  # a NewType of str
            max_size=max_size + _ROOM,
        )
        self._endpoint = endpoint
        self._subprotocol = subprotocol
        self._token = token
        self._headers = tuple(headers)
        self._send_message = (
            self._framing.send_text if is_text else self._framing.send_binary
        )
        self._early: list[bytes] = []
        """Messages in another language than ours, for whoever takes the socket."""
        self.heard = True
        """Whether the server answered since the last ping."""
        self._received = received
        self._writable = writable
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._handshake: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )
        self._closed = asyncio.get_running_loop().create_future()
        self.paused = False
        """Whether the kernel takes no more."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake."""
        self._transport = transport  # type: ignore[assignment]  # a stream transport
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)
        request = self._framing.connect()
        request.headers["User-Agent"] = "openenv-async"
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        for name, value in self._headers:
            request.headers[name] = value
        self._framing.send_request(request)
        self._write()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        framing = self._framing
        framing.receive_data(data)
        for event in framing.events_received():
            if type(event) is Frame:
                self._frame(event)
            elif isinstance(event, Response):
                self._responded()
        self._after_receiving()

    def eof_received(self) -> None:
        """The server has closed its side."""
        self._framing.receive_eof()
        self._after_receiving()

    def _after_receiving(self) -> None:
        framing = self._framing
        self._write()
        if framing.handshake_exc is not None:
            self._fail_handshake(framing.handshake_exc)
        if framing.close_expected() and self._transport is not None:
            self._transport.close()

    def _responded(self) -> None:
        if self._framing.handshake_exc is None and not self._handshake.done():
            if self._framing.subprotocol is None:
                self._received = self._early.append
            self._handshake.set_result(None)

    def _fail_handshake(self, error: Exception) -> None:
        if not self._handshake.done():
            self._handshake.set_exception(_handshake_error(self._endpoint, error))
            # Whoever connects may have been cancelled.
            self._handshake.exception()
        if self._transport is not None:
            self._transport.close()

    def _frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.BINARY or opcode is Opcode.TEXT:
            if frame.fin:
                self._received(bytes(frame.data))
            else:
                self._pieces = [bytes(frame.data)]
        elif opcode is Opcode.CONT:
            self._pieces.append(bytes(frame.data))
            if frame.fin:
                pieces, self._pieces = self._pieces, []
                self._received(b"".join(pieces))
        elif opcode is Opcode.PONG:
            self.heard = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        if not self._handshake.done():
            self._handshake.set_exception(
                ConnectFailed(
                    f"expected a WebSocket at {self._endpoint.url!r}, but the "
                    f"connection ended during the handshake: {exc or 'end of stream'}"
                )
            )
            self._handshake.exception()
        if not self._closed.done():
            self._closed.set_result(None)
        self._lost(self)

    def pause_writing(self) -> None:
        """The kernel takes no more."""
        self.paused = True

    def resume_writing(self) -> None:
        """The kernel takes more."""
        self.paused = False
        self._writable()

    # For the connection

    async def handshake(self) -> None:
        """Wait until the WebSocket is open.

        Raises:
            OpenEnvError: The server refused; says why.
        """
        await self._handshake

    @property
    def speaks_dialect(self) -> bool:
        """Whether the server did not agree to the subprotocol that it was offered."""
        return self._subprotocol is not None and self._framing.subprotocol is None

    def hand_over(
        self,
        received: Callable[[bytes], None],
        lost: Callable[[Socket], None],
        *,
        max_size: int,
    ) -> None:
        """Move a socket without a subprotocol to whoever speaks the dialect, as text.

        What came meanwhile is delivered in a later turn, and so is its end.

        Args:
            received: Called with each message.
            lost: Called once, with itself, when the connection is gone.
            max_size: Largest message to accept, in bytes.
        """
        self._send_message = self._framing.send_text
        self._framing.max_message_size = max_size + _ROOM
        asyncio.get_running_loop().call_soon(self._replay, received, lost)

    def _replay(
        self, received: Callable[[bytes], None], lost: Callable[[Socket], None]
    ) -> None:
        self._received, self._lost = received, lost
        early, self._early = self._early, []
        for message in early:
            received(message)
        if self._transport is None:
            lost(self)

    @property
    def is_open(self) -> bool:
        """Whether a message would still be written."""
        transport = self._transport
        return (
            transport is not None
            and not transport.is_closing()
            and self._framing.state is State.OPEN
        )

    @property
    def has_early(self) -> bool:
        """Whether something came before it was handed over."""
        return bool(self._early)

    def ping(self) -> None:
        """Ask for a sign of life; `heard` will tell."""
        self.heard = False
        if self.is_open:
            self._framing.send_ping(b"")
            self._write()

    @property
    def ending(self) -> tuple[int, str]:
        """Code and reason with which the connection ended; 1006 without any."""
        close = self._framing.close_rcvd or self._framing.close_sent
        return (1006, "") if close is None else (int(close.code), close.reason)

    @property
    def is_overrun(self) -> bool:
        """Whether it ended because a message was larger than we take."""
        return isinstance(self._framing.parser_exc, PayloadTooBig)

    def send(self, frame: bytes) -> None:
        """Write a message; never blocks, and does nothing once the socket ends."""
        if self._transport is None:
            return
        try:
            self._send_message(frame)
        except InvalidState:
            return  # The server has begun to close; what is open is sent again.
        self._write()

    def _write(self) -> None:
        data = self._framing.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.writelines([piece for piece in data if piece])

    async def aclose(self, timeout: float) -> None:
        """Close with a handshake; drops the socket when that takes too long."""
        if self._transport is None:
            return
        if self._framing.state is State.OPEN:
            self._framing.send_close(1000)
            self._write()
        else:
            self._transport.abort()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._closed)
        except TimeoutError:
            self.abort()
            await self._closed
        except BaseException:
            self.abort()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return self._transport is None

    def abort(self) -> None:
        """Drop the socket at once."""
        if self._transport is not None:
            self._transport.abort()


def _handshake_error(endpoint: Endpoint, error: Exception) -> OpenEnvError:
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        body = (error.response.body or b"")[:500].decode(errors="replace")
        kind: type[OpenEnvError] = Unauthorized if status == 401 else ConnectFailed
        return kind(
            f"expected a WebSocket at {endpoint.url!r}, got HTTP {status}: {body}",
            retryable=status in (502, 503, 504),
        )
    what = str(error.__cause__ or error)
    if isinstance(error, InvalidMessage):
        what = f"no HTTP: {what}"
    assert isinstance(error, InvalidHandshake | OSError | EOFError)
    return ConnectFailed(
        f"expected a WebSocket at {endpoint.url!r}, got {what}", retryable=False
    )


async def open_websocket(
    endpoint: Endpoint,
    *,
    subprotocol: str | None,
    token: str | None,
    is_text: bool,
    max_size: int,
    received: Callable[[bytes], None],
    writable: Callable[[], None],
    lost: Callable[[Socket], None],
    headers: Iterable[tuple[str, str]] = (),
) -> Socket:
    """Connect and shake hands.

    Raises:
        ConnectFailed: Nobody listens there, or no WebSocket server does.
        Unauthorized: The token is missing or wrong.
        SpeaksDialect: The server did not agree to the subprotocol.
    """
    if endpoint.memory:
        if subprotocol is None:
            raise ConnectFailed(
                f"expected a server that speaks OpenEnv's dialect, got one in this "
                f"process at {endpoint.url!r}",
                retryable=False,
            )
        return await carrier_of(endpoint).open(
            subprotocol=subprotocol,
            token=token,
            is_text=is_text,
            received=received,
            writable=writable,
            lost=lost,
        )
    loop = asyncio.get_running_loop()

    def factory() -> WebSocket:
        return WebSocket(
            endpoint,
            subprotocol=subprotocol,
            token=token,
            is_text=is_text,
            max_size=max_size,
            received=received,
            writable=writable,
            lost=lost,
            headers=headers,
        )

    try:
        if endpoint.uds:
            _, socket = await loop.create_unix_connection(factory, endpoint.uds)
        else:
            _, socket = await loop.create_connection(
                factory,
                endpoint.host,
                endpoint.port,
                ssl=ssl.create_default_context() if endpoint.tls else None,
            )
    except OSError as error:
        raise ConnectFailed(
            f"expected a server at {endpoint.url!r}: {error}"
        ) from error
    try:
        await socket.handshake()
    except BaseException:
        socket.abort()
        raise
    if socket.speaks_dialect:
        other = SpeaksDialect(
            f"expected a server that speaks {subprotocol!r} at {endpoint.url!r}, got "
            "one that chose no subprotocol"
        )
        other.socket = socket
        raise other
    return socket
