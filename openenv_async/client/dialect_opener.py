"""How a session in OpenEnv's dialect gets its socket, gets it back, and ends.

A server of OpenEnv takes every socket, builds an environment for it, and says only then
that there is no room. So a session counts as open when it has answered a question.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from typing import Final, cast
from urllib.parse import quote

import msgspec

from .. import messages as m
from .._aio import Tasks
from ..dialect import (
    ErrorFrame,
    FromServer,
    McpFrame,
    McpReplyFrame,
    RpcError,
    decode_rpc_reply,
    encode,
    error_from_dialect,
)
from ..errors import AtCapacity, ConnectFailed, OpenEnvError, SessionLost
from .connection import ConnectionOptions, Diagnose
from .dialect_http import create_session, end_session, session_id_of
from .dialect_line import Call, DialectLine, is_last
from .endpoint import Endpoint
from .transport import WebSocket, open_websocket

__all__ = ["DialectOpener"]

_logger = logging.getLogger("openenv_async.client")

_CONNECTS: Final = 32
"""Sockets that are opened at the same time: the server builds an environment each."""
_BACKOFF: Final = (0.05, 2.0)
"""Seconds before the first and, at most, between later attempts."""
_END_PATIENCE: Final = 3.0
"""Seconds for ending sessions that would outlive their sockets."""
_NOT_YET: Final = ("already has an attached WebSocket", "still initializing")
"""In the texts of those who refuse a session for now: there is no code for it."""
_GRACE: Final = 2.0
"""Seconds that a server has to notice that a socket is gone."""
_WHOSE: Final = encode(
    McpFrame({"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"})
)
"""Answered with the id of the socket's own session, which proves that there is one."""


class _StillAttached(OpenEnvError):
    """The server has not noticed yet that the last socket is gone."""


