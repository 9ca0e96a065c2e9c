"""A server on this machine: a subprocess behind a Unix socket."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import anyio

from .._aio import shielded
from ..errors import ProviderError, ServerDied

__all__ = ["LocalProvider", "LocalServer"]

_WRONG_USAGE: Final = 2
"""Exit status of a server that was told to serve what it cannot."""
_LOG_BYTES: Final = 8192
"""How much of a server's output an error shows."""
_STOP_PATIENCE: Final = 15.0
"""Seconds that a server has to end gracefully before it is killed."""
_STOP_TIMEOUT: Final = 30.0
"""Seconds after which stopping is given up."""
_LAUNCH_TIMEOUT: Final = 60.0
_POLL: Final = (0.01, 0.2)
_PANE: Final = re.compile(r"^debug pane at (\S+)$", re.MULTILINE)
"""What a server prints when it serves the pane."""
_SOCKET: Final = "s"
_LOG: Final = "output.log"


class LocalProvider:
    """Starts `openenv-async serve` as a subprocess on a Unix socket.

    A server ends with `stop()`, and also with this process: on a normal exit, an
    exception, Ctrl-C and SIGTERM it is stopped, and when this process is killed it
    notices by itself. Its output is kept in a file and shown when it dies early.

    Args:
        targets: What to serve, as `openenv-async serve` takes it.
        execution: Where environments run; None leaves it to them.
        max_sessions: Sessions at a time; None takes the server's default.
        lease: Seconds that sessions outlive a lost connection.
        workers: Worker processes, for execution `process`.
        environment: Environment variables to add for the server.
        web: Whether each server also has the debug pane, on a port of its own on
            loopback; `LocalServer.pane_url` says where.
        start_timeout: Seconds until the server must answer.
    """

    def __init__(
        self,
        *targets: str,
        execution: Literal["inline", "thread", "process", "isolated"] | None = None,
        max_sessions: int | None = None,
        lease: float | None = None,
        workers: int | None = None,
        environment: Mapping[str, str] | None = None,
        web: bool = False,
        start_timeout: float = 60.0,
    ) -> None:
        if not targets:
            raise ProviderError(
                "expected something to serve, such as 'echo_env', got nothing",
                fault="caller",
            )
        options: dict[str, object] = {
            "--execution": execution,
            "--max-sessions": max_sessions,
            "--lease": lease,
            "--workers": workers,
        }
        self._arguments = [
            *targets,
            *(
                text
                for option, value in options.items()
                if value is not None
                for text in (option, str(value))
            ),
        ]
        if web:
            self._arguments += ["--web", "--port", "0"]
        self._environment = dict(environment or {})
        self._start_timeout = start_timeout
        self._servers: list[LocalServer] = []

    @property
    def servers(self) -> tuple[LocalServer, ...]:
        """The servers that were started and not stopped, oldest first."""
        return tuple(self._servers)

    async def start(self) -> LocalServer:
        """Start a server and wait until it answers.

        Cancelling it ends the server and removes its folder.

        Raises:
            ProviderError: It could not be started, died, or did not answer in time;
                shows the last lines of its output.
        """
        server = LocalServer(self._arguments, self._environment, self._servers.remove)
        self._servers.append(server)
        try:
            # A thread cannot be cancelled, so the caller waits for it, and then stops
            # what it has started.
            await shielded(server.launch(), timeout=_LAUNCH_TIMEOUT)
            await server.wait_healthy(self._start_timeout)
        except BaseException:
            await server.stop()
            raise
        return server

    async def stop(self) -> None:
        """Stop all servers and remove their sockets; idempotent."""
        await shielded(self._stop(), timeout=_STOP_TIMEOUT)

    async def _stop(self) -> None:
        async with anyio.create_task_group() as group:
            for server in self.servers:
                group.start_soon(server.stop)


