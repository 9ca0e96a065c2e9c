"""The pool: starts workers for one configuration, and cleans up after them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from openenv_async import LocalProtocolError, ProviderError

from ..interpreters.base import Kind
from . import scratch, system
from .channel import Channel
from .fences import namespaces
from .frames import Configure, Fence, Inspect, Kill, Start
from .launcher import Launched, Zygote, launch, reserve_users
from .limits import Limits
from .patrol import Patrol, started_threads
from .sandbox import WORKER_FRAME, Sandbox
from .users import Users

__all__ = ["Namespaces", "PoolConfig", "SandboxPool"]

_logger = logging.getLogger("openenv_async.server")

Namespaces = Literal["auto", "off"]
"""Whether workers get namespaces of their own where the machine offers them."""

_TRIES: Final = 6
_PAUSE: Final = 0.05
"""Seconds until a worker is tried again for which there was no room; twice as long each
time. Who takes all the room is killed meanwhile."""
_KILL_PATIENCE: Final = 10.0
"""Seconds after which a zygote that kills nobody is itself killed."""


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of a pool have in common.

    Raises:
        LocalProtocolError: By `check`, for a value that cannot be meant.
    """

    kinds: tuple[Kind, ...] = ("smolagents",)
    """Interpreters to have ready."""
    authorized_imports: tuple[str, ...] = ()
    limits: Limits = Limits()
    hidden: tuple[str, ...] = ()
    """Files and directories that no code may read, such as a task's tests."""
    namespaces: Namespaces = "auto"
    start_timeout: float = 60.0
    """Seconds to import the interpreters, and to start a worker."""

    def check(self) -> None:
        """Refuse values that cannot be meant, naming the first of them."""
        self.limits.check()
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise LocalProtocolError(
                    f"expected an interpreter of {get_args(Kind)}, got {kind!r}"
                )
        if self.namespaces not in get_args(Namespaces):
            raise LocalProtocolError(
                f"expected 'namespaces' of {get_args(Namespaces)}, "
                f"got {self.namespaces!r}"
            )


class _Start(NamedTuple):
    launched: Launched
    configuration: Configure
    users: Users | None