class DialectOpener:
    """Opens the sockets of one server's sessions, a bounded number at a time.

    Args:
        endpoint: Where the server is.
        options: See `ConnectionOptions`; each try to connect has `connect_timeout`.
        diagnose: Tells why the server has ended by itself, if it has.
    """

    def __init__(
        self, endpoint: Endpoint, options: ConnectionOptions, diagnose: Diagnose | None
    ) -> None:
        self.tasks: Final = Tasks()
        self._endpoint = endpoint
        self._options = options
        self._diagnose = diagnose
        self._loop = asyncio.get_running_loop()
        self._spares: list[WebSocket] = []
        """Open sockets that belong to no session yet."""
        self._freed_at = 0.0
        """When a socket was closed to make room for a session, on the loop's clock."""
        self._connecting = asyncio.Semaphore(_CONNECTS)
        self._endings: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Drop spare sockets, end what would outlive them, and all tasks."""
        for socket in self._spares:
            socket.abort()
        self._spares.clear()
        try:
            if self._endings:
                await asyncio.wait(self._endings, timeout=_END_PATIENCE)
        finally:
            await self.tasks.aclose()

    # Sockets

    def adopt(self, socket: WebSocket) -> None:
        """Take an open socket for the next session."""
        self._spares.append(socket)

    async def _connect(self, line: DialectLine, endpoint: Endpoint) -> None:
        """Give a line a socket.

        Raises:
            ConnectFailed: There is no server.
            Unauthorized: The token is missing or wrong.
        """
        limits = self._options.limits
        socket = self._take_spare() if endpoint is self._endpoint else None
        if socket is None:
            opened = await open_websocket(
                endpoint,
                subprotocol=None,
                token=self._options.token,
                is_text=True,
                max_size=limits.message_bytes,
                received=_early,
                writable=_nothing,
                lost=_early,
                headers=self._options.headers,
            )
            assert isinstance(opened, WebSocket)
            socket = opened
        line.connected(socket)
        socket.hand_over(line.received, line.lost, max_size=limits.message_bytes)

    def _take_spare(self) -> WebSocket | None:
        while self._spares:
            socket = self._spares.pop()
            if not socket.is_closed or socket.has_early:
                return socket
        return None

    async def _drop_spares(self) -> bool:
        """Close them in order, for their places; says whether there were any."""
        spares, self._spares = self._spares, []
        for socket in spares:
            await socket.aclose(_GRACE)
        return bool(spares)

    async def open(self, line: DialectLine) -> None:
        """Open a session, again and again while the server is full."""
        opening = cast(m.Open, line.session.opening)
        give_up = self._loop.time() + opening.wait
        pause, most = _BACKOFF
        while True:
            problem = await self._try_to_open(line)
            if problem is None:
                line.task = None
                line.opened(opening.lease or 0.0 if line.attach_id else 0.0)
                return
            # A place that we have just given back may not be free yet.
            left = max(give_up, self._freed_at + _GRACE) - self._loop.time()
            if not isinstance(problem, AtCapacity) or left <= 0:
                break
            await asyncio.sleep(min(left, random.uniform(0.0, pause)))
            pause = min(pause * 2, most)
        line.task = None
        line.fail_to_open(await self._cause() or problem)

    async def _try_to_open(self, line: DialectLine) -> OpenEnvError | None:
        """Try it once; returns why it failed. Leaves nothing behind then."""
        problem: OpenEnvError | None = None
        timeout = self._options.connect_timeout
        try:
            async with self._connecting, asyncio.timeout(timeout):
                await self._attempt(line)
        except TimeoutError:
            problem = ConnectFailed(
                f"expected an answer from {self._endpoint.url!r} within {timeout} s"
            )
        except OpenEnvError as error:
            problem = error
        except Exception as error:
            _logger.warning("= %s: cannot connect", self._endpoint.url, exc_info=error)
            text = f"expected a server at {self._endpoint.url!r}: {error!r}"
            problem = ConnectFailed(text, retryable=False)
        finally:
            if not line.session.id:
                line.drop()
                if line.attach_id:
                    self.end_later(line)
        return problem

    async def _attempt(self, line: DialectLine) -> None:
        opening = cast(m.Open, line.session.opening)
        if opening.lease:
            if await self._drop_spares():
                self._freed_at = self._loop.time()
            line.attach_id = await create_session(self._endpoint, self._options) or ""
        await self._connect(line, self._place_of(line))
        found = _own_id(await line.ask(_WHOSE))
        if line.attach_id and found != line.attach_id:
            # Servers before 0.10 ignore the id, and have made a session beside it.
            await self._end_over_http(line.attach_id)
            line.attach_id = ""
        if opening.lease and not line.attach_id:
            _logger.warning(
                "= %s cannot attach to a session again: it goes with its socket",
                self._endpoint.url,
            )
        line.session.id = found or f"dialect-{line.session.handle}"

    def _place_of(self, line: DialectLine) -> Endpoint:
        if not line.attach_id:
            return self._endpoint
        query = f"?session_id={quote(line.attach_id, safe='')}"
        return dataclasses.replace(self._endpoint, path=f"{self._endpoint.path}{query}")

    async def _cause(self) -> OpenEnvError | None:
        """Why nobody will ever answer at this address again, if that is so."""
        return None if self._diagnose is None else await self._diagnose()

    # Sockets that are lost

    async def lose(self, line: DialectLine, why: str) -> None:
        """End a session whose socket is gone, with all that is known of the reason."""
        died = await self._cause()
        detail = {} if died is None else died.detail
        if died is not None:
            why = f"{why} ({died.message})"
        line.task = None
        line.end(
            SessionLost(
                f"the session is gone with its socket: {why}",
                executed=line.executed,
                detail=detail,
            )
        )

    async def attach_again(self, line: DialectLine, ending: str) -> None:
        """Attach to a session again, for as long as its lease; otherwise it is lost.

        The server refuses that until it has noticed that the last socket is gone, and
        it does not look before the step that runs has ended.
        """
        lease = cast(m.Open, line.session.opening).lease or 0.0
        give_up = self._loop.time() + lease
        pause, most = _BACKOFF
        problem = ending
        while self._loop.time() < give_up:
            await asyncio.sleep(random.uniform(0.0, pause))
            pause = min(pause * 2, most)
            try:
                async with (
                    self._connecting,
                    asyncio.timeout(self._options.connect_timeout),
                ):
                    count = await self._attach(line)
            except SessionLost as error:
                problem = error.message
                break
            except TimeoutError:
                problem = "no answer in time"
            except OpenEnvError as error:
                problem = error.message
            else:
                _logger.info("= session %s attached again", line.session.id)
                line.task = None
                line.resume(count)
                return
            line.drop()
            if await self._cause() is not None:
                break
        await self.lose(line, f"{ending}; attaching again failed: {problem}")

    async def _attach(self, line: DialectLine) -> int | None:
        """Attach to the session again; returns how many steps it has counted.

        Raises:
            SessionLost: The server has no such session.
            OpenEnvError: It may work later.
        """
        await self._connect(line, self._place_of(line))
        answer = await line.ask(_WHOSE)
        if isinstance(answer, ErrorFrame) and is_last(answer):
            error = error_from_dialect(answer.data)
            if any(text in error.message for text in _NOT_YET):
                raise _StillAttached(error.message)
            raise SessionLost(error.message) from error
        found = _own_id(answer)
        if found != line.attach_id:
            raise SessionLost(
                f"expected to attach to {line.attach_id!r}, got session {found!r}"
            )
        return await line.ask_count() if line.needs_count else None

    # Sessions that end

    def end_later(self, line: DialectLine) -> None:
        """End a session that would outlive its socket."""
        session_id, line.attach_id = line.attach_id, ""

        async def end() -> None:
            await self._end_over_http(session_id)
            if line.call is Call.CLOSE and line.session.pending is not None:
                line.closed()

        task = self.tasks.spawn(end(), "openenv-async-end")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end_over_http(self, session_id: str) -> None:
        try:
            await end_session(self._endpoint, self._options, session_id)
        except OpenEnvError as error:
            _logger.warning(
                "session %s stays on %s until the server ends it: %s",
                session_id,
                self._endpoint.url,
                error,
            )


def _own_id(answer: FromServer) -> str:
    """The session's id, or nothing where the server does not tell; or why not.

    Raises:
        OpenEnvError: The server refused the session, and ends the connection.
    """
    if isinstance(answer, ErrorFrame) and is_last(answer):
        raise error_from_dialect(answer.data)
    if not isinstance(answer, McpReplyFrame):
        # It does not know the question, but it answered.
        return ""
    result = decode_rpc_reply(cast(msgspec.Raw, answer.data))
    return "" if isinstance(result, RpcError) else session_id_of(result) or ""


def _early(_nothing: object) -> None:
    """Until the socket is handed over, it keeps what comes itself."""


def _nothing() -> None:
    """Whoever has one request in flight need not wait to write it."""
