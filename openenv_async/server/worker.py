"""The process that runs sessions: `python -m openenv_async.server.worker`.

It reads requests from the socket that it inherits, runs them like the server would,
and ends when the socket closes. Its first argument is the socket's descriptor, its
second what to serve, as `openenv-async serve` takes it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import socket
import sys
import threading
from time import perf_counter_ns, sleep
from typing import Any, Final, assert_never

import anyio
import msgspec

from .. import messages as m
from .._aio import Tasks
from ..environment import EnvironmentSpec, find_spec
from ..errors import Executed
from ..protocol import Outcome, Request
from .hosts import METHODS, Host, shut_down
from .inline import InlineBackend
from .pinned import threads_for
from .pipe import Begin, Done, Failed, Pipe, Ready, Report, ToWorker, unwrap, wrap

__all__ = ["main", "run_worker"]

_logger = logging.getLogger("openenv_async.server")

_CLOSE_PATIENCE: Final = 5.0
"""Seconds that each environment has to close once the parent is gone."""


class _PipeSink:
    """Sends a host's answers to the parent."""

    __slots__ = ("_encoding", "_handle", "_pipe", "queue_ns", "since_ns")

    def __init__(self, pipe: Pipe[ToWorker], handle: int, encoding: m.Encoding) -> None:
        self.since_ns = 0
        self.queue_ns = 0
        self._encoding: m.Encoding = encoding
        self._pipe = pipe
        self._handle = handle

    def reply(
        self,
        payload: m.Payload,
        *,
        done: bool = False,
        reward: float | None = None,
        environment_ns: int = 0,
        encode_ns: int = 0,
    ) -> None:
        self._pipe.send(
            Done(
                self._handle,
                wrap(payload, self._encoding),
                done,
                # Any real number is a reward, `True` and NumPy's too.
                None if reward is None else float(reward),
                self.queue_ns,
                environment_ns,
                encode_ns,
            )
        )

    def step_reply(self, observation: object, environment_ns: int) -> None:
        """The short way is closed here: hosts of this sink take `reply`."""
        raise AssertionError

    def fail(
        self,
        code: str,
        message: str,
        *,
        outcome: Outcome = Outcome.UNCHANGED,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        self._pipe.send(
            Failed(
                self._handle,
                code,
                message,
                executed or m.CODES[code].executed,
                outcome.value,
                detail,
            )
        )

    def progress(self, fraction: float | None, message: str) -> None:
        self._pipe.send(Report(self._handle, fraction, message))


def _unwrapped(request: Request, encoding: m.Encoding) -> Request:
    """A request with its payload as the client encoded it."""
    if encoding != "msgpack":
        if isinstance(request, m.Step):
            action = unwrap(request.action, encoding)
            return msgspec.structs.replace(request, action=action)
        if isinstance(request, m.Reset):
            options = unwrap(request.options, encoding)
            return msgspec.structs.replace(request, options=options)
    return request


def _nothing() -> None:
    """The pipe sends by itself."""


class _Worker:
    """Runs the sessions that the parent gives it."""

    def __init__(self, spec: EnvironmentSpec, *, tracebacks: bool) -> None:
        self._spec = spec
        self._tracebacks = tracebacks
        self._tasks = Tasks()
        self._inline = InlineBackend(self._tasks, _nothing)
        self._threads = threads_for(spec.affinity, adopt=self._inline.adopt)
        self._hosts: dict[int, Host] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ended = self._loop.create_future()
        self._blocking = {
            method for method in METHODS.values() if method not in spec.async_methods
        }

    async def run(self, connection: socket.socket) -> None:
        """Serve until the parent is gone."""
        decoder = msgspec.msgpack.Decoder(list[ToWorker])
        self._pipe = Pipe(
            decode=decoder.decode,
            received=self._received,
            lost=self._lost,
        )
        await self._loop.create_connection(lambda: self._pipe, sock=connection)
        self._pipe.send(Ready())
        await self._ended
        hosts = list(self._hosts.values())
        for host in hosts:
            self._inline.cancel(host)
        with anyio.move_on_after(_CLOSE_PATIENCE):
            # Polled once, at the end of a worker.
            while any(host.task is not None for host in hosts):  # noqa: ASYNC110 (see above)
                await anyio.sleep(0.01)
        for host in hosts:
            await self._close(host)
        self._threads.close()
        await shut_down(self._spec)
        self._inline.close()

    async def _close(self, host: Host) -> None:
        """The parent is gone and can ask for nothing: close what it left."""
        environment = host.environment
        if environment is None or host.running is not None or host.stuck:
            return
        with anyio.move_on_after(_CLOSE_PATIENCE):
            if self._spec.affinity != "none" and "close" in self._blocking:
                # Only its own thread may touch it.
                self._threads.submit(host, m.Close(0, 0))
                while host.environment is not None:  # noqa: ASYNC110 (see `run`)
                    await anyio.sleep(0.01)
                return
            try:
                result = host.context.run(environment.close)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # an environment's own; the next one closes all the same
                _logger.exception("closing %s failed", host.label)

    def _lost(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _received(self, messages: list[ToWorker]) -> None:
        now = perf_counter_ns()
        for message in messages:
            match message:
                case Begin():
                    self._begin(message)
                case m.Cancel():
                    # It may come after the close that it wants to stop.
                    cancelled = self._hosts.get(message.handle)
                    if cancelled is not None:
                        self._inline.cancel(cancelled)
                case m.Reset() | m.Step() | m.GetState() | m.Close():
                    host = self._hosts[message.handle]
                    host.sink.since_ns = now
                    request = _unwrapped(message, host.codec.encoding)
                    if type(request) is m.Close:
                        del self._hosts[request.handle]
                    if host.stuck and type(request) is m.Close:
                        host.leave()
                    elif METHODS[type(request)] in self._blocking:
                        # Even for a single session, because the next one that comes
                        # here must not wait for a step that hangs.
                        self._threads.submit(host, request)
                    else:
                        self._inline.submit(host, request)
                case _:
                    assert_never(message)

    def _begin(self, begin: Begin) -> None:
        codec = m.MSGPACK if begin.encoding == "msgpack" else m.JSON
        host = self._hosts.get(begin.handle)
        decode: Any = codec.decoder(self._spec.action_type)
        sink = _PipeSink(self._pipe, begin.handle, begin.encoding)
        if host is not None:
            host.sink, host.codec, host.decode_action = sink, codec, decode
            return
        self._hosts[begin.handle] = Host(
            self._spec,
            sink,
            codec=codec,
            decode_action=decode,
            label=begin.label,
            tracebacks=self._tracebacks,
            report=self._report,
            separate=True,
        )

    def _report(self, host: Host, fraction: float | None, message: str) -> None:
        if threading.get_ident() == self._thread:
            # Now, or the reply of a step that does not suspend would overtake it.
            host.sink.progress(fraction, message)
        else:
            self._loop.call_soon_threadsafe(host.sink.progress, fraction, message)


def _watch_parent(parent: int) -> None:
    """End with the parent even while an environment blocks the loop."""
    while os.getppid() == parent:
        sleep(1.0)
    sleep(2 * _CLOSE_PATIENCE)
    os._exit(1)


async def _serve(descriptor: int, spec: EnvironmentSpec, *, tracebacks: bool) -> None:
    connection = socket.socket(fileno=descriptor)
    connection.settimeout(0.0)
    await _Worker(spec, tracebacks=tracebacks).run(connection)


def run_worker(descriptor: int, spec: EnvironmentSpec, *, tracebacks: bool) -> None:
    """Run sessions of an environment until the socket's other end is gone."""
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    asyncio.run(_serve(descriptor, spec, tracebacks=tracebacks))


def main(arguments: list[str]) -> None:
    """Run a worker until its parent is gone."""
    descriptor, target, tracebacks = arguments
    # The parent decides when a worker ends; Ctrl-C reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_worker(int(descriptor), find_spec(target), tracebacks=tracebacks == "1")


if __name__ == "__main__":
    main(sys.argv[1:])
    # Threads that hang in an environment must not keep a worker without a parent.
    os._exit(0)