class SandboxPool:
    """Starts workers by forking one warmed-up process, the zygote.

    That is started by the first worker, and again should it die. The pool belongs to
    the event loop that it is first used on. `aclose()` ends everything; so does the
    end of this process, even by SIGKILL.

    Args:
        config: What the workers have in common.
    """

    def __init__(self, config: PoolConfig | None = None) -> None:
        self.config: Final = PoolConfig() if config is None else config
        self.config.check()
        self.limits: Final = self.config.limits
        self.fences: Sequence[Fence] = ()
        """What was seen to hold, once the zygote is up."""
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()
        self._launching: asyncio.Future[_Start] | None = None
        self._ending: set[asyncio.Future[str]] = set()
        """Zygotes whose end somebody was too impatient to await."""
        self._users: Users | None = None
        self._sandboxes: dict[int, Sandbox] = {}
        self._numbers = 0
        self._patrol: Patrol | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    # Starting

    async def start(self, kind: str) -> Sandbox:
        """Start a worker; whoever called closes it.

        Raises:
            LocalProtocolError: The pool is closed, or has no such interpreter.
            ProviderError: The worker, or the zygote, cannot be started.
        """
        if kind not in self.config.kinds:
            raise LocalProtocolError(
                f"expected an interpreter of {self.config.kinds}, got {kind!r}"
            )
        for attempt in itertools.count(1):
            zygote = await self.warm_up()
            sandbox = self._fork(zygote, kind)
            try:
                if await sandbox.ready(self.config.start_timeout):
                    return sandbox
            except BaseException:
                await sandbox.aclose()
                raise
            await sandbox.aclose()
            if attempt == _TRIES or not sandbox.is_worth_a_retry:
                raise ProviderError(
                    "expected a worker to start",
                    detail={"log": sandbox.last_words()},
                    retryable=sandbox.is_worth_a_retry,
                )
            await asyncio.sleep(_PAUSE * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    async def warm_up(self) -> Zygote:
        """Start the zygote if it is not running.

        Raises:
            LocalProtocolError: The pool is closed.
            ProviderError: It cannot be started, or an interpreter is not installed.
        """
        if self._closed:
            raise LocalProtocolError("expected an open pool, got a closed one")
        if self._zygote is not None and not self._zygote.is_dead:
            return self._zygote
        async with self._starting:
            if self._zygote is not None:
                if not self._zygote.is_dead:
                    return self._zygote
                zygote, self._zygote = self._zygote, None
                said = await self._end(zygote)
                _logger.warning("the zygote ended: %s", said.strip() or "no words")
            self._zygote = await self._start_zygote()
            return self._zygote

    async def _start_zygote(self) -> Zygote:
        loop = asyncio.get_running_loop()
        if self._launching is None:
            self._launching = loop.run_in_executor(None, self._launch, self._users)
        start = await self._launched()
        zygote = Zygote(start.launched, self._zygote_gone)
        try:
            self.fences = await zygote.configure(
                start.configuration, self.config.start_timeout
            )
        except BaseException as error:
            said = await self._end(zygote)
            if isinstance(error, ProviderError):
                error.detail["log"] = said
            raise
        finally:
            # The probe that had it is gone.
            self._give_back(start.configuration.uid)
        self._end_patrol()
        if self._threads is None:
            self._threads = started_threads()
        self._patrol = Patrol(
            self.limits,
            start.launched.sessions,
            executor=self._threads,
            inspect=lambda numbers: zygote.send(Inspect(numbers)),
        )
        return zygote

    async def _launched(self) -> _Start:
        """The process that is being started.

        Cancelling leaves it to the next caller, who goes on with what was begun.
        """
        assert self._launching is not None
        try:
            start = await asyncio.shield(self._launching)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._launching = None
            raise
        self._launching = None
        self._users = start.users
        return start

    def _launch(self, users: Users | None) -> _Start:
        """Start the process; blocks."""
        config = self.config
        isolate = config.namespaces == "auto"
        launched = launch(hidden=config.hidden, isolate=isolate)
        try:
            users = users or reserve_users(isolate=isolate)
            uid = None if users is None else users.take()
        except BaseException:
            launched.discard()
            raise
        if users is None:
            # Who has our user may otherwise read our memory and variables in /proc.
            system.prctl(system.PR_SET_DUMPABLE, 0)
        configuration = Configure(
            kinds=list(config.kinds),
            authorized_imports=list(config.authorized_imports),
            limits=config.limits,
            scratch=launched.sessions,
            hidden=list(config.hidden),
            uid=uid,
            namespaces=namespaces(),
        )
        return _Start(launched, configuration, users)

    def _fork(self, zygote: Zygote, kind: str) -> Sandbox:
        self._numbers += 1
        number = self._numbers
        try:
            ours, readers, theirs = _descriptors()
        except OSError as error:
            raise ProviderError(
                f"expected descriptors for a worker: {error}", retryable=True
            ) from error
        uid = None if self._users is None else self._users.take()
        sandbox = Sandbox(self, number, uid=uid, streams=readers)
        channel = Channel(
            ours,
            most=WORKER_FRAME,
            on_frame=sandbox.on_frame,
            on_fault=sandbox.on_fault,
        )
        sandbox.connect(channel)
        self._sandboxes[number] = sandbox
        zygote.watch(number, sandbox)
        zygote.send(Start(number, kind, uid), theirs)
        return sandbox

    # For sandboxes

    def kill(self, sandbox: Sandbox) -> None:
        """Have a worker killed."""
        zygote = self._zygote
        if zygote is None or zygote.is_dead:
            sandbox.lost()
            return
        zygote.send(Kill(sandbox.number))
        loop = asyncio.get_running_loop()
        loop.call_later(_KILL_PATIENCE, self._must_be_gone, zygote, sandbox)

    def _must_be_gone(self, zygote: Zygote, sandbox: Sandbox) -> None:
        if sandbox.number in self._sandboxes:
            _logger.error("the zygote did not kill a worker within its time")
            zygote.abandon()

    def busy(self, sandbox: Sandbox) -> None:
        """A worker begins to run code: it is looked at from now on."""
        if self._patrol is not None:
            self._patrol.watch(sandbox)

    def release(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """Remove what a worker left, and let others have its user."""
        self._sandboxes.pop(sandbox.number, None)
        if self._patrol is not None:
            self._patrol.forget(sandbox)
        loop = asyncio.get_running_loop()
        if self._zygote is None:
            # Its directory goes, or went, with the zygote's.
            removed: asyncio.Future[None] = loop.create_future()
            removed.set_result(None)
            return removed
        sessions = self._zygote.launched.sessions
        path = os.path.join(sessions, str(sandbox.number))
        removing = loop.run_in_executor(self._threads, _remove, path)
        removing.add_done_callback(lambda _: self._give_back(sandbox.uid))
        return removing

    def _give_back(self, uid: int | None) -> None:
        if self._users is not None and uid is not None:
            self._users.give_back(uid)

    # The end

    def _zygote_gone(self) -> None:
        for sandbox in list(self._sandboxes.values()):
            sandbox.lost()

    async def aclose(self) -> None:
        """Kill all workers, end the zygote and remove its directory; idempotent."""
        self._closed = True
        self._end_patrol()
        async with self._starting:
            await self._undo_launch()
            zygote, self._zygote = self._zygote, None
            for sandbox in list(self._sandboxes.values()):
                sandbox.lost()
            if zygote is not None:
                await self._end(zygote)
            if self._ending:
                await asyncio.wait(self._ending)
            if self._users is not None:
                self._users.close()
                self._users = None
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def _end_patrol(self) -> None:
        if self._patrol is not None:
            self._patrol.close()
            self._patrol = None

    async def _end(self, zygote: Zygote) -> str:
        """End a zygote; what it wrote to stderr. Cancelling does not stop that."""
        ending = zygote.end()
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return await asyncio.shield(ending)

    async def _undo_launch(self) -> None:
        """Undo a start whose caller was cancelled."""
        if self._launching is None:
            return
        try:
            start = await self._launched()
        except (OSError, ProviderError):
            return
        await self._end(Zygote(start.launched, self._zygote_gone))


def _descriptors() -> tuple[socket.socket, tuple[int, int], tuple[int, int, int]]:
    """A worker's channel, stdout and stderr: our end, the readers, and its ends.

    Raises:
        OSError: There are not enough of them; none is left open.
    """
    with contextlib.ExitStack() as undo:
        ours, its = socket.socketpair()
        undo.callback(its.close)
        undo.callback(ours.close)
        ours.settimeout(0)
        pipes = [os.pipe2(os.O_CLOEXEC)]
        undo.callback(_close_all, *pipes[0])
        pipes.append(os.pipe2(os.O_CLOEXEC))
        undo.pop_all()
    for reader, _ in pipes:
        os.set_blocking(reader, False)
    (out_reader, out_writer), (err_reader, err_writer) = pipes
    return ours, (out_reader, err_reader), (its.detach(), out_writer, err_writer)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        scratch.remove(path)
    except OSError:
        # Never the session's fault that it ends here; the zygote's end tries again.
        _logger.warning("cannot remove %s", path, exc_info=True)
