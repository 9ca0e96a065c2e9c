"""Environments in worker processes, with sessions pinned to their worker.

Payloads go through undecoded. A worker that dies costs the episodes of its own
sessions and nothing else; each of them can be reset, which puts it in another worker.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Final, Protocol, assert_never

import anyio
import msgspec

from .. import messages as m
from .._aio import Tasks
from ..environment import EnvironmentSpec
from ..errors import LocalProtocolError, ProviderError
from ..protocol import Outcome, Request, Session
from .forks import ForkServer
from .hosts import Host, waited
from .pipe import (
    Begin,
    Done,
    Failed,
    FromWorker,
    Pipe,
    Ready,
    Report,
    unwrap,
    wrap,
)

__all__ = ["IN_PROCESSES", "WorkerBackend"]

_logger = logging.getLogger("openenv_async.server")

IN_PROCESSES: Final = frozenset({"process", "isolated"})
"""The executions that this module provides."""
_GRACE: Final = 0.5
"""Seconds that a worker has to stop a request before it is killed."""
_START_TIMEOUT: Final = 60.0
"""Seconds that a worker has to import its environment."""


class _Process(Protocol):
    """A process of ours, however it was made."""

    @property
    def returncode(self) -> int | None:
        """Its exit status, once that is known."""
        ...

    def kill(self) -> None:
        """End it at once."""

    async def wait(self) -> int:
        """Wait for its end."""
        ...


class _Worker:
    """One process with its sessions."""

    def __init__(self, backend: WorkerBackend, number: int) -> None:
        self.number = number
        self.pipe: Pipe[FromWorker] | None = None
        self.process: _Process | None = None
        self.hosts: dict[int, Host] = {}
        self.begun: dict[int, m.Encoding] = {}
        self.handles: dict[Host, int] = {}
        self.ready = False
        self.settled = asyncio.Event()
        """Set once it is ready, or never will be."""
        self.failed = ""
        self.retired = False
        """Whether it is meant to end."""
        self._backend = backend
        self._next_handle = 1
        self._backlog: list[msgspec.Struct] = []

    async def start(self) -> None:
        """Start the process; its first message says that it is ready."""
        ours, theirs = socket.socketpair()
        ours.settimeout(0.0)
        decoder = msgspec.msgpack.Decoder(list[FromWorker])
        pipe = self.pipe = Pipe(
            decode=decoder.decode,
            received=self._received,
            lost=self._lost,
        )
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: pipe, sock=ours)
            self.process = await self._backend.launch(theirs)
        finally:
            theirs.close()

    def load(self) -> int:
        """Sessions that live here."""
        return len(self.hosts)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message, or keep it until the worker is ready."""
        if self.ready and self.pipe is not None:
            self.pipe.send(message)
        else:
            self._backlog.append(message)

    def adopt(self, host: Host) -> int:
        """Pin a session to this worker."""
        handle = self._next_handle
        self._next_handle += 1
        self.hosts[handle] = host
        self.handles[host] = handle
        return handle

    def _received(self, messages: list[FromWorker]) -> None:
        for message in messages:
            match message:
                case Ready():
                    self.ready = True
                    self.settled.set()
                    backlog, self._backlog = self._backlog, []
                    for waiting in backlog:
                        self.send(waiting)
                case Done():
                    self._backend.done(self, message)
                case Failed():
                    self._backend.failed(self, message)
                case Report():
                    host = self.hosts.get(message.handle)
                    if host is not None and host.running is not None:
                        host.sink.progress(message.fraction, message.message)
                case _:
                    assert_never(message)

    def _lost(self) -> None:
        self.pipe = None
        self.settled.set()
        self._backend.lost(self)

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


