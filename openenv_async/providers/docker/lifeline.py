"""Ties the containers of this process to its life, through a watcher beside it.

The kernel closes the pipe to the watcher when this process is gone, however that
happens: SIGTERM without a handler and SIGKILL leave no time for anything else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from ...errors import ProviderError

__all__ = ["Lifeline", "lifeline_to"]

_WATCHER: Final = Path(__file__).with_name("watcher.py")
_PATIENCE: Final = 5.0
"""Seconds for a watcher that has nothing left to do to end."""


class Lifeline:
    """The watcher of this process for one engine, there while containers are.

    All methods block for some milliseconds at most; safe in any thread.

    Args:
        engine: Address of the engine.
        certificates: Folder of the TLS certificates, if it takes any.
    """

    def __init__(self, engine: str, certificates: str | None = None) -> None:
        self._engine = engine
        self._certificates = certificates
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._folders: dict[str, str] = {}
        self._made: set[str] = set()

    @property
    def pid(self) -> int | None:
        """Process id of the watcher; None while there is none."""
        return None if self._process is None else self._process.pid

    def expect(self, name: str, folder: Path | None) -> None:
        """A container is about to be asked for."""
        with self._lock:
            self._disown_after_fork()
            self._folders[name] = "" if folder is None else str(folder)
            self._tell(f"+{name} {self._folders[name]}")

    def confirm(self, name: str) -> None:
        """The engine has the container."""
        with self._lock:
            if name in self._folders:
                self._made.add(name)
                self._tell(f"={name}")

    def release(self, name: str) -> None:
        """The container is gone; idempotent. The watcher ends with the last one."""
        with self._lock:
            if self._folders.pop(name, None) is None:
                return
            self._made.discard(name)
            if self._folders:
                self._tell(f"-{name}")
            else:
                self._end(last=name)

    def _tell(self, line: str) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            assert process.stdin is not None
            # Unbuffered, and shorter than what a pipe takes in one piece.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{line}\n".encode())
                return
        self._restart()

    def _restart(self) -> None:
        """Start a watcher and tell it all; the one before may have been killed."""
        if self._process is not None:
            self._close(self._process)
        command = [sys.executable, "-I", "-S", str(_WATCHER), self._engine]
        command += [str(self._pid), *filter(None, [self._certificates])]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                # Ctrl-C in a terminal, and signals to our group, are for the owner.
                start_new_session=True,
            )
        except OSError as error:
            raise ProviderError(
                f"could not start the watcher of containers: {error}"
            ) from error
        assert self._process.stdin is not None
        lines = [f"+{name} {folder}" for name, folder in self._folders.items()]
        lines += [f"={name}" for name in self._made]
        self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def _end(self, last: str) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"-{last}\n".encode())
        self._close(process)

    @staticmethod
    def _close(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _disown_after_fork(self) -> None:
        """Let go of the watcher of the process that this one was forked from."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            # Not our child, so there is nothing to wait for.
            self._process.returncode = 0
            self._process = None
        self._folders.clear()
        self._made.clear()


_lifelines: dict[tuple[str, str | None], Lifeline] = {}
_lock = threading.Lock()


def lifeline_to(engine: str, certificates: str | None = None) -> Lifeline:
    """The one lifeline of this process for an engine."""
    with _lock:
        return _lifelines.setdefault(
            (engine, certificates), Lifeline(engine, certificates)
        )