class LocalServer:
    """A server of this machine: one subprocess with its folder, socket and output.

    Made by `LocalProvider.start`.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: dict[str, str],
        stopped: Callable[[LocalServer], None],
    ) -> None:
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        # The server reads the other end; it closes with this process, however that
        # ends, and then the server ends too.
        self._lifeline: int | None = None
        self._folder = Path()
        self._stopped = stopped
        self._lock = anyio.Lock()
        self._is_stopped = False
        self.pane_url: str | None = None
        """Where the debug pane is; None unless it was asked for."""

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"ws+unix://{self._folder / _SOCKET}"

    @property
    def pid(self) -> int | None:
        """Process id; None before it was started."""
        return None if self._process is None else self._process.pid

    async def launch(self) -> None:
        """Make the folder and start the subprocess in it.

        Raises:
            ProviderError: One of these did not work.
        """
        await anyio.to_thread.run_sync(self._launch)

    def _launch(self) -> None:
        try:
            # Short, because a socket's path has room for about a hundred characters.
            self._folder = Path(tempfile.mkdtemp(prefix="openenv-"))
        except OSError as error:
            raise ProviderError(
                f"expected a temporary folder to serve from: {error}"
            ) from error
        theirs, self._lifeline = os.pipe()
        try:
            with (self._folder / _LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "openenv_async.cli",
                        "serve",
                        *self._arguments,
                        "--uds",
                        str(self._folder / _SOCKET),
                        "--lifeline",
                        str(self._folder),
                    ],
                    stdin=theirs,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    # Ctrl-C in a terminal is for this process, which then stops the
                    # server once its sessions are closed.
                    start_new_session=True,
                )
        except OSError as error:
            raise ProviderError(f"could not start a server: {error}") from error
        finally:
            os.close(theirs)

    async def wait_healthy(self, timeout: float) -> None:
        """Wait for the first answer at `/health`."""
        pause, longest = _POLL
        with anyio.move_on_after(timeout):
            while not await self._is_healthy():
                await self._check_alive()
                await anyio.sleep(pause)
                pause = min(pause * 1.5, longest)
            if "--web" in self._arguments:
                # Printed before the first answer.
                said = _PANE.search(await anyio.to_thread.run_sync(self._beginning))
                self.pane_url = said and said[1]
            return
        raise ProviderError(
            f"expected a server for {self._arguments!r} within {timeout} s, got no "
            "answer; its last output:",
            detail={"log": await anyio.to_thread.run_sync(self.output)},
        )

    async def _check_alive(self) -> None:
        died = await self.diagnose()
        if died is not None:
            if died.exit_code == _WRONG_USAGE:
                # It says that what it should serve is not there, or not to be served.
                died.fault = "caller"
            raise died

    async def diagnose(self) -> ServerDied | None:
        """Tell how the subprocess ended, with its last output; None while it runs."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return None
        log = await anyio.to_thread.run_sync(self.output)
        return ServerDied(
            f"the server for {self._arguments!r} ended with exit status {status}; "
            "its last output:",
            detail={"log": log, "exit_code": status},
        )

    async def _is_healthy(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(
                str(self._folder / _SOCKET)
            )
        except OSError:
            return False
        try:
            writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            status = await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
        return status.split()[1:2] == [b"200"]

    async def stop(self) -> None:
        """End the subprocess, gently if it lets us, and remove its folder.

        Idempotent; cancelling it changes nothing.
        """
        await shielded(self._stop(), timeout=_STOP_TIMEOUT)

    async def _stop(self) -> None:
        async with self._lock:
            if not self._is_stopped:
                await self._end()
                self._is_stopped = True
                self._stopped(self)

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            with anyio.move_on_after(_STOP_PATIENCE):
                while process.poll() is None:  # noqa: ASYNC110 (a process sets no event)
                    await anyio.sleep(0.005)
            if process.poll() is None:
                process.kill()
                while process.poll() is None:  # noqa: ASYNC110 (a process sets no event)
                    await anyio.sleep(0.005)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._folder.name:
            await anyio.to_thread.run_sync(
                lambda: shutil.rmtree(self._folder, ignore_errors=True)
            )

    def _beginning(self) -> str:
        with (self._folder / _LOG).open("rb") as log:
            return log.read(_LOG_BYTES).decode(errors="replace")

    def output(self) -> str:
        """The last part of what the server printed."""
        try:
            with (self._folder / _LOG).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _LOG_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""
