"""OpenEnv's client interface on our transport: one changed import moves an example.

A client has a home: the event loop in which its session lives. The first use decides:
an `await` takes the running loop, a plain call takes the one in the background. From
any other loop or thread a call goes there and back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from ..errors import LocalProtocolError, OpenEnvError, SessionLost
from .background import BACKGROUND, run_in
from .calls import Call, OwnCall
from .errors import ConnectionClosedError, translated
from .results import StepResult
from .starting import Starter, Starting, image_starter, provider_starter, space_image
from .sync_client import SyncEnvClient
from .wire import WireOptions, WireSession

__all__ = ["EnvClient"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")
StateT = TypeVar("StateT")
ResultT = TypeVar("ResultT")

_Work: TypeAlias = Callable[[WireSession], Awaitable[Any]]
"""What a call does with the session, in its loop."""

_MODES: Final = ("simulation", "production")
_NEVER: Final = 1e9
"""Seconds of silence that nobody reaches: no pings."""


class EnvClient(ABC, Generic[ActT, ObsT, StateT]):
    """A client for one session with an environment, as OpenEnv shapes it.

    Subclasses say how an action becomes a dict and how dicts become results. Every
    call can be made plainly, from any thread, or awaited; the first one connects. Calls
    of one client wait for each other.

    It never goes on in a new session by itself: once a connection is lost or a call
    was given up, `step` and `state` raise until `reset` begins a new episode.

    Args:
        base_url: `http://host:port`, `ws://host:port` or `host:port`.
        connect_timeout_s: Seconds for connecting.
        message_timeout_s: Seconds for each answer.
        max_message_size_mb: Largest message to accept, in MiB.
        websocket_ping_interval_s: Seconds between signs of life; None asks for none.
        websocket_ping_timeout_s: Not used: three intervals of silence are the end.
        provider: Starts the server, where there is no `base_url`: ours or OpenEnv's.
        mode: "simulation" or "production"; None takes `OPENENV_CLIENT_MODE`.
        headers: HTTP headers for the handshake.
    """

    def __init__(
        self,
        base_url: str | None = None,
        connect_timeout_s: float = 10.0,
        message_timeout_s: float = 60.0,
        max_message_size_mb: float = 100.0,
        websocket_ping_interval_s: float | None = 20.0,
        websocket_ping_timeout_s: float | None = 20.0,
        provider: Any = None,
        mode: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if base_url is None and provider is None:
            raise ValueError("EnvClient requires either base_url or provider.")
        self._mode = _checked_mode(mode)
        self._base_url = None if base_url is None else base_url.rstrip("/")
        self._arguments: dict[str, Any] = {
            "connect_timeout_s": connect_timeout_s,
            "message_timeout_s": message_timeout_s,
            "max_message_size_mb": max_message_size_mb,
            "websocket_ping_interval_s": websocket_ping_interval_s,
            "websocket_ping_timeout_s": websocket_ping_timeout_s,
            "mode": self._mode,
            "headers": headers,
        }
        self._wire_options = WireOptions(
            connect_timeout=connect_timeout_s,
            timeout=message_timeout_s,
            message_bytes=int(max_message_size_mb * 1024 * 1024),
            heartbeat=websocket_ping_interval_s or _NEVER,
            headers=tuple((headers or {}).items()),
        )
        self._starter: Starter | None = None
        if provider is not None:
            self._starter = provider_starter(provider)
        self._starts_itself = base_url is None
        self._is_started = False
        self._home: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._pid = os.getpid()
        self._guard = threading.RLock()
        self._held: list[WireSession] = []
        """The session that is open, for whoever has to end it without the client."""
        self._session: WireSession | None = None
        self._is_lost = ""
        """Why `step` and `state` have to wait for a `reset`."""
        self._children: list[EnvClient[ActT, ObsT, StateT]] = []
        self._sync: SyncEnvClient[ActT, ObsT, StateT] | None = None
        self._key = object()
        """What the background knows this client by."""
        self._finalizer: weakref.finalize[Any, Any] | None = None

    @property
    def base_url(self) -> str | None:
        """The server's address; None until a server of its own is started."""
        return self._base_url

    # What a subclass says

    @abstractmethod
    def _step_payload(self, action: ActT) -> dict[str, Any]:
        """Turn an action into the dict that travels."""

    @abstractmethod
    def _parse_result(self, payload: dict[str, Any]) -> StepResult[ObsT]:
        """Turn the answer to `reset` or `step` into a result."""

    @abstractmethod
    def _parse_state(self, payload: dict[str, Any]) -> StateT:
        """Turn the answer to `state` into a state."""

    # Calls

    def connect(self) -> Any:
        """Connect now instead of at the first call; returns the client.

        Raises:
            ConnectError: There is no server.
            ServerError: It has no room for another session, or no environment.
        """
        return self._dispatch(_nothing, lambda _: self)

    def reset(self, **arguments: Any) -> Any:
        """Start an episode; `arguments` are what the environment's `reset` takes.

        Where an earlier call still runs and cannot be stopped, it does so in another
        session. A full server has `message_timeout_s` to find a place for that one.

        Raises:
            ConnectError: There is no server.
            ServerError: The server refused, or the environment raised.
            CallTimeout: There was no answer in time.
            ConnectionClosedError: The connection was lost during the call.
        """
        return self._dispatch(
            lambda session: session.reset_with(arguments),
            self._parse_result,
            begins=True,
        )

    def step(self, action: ActT, **_arguments: Any) -> Any:
        """Perform an action; it is executed at most once. Raises like `reset`."""
        payload = self._step_payload(action)
        return self._dispatch(
            lambda session: session.step_with(payload), self._parse_result
        )

    def state(self) -> Any:
        """Read the environment's state. Raises like `reset`."""
        return self._dispatch(lambda session: session.state_with(), self._parse_state)

    def disconnect(self) -> Any:
        """End the session, and leave the server running."""
        return self._run(self._end_session, lambda _: None)

    def close(self) -> Any:
        """End the session, those of `new_session`, and a server of its own.

        It may be used again: the next call connects anew.
        """
        return self._run(self._close, self._leave)

    def new_session(self) -> Any:
        """Connect another client of the same class to the same server.

        It is closed with this one.
        """
        return self._dispatch(_nothing, lambda _: self._child(), child=True)

    # Where calls run

    def _dispatch(
        self,
        work: _Work,
        finish: Callable[[Any], Any],
        *,
        begins: bool = False,
        child: bool = False,
    ) -> Any:
        return self._run(
            lambda: self._call(work, begins=begins), finish, connects=child
        )

    def _run(
        self,
        act: Callable[[], Coroutine[Any, Any, Any]],
        finish: Callable[[Any], Any],
        *,
        connects: bool = False,
    ) -> Any:
        running = _running_loop()
        self._forget_dead_home()
        if running is None:
            result = finish(run_in(self._settle(), act()))
            return result.connect() if connects else result

        async def awaited() -> Any:
            self._settle(asyncio.get_running_loop())
            result = finish(await act())
            return await result.connect() if connects else result

        if self._home is running:
            return OwnCall(awaited())

        def begin() -> Future[Any]:
            home = self._settle()
            if home is _running_loop():
                raise RuntimeError(
                    "expected the call to be awaited, because the client lives in "
                    "this event loop"
                )
            return asyncio.run_coroutine_threadsafe(act(), home)

        if self._home is None:
            return Call(begin, finish, awaited)
        return Call(begin, finish)

    def _settle(
        self, loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.AbstractEventLoop:
        """Take a home if there is none yet: this loop, or the background."""
        with self._guard:
            if self._home is None:
                if loop is None:
                    loop = BACKGROUND.enter(self._key, _end_of(self._held))
                    self._finalizer = weakref.finalize(
                        self, BACKGROUND.dismiss, self._key
                    )
                    self._finalizer.atexit = False  # It ends them all by itself.
                self._home = loop
                self._lock = asyncio.Lock()
            elif not self._home.is_running():
                raise RuntimeError(
                    "expected the event loop that the client lives in to run, because "
                    "its session is there: await the call in it, or close it before"
                )
            return self._home

    def _forget_dead_home(self) -> None:
        """Leave a loop that was closed or belongs to a parent process."""
        with self._guard:
            is_forked = self._pid != os.getpid()
            if self._home is None or not (is_forked or self._home.is_closed()):
                return
            self._pid = os.getpid()
            self._home = self._finalizer = None
            session, self._session = self._session, None
            self._held.clear()
            if session is not None and session.has_begun:
                self._is_lost = "the event loop that the session lived in is gone"

    def _leave(self, _: object) -> None:
        """Nothing of it runs any more: give up its home."""
        with self._guard:
            if self._finalizer is not None:
                self._finalizer.detach()
                self._finalizer = None
                BACKGROUND.leave(self._key)
            self._home = None

    def blocking(
        self,
        act: Callable[[], Coroutine[Any, Any, ResultT]],
    ) -> ResultT:
        """Run a coroutine in the client's home, and block until it is done."""
        self._forget_dead_home()
        home = self._settle()
        if home is _running_loop():
            raise RuntimeError(
                "expected another thread than that of the event loop that the client "
                "lives in, which must not be blocked"
            )
        return run_in(home, act())

    # In its home

    async def _call(self, work: _Work, *, begins: bool) -> Any:
        async with self._lock:
            try:
                return await self._perform(work, begins=begins)
            except OpenEnvError as error:
                other = translated(error, self._base_url or "")
                if other is error:
                    raise
                raise other from error

    async def _perform(self, work: _Work, *, begins: bool) -> Any:
        session = self._session
        if begins and session is not None and session.is_held_up:
            session = await self._replaced(session)
        else:
            session = await self._open_session(begins=begins)
        try:
            return await work(session)
        except SessionLost as error:
            if not begins or error.code != "session_poisoned":
                raise
        # An earlier call hangs in the environment, and this one was not executed.
        return await work(await self._replaced(session))

    async def _replaced(self, session: WireSession) -> WireSession:
        """Another session for a reset, because a call hangs in this one."""
        await self._drop_session(session)
        # Its place may stay taken for as long as the call runs.
        options = dataclasses.replace(
            self._wire_options, capacity_timeout=self._wire_options.timeout
        )
        return await self._open_session(begins=True, options=options)

    async def _open_session(
        self, *, begins: bool, options: WireOptions | None = None
    ) -> WireSession:
        session = self._session
        if session is not None and session.is_open:
            return session
        if session is not None:
            await self._drop_session(session)
        if self._is_lost and not begins:
            raise ConnectionClosedError(
                f"expected a reset first, because {self._is_lost}", executed="no"
            )
        url = await self._address()
        session = WireSession(url, options or self._wire_options)
        await session.open()
        self._session, self._is_lost = session, ""
        self._held.append(session)
        return session

    async def _drop_session(self, session: WireSession) -> None:
        """End a session that can no longer be used; only a reset begins another one."""
        self._is_lost = "the session was lost by an earlier call"
        self._session = None
        self._held.clear()
        if session.is_held_up:
            await session.give_up()
        else:
            await session.aclose()

    async def _address(self) -> str:
        """Where the server is; starts one of its own, which lives in the background."""
        if self._starter is not None and self._starts_itself and not self._is_started:
            starter = self._starter
            try:
                url = await self._in_background(starter.start)
            except BaseException:
                await asyncio.to_thread(BACKGROUND.leave, starter)
                raise
            self._base_url, self._is_started = url.rstrip("/"), True
        assert self._base_url is not None
        url = self._base_url
        return url if "://" in url else f"ws://{url}"

    async def _in_background(
        self, act: Callable[[], Coroutine[Any, Any, ResultT]]
    ) -> ResultT:
        starter = self._starter
        assert starter is not None
        # It waits for a thread to start.
        loop = await asyncio.to_thread(BACKGROUND.enter, starter, starter.stop)
        if loop is asyncio.get_running_loop():
            return await act()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(act(), loop))

    async def _end_session(self) -> None:
        async with self._lock:
            session, self._session = self._session, None
            self._is_lost = ""
            self._held.clear()
            if session is not None:
                await session.aclose()

    async def _close(self) -> None:
        children, self._children = self._children, []
        for child in children:
            await child.close()
        try:
            await self._end_session()
        finally:
            if self._starter is not None and self._is_started:
                self._is_started = False
                try:
                    await self._in_background(self._starter.stop)
                finally:
                    self._base_url = None
                    await asyncio.to_thread(BACKGROUND.leave, self._starter)

    async def connect_here(self) -> Self:
        """Connect in the running loop; returns the client."""
        client: Self = await self.connect()
        return client

    def _child(self) -> EnvClient[ActT, ObsT, StateT]:
        parameters = inspect.signature(type(self)).parameters
        takes_all = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        arguments: dict[str, Any] = {"base_url": self._base_url, **self._arguments}
        child = type(self)(
            **{
                name: value
                for name, value in arguments.items()
                if takes_all or name in parameters
            }
        )
        self._children.append(child)
        return child

    # Contexts

    async def __aenter__(self) -> Self:
        return await self.connect_here()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __enter__(self) -> Self:
        self.sync().connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sync().close()

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """The same, blocking wherever it is called."""
        if self._sync is None:
            self._sync = SyncEnvClient(self)
        return self._sync

    # Servers of its own

    @classmethod
    def from_docker_image(
        cls, image: str, provider: Any = None, **options: Any
    ) -> Starting[Self]:
        """A client of a container of its own; see `Starting` for how to use it.

        Args:
            image: What to run.
            provider: One of OpenEnv's kind; None takes our `DockerProvider`.
            options: `env_vars`, `port`, and more that the provider's start takes.
        """
        starter = (
            image_starter(image, options)
            if provider is None
            else provider_starter(provider, image, options)
        )
        return cls._started_by(starter)

    @classmethod
    def from_env(
        cls,
        repo_id: str,
        *,
        use_docker: bool = True,
        provider: Any = None,
        tag: str = "latest",
        **options: Any,
    ) -> Starting[Self]:
        """A client of a Hugging Face Space that runs here; as `from_docker_image`.

        Args:
            repo_id: The Space, `owner/name`.
            use_docker: Whether to run its image; otherwise `provider` runs it.
            provider: As for `from_docker_image`.
            tag: Of the image.
            options: As for `from_docker_image`.

        Raises:
            LocalProtocolError: Without Docker and without a provider.
        """
        if use_docker:
            image = space_image(repo_id, tag)
            return cls.from_docker_image(image, provider, **options)
        if provider is None:
            raise LocalProtocolError(
                "expected a provider that runs the Space without Docker, got none"
            )
        return cls._started_by(provider_starter(provider, None, options))

    @classmethod
    def _started_by(cls, starter: Starter) -> Starting[Self]:
        client = cls(base_url="ws://localhost")
        client._base_url = None
        client._starter = starter
        client._starts_itself = True
        return Starting(client)


async def _nothing(_session: WireSession) -> None:
    """Only connect."""


def _end_of(held: list[WireSession]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def end() -> None:
        while held:
            await held.pop().aclose()

    return end


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _checked_mode(mode: str | None) -> str:
    # OpenEnv's clients read it wherever they are made.
    given = (
        os.environ.get("OPENENV_CLIENT_MODE", "simulation") if mode is None else mode
    )
    normal = given.lower()
    if normal not in _MODES:
        raise ValueError(
            f"Invalid mode: '{normal}'. Must be 'simulation' or 'production'. Set via "
            "constructor parameter or OPENENV_CLIENT_MODE environment variable."
        )
    return normal