class WorkerBackend:
    """Runs one environment's sessions in worker processes.

    Args:
        spec: The environment; its `target` must be importable by a worker.
        workers: How many processes; started with the first session.
        tasks: Owner of the tasks that start and reap them.
        tracebacks: Whether callers see tracebacks.

    With execution `isolated`, each session has a process of its own instead, forked
    from one that has the environment imported, and ended with the session.

    Raises:
        LocalProtocolError: A worker could not import the environment.
    """

    def __init__(
        self, spec: EnvironmentSpec, *, workers: int, tasks: Tasks, tracebacks: bool
    ) -> None:
        if not spec.target:
            raise LocalProtocolError(
                f"expected an importable environment for execution "
                f"{spec.execution!r}, got {spec.name!r}: define it at the top level of "
                "a module"
            )
        self.spec = spec
        self.tracebacks = tracebacks
        self._most = max(1, workers)
        self._tasks = tasks
        self._workers: list[_Worker] = []
        self._place: dict[Host, _Worker] = {}
        self._timers: dict[Host, asyncio.TimerHandle] = {}
        self._number = 0
        self._closing = False
        self._forks = (
            ForkServer(spec.target, tracebacks=tracebacks)
            if spec.execution == "isolated"
            else None
        )

    def warm(self) -> None:
        """Begin with what the first session would wait for, if that takes long."""
        if self._forks is not None and not self._closing:
            self._tasks.spawn(
                self._forks.warm(), f"openenv-async-warm-{self.spec.name}"
            )

    async def launch(self, connection: socket.socket) -> _Process:
        """Start a process that serves the other end of a connection.

        Raises:
            OSError: The system has no room for it.
            ProviderError: The environment cannot be imported.
        """
        if self._forks is not None:
            return await self._forks.fork(connection)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "openenv_async.server.worker",
            str(connection.fileno()),
            self.spec.target,
            "1" if self.tracebacks else "0",
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(connection.fileno(),),
        )

    def submit(self, host: Host, request: Request) -> None:
        """Execute a request in the session's worker."""
        worker = self._place.get(host)
        if worker is None:
            if type(request) is m.Close:
                host.sink.reply(None)
                return
            worker = self._place[host] = self._choose()
            worker.adopt(host)
        handle = worker.handles[host]
        encoding = host.codec.encoding
        if worker.begun.get(handle) != encoding:
            worker.begun[handle] = encoding
            worker.send(Begin(handle, encoding, host.label))
        host.running = request
        if request.timeout is not None:
            remaining = request.timeout - waited(host)
            self._timers[host] = asyncio.get_running_loop().call_later(
                max(0.0, remaining), self._expire, host, request
            )
        if isinstance(request, m.Step):
            action = wrap(request.action, encoding)
            request = msgspec.structs.replace(request, action=action)
        elif isinstance(request, m.Reset):
            options = wrap(request.options, encoding)
            request = msgspec.structs.replace(request, options=options)
        worker.send(msgspec.structs.replace(request, handle=handle, timeout=None))

    def _choose(self) -> _Worker:
        if self._forks is not None or len(self._workers) < self._most:
            self._number += 1
            worker = _Worker(self, self._number)
            self._workers.append(worker)
            self._tasks.spawn(
                self._start(worker), f"openenv-async-worker-{worker.number}"
            )
            return worker
        return min(self._workers, key=_Worker.load)

    async def _start(self, worker: _Worker) -> None:
        try:
            await worker.start()
        except (OSError, ProviderError) as error:
            worker.failed = f"could not be started: {error}"
            if worker.pipe is not None:
                worker.pipe.close()
            self.lost(worker)
            return
        with anyio.move_on_after(_START_TIMEOUT):
            await worker.settled.wait()
        if not worker.settled.is_set():
            worker.failed = f"did not get ready within {_START_TIMEOUT} s"
            worker.kill()

    def cancel(self, host: Host, code: str = "cancelled") -> None:
        """Stop the host's request: kindly first, then by killing its worker."""
        worker = self._place.get(host)
        if worker is None or host.running is None or host.stopping:
            return
        host.stopping = code
        worker.send(m.Cancel(worker.handles[host], host.running.seq))
        if code == "deadline_exceeded":
            asyncio.get_running_loop().call_later(
                _GRACE, self._kill_for, worker, host, host.running
            )

    def _expire(self, host: Host, request: Request) -> None:
        self._timers.pop(host, None)
        if host.running is request:
            if host.stopping:
                # A cancellation was not heard; the deadline means it.
                host.stopping = ""
            self.cancel(host, "deadline_exceeded")

    def give_up(self, host: Host) -> None:
        """Do not wait any longer for a call that nobody needs: kill its worker."""
        worker = self._place.get(host)
        if worker is not None and host.running is not None:
            self._kill_for(worker, host, host.running)

    def _kill_for(self, worker: _Worker, host: Host, request: Request) -> None:
        if host.running is request and worker in self._workers:
            worker.failed = f"was killed: {host.label} did not answer in time"
            _logger.warning("= worker %d %s", worker.number, worker.failed)
            worker.kill()

    # What comes back

    def _ended(self, worker: _Worker, handle: int) -> tuple[Host, Request] | None:
        host = worker.hosts.get(handle)
        if host is None or host.running is None:
            return None
        timer = self._timers.pop(host, None)
        if timer is not None:
            timer.cancel()
        request, host.running = host.running, None
        if type(request) is m.Close:
            self._forget(worker, host)
        return host, request

    def _forget(self, worker: _Worker, host: Host) -> None:
        handle = worker.handles.pop(host)
        worker.hosts.pop(handle, None)
        worker.begun.pop(handle, None)
        self._place.pop(host, None)
        if self._forks is not None and worker.pipe is not None:
            # Its only session is over; it ends when it sees that.
            worker.retired = True
            worker.pipe.close()

    def done(self, worker: _Worker, message: Done) -> None:
        """A request ended with a payload."""
        ended = self._ended(worker, message.handle)
        if ended is not None:
            host, _request = ended
            host.stopping = ""
            host.sink.queue_ns = message.queue_ns
            host.sink.reply(
                unwrap(message.payload, host.codec.encoding),
                done=message.done,
                reward=message.reward,
                environment_ns=message.environment_ns,
                encode_ns=message.encode_ns,
            )

    def failed(self, worker: _Worker, message: Failed) -> None:
        """A request ended with an error."""
        ended = self._ended(worker, message.handle)
        if ended is None:
            return
        host, request = ended
        code, text = message.code, message.message
        if host.stopping == "deadline_exceeded" and code == "cancelled":
            # The worker knows only that it was told to stop.
            code = host.stopping
            text = f"expected an answer within {request.timeout} s"
        host.stopping = ""
        host.sink.fail(
            code,
            text,
            outcome=Outcome(message.outcome),
            executed=message.executed,
            detail=message.detail,
        )

    def lost(self, worker: _Worker) -> None:
        """A worker is gone: its running requests fail, its episodes are over."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        for host in list(worker.handles):
            if host.running is None:
                # At once, so that its next reset goes to a worker that lives.
                self._forget(worker, host)
                if isinstance(host.sink, Session):
                    text = f"the worker process of {self.spec.name!r} ended"
                    host.sink.break_episode(f"worker_died: {text}")
        if not self._closing:
            self._tasks.spawn(self._reap(worker), f"openenv-async-reap-{worker.number}")

    async def _reap(self, worker: _Worker) -> None:
        process = worker.process
        status = None
        if process is not None:
            with anyio.move_on_after(_GRACE):
                status = await process.wait()
            if status is None:
                worker.kill()
                status = await process.wait()
        if worker.retired:
            return
        reason = worker.failed or (
            f"died with exit status {status}"
            if worker.ready
            else f"could not load {self.spec.target!r} (exit status {status})"
        )
        text = f"the worker process of {self.spec.name!r} {reason}"
        _logger.warning("= worker %d: %s", worker.number, text)
        for host in list(worker.handles):
            timer = self._timers.pop(host, None)
            if timer is not None:
                timer.cancel()
            host.running = None
            code = (
                host.stopping if host.stopping == "deadline_exceeded" else "worker_died"
            )
            host.stopping = ""
            self._forget(worker, host)
            host.sink.fail(
                code,
                text,
                outcome=Outcome.BROKEN,
                executed="unknown",
                detail={"exit_status": status},
            )

    async def aclose(self) -> None:
        """End all workers; environments should be closed by now."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        for worker in list(self._workers):
            if worker.pipe is not None:
                worker.pipe.close()
        for worker in list(self._workers):
            if worker.process is not None:
                with anyio.move_on_after(_GRACE * 2):
                    await worker.process.wait()
                worker.kill()
                await worker.process.wait()
        self._workers.clear()
        if self._forks is not None:
            await self._forks.aclose()
