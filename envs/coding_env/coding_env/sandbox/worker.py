"""The worker: what runs in the forked process, inside all fences.

The code that it runs may be hostile and, with real Python, may do to this process
whatever Python can. Nothing here protects the server: the fences do, and the server
checks every frame. What is here serves code that means well.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import tempfile
import traceback
from typing import TextIO, TypeVar

import msgspec

from ..interpreters.base import ErrorInfo, Interpreter, Kind, Outcome, make_interpreter
from . import system
from .frames import (
    LENGTH,
    Answer,
    Ask,
    Call,
    Done,
    Run,
    WorkerReply,
    WorkerRequest,
    framed,
    worker_requests,
)

__all__ = ["CHANNEL", "serve", "take_over"]

CHANNEL = 3
"""The worker's end of its channel."""
_MESSAGE_CHARACTERS = 16_384
_MessageT = TypeVar("_MessageT")


def take_over(channel: int, stdout: int, stderr: int) -> None:
    """Give the worker's descriptors their places: 0 to 2, and the channel behind."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    # Out of the way first: any of them may hold another one's place.
    high = [os.dup(descriptor) for descriptor in (stdin, stdout, stderr, channel)]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place)


def serve(kind: Kind, *, authorized_imports: list[str], output_bytes: int) -> None:
    """Execute requests until the server goes; does not return by itself."""
    tempfile.tempdir = None
    worker = _Worker(output_bytes)
    worker.open_streams()
    interpreter = make_interpreter(
        kind, authorized_imports=authorized_imports, ask=worker.ask
    )
    gc.enable()
    worker.send(Done(0, Outcome()))
    try:
        worker.loop(interpreter)
    except EOFError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 (an interpreter that breaks its promise: say why)
        traceback.print_exc()
        worker.flush()
        os._exit(70)


class _Worker:
    """One end of the channel, and the standard streams.

    Args:
        output_bytes: Longest result to send.
    """

    def __init__(self, output_bytes: int) -> None:
        self._most = output_bytes
        self._seq = 0
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)

    def loop(self, interpreter: Interpreter) -> None:
        """Execute one request after the other."""
        while True:
            request = self._receive()
            if isinstance(request, Answer):
                continue
            self._seq = request.seq
            if isinstance(request, Run):
                outcome = interpreter.run(request.code)
            else:
                outcome = interpreter.call(request.name, request.arguments)
            self.flush()
            self.send(self._done(request, outcome))

    def _done(self, request: Run | Call, outcome: Outcome) -> Done:
        result, is_cut = outcome.result, False
        if result is not None:
            result, is_cut = _cut(result, self._most)
        error = outcome.error
        if error is not None:
            error = ErrorInfo(
                type=_clean(error.type)[:256],
                message=_clean(error.message)[:_MESSAGE_CHARACTERS],
                line=error.line,
            )
        value = outcome.value if outcome.value is None else _clean(outcome.value)
        changed = msgspec.structs.replace(
            outcome, result=result, error=error, value=value
        )
        return Done(request.seq, changed, is_cut)

    def ask(self, text: str) -> str:
        """Ask the server something on behalf of the running code."""
        self.send(Ask(self._seq, _clean(text)))
        while True:
            reply = self._receive()
            if isinstance(reply, Answer):
                return reply.text

    # The channel

    def send(self, message: WorkerReply) -> None:
        """Write a frame."""
        left = memoryview(framed(message))
        while left:
            left = left[os.write(CHANNEL, left) :]

    def _receive(self) -> WorkerRequest:
        (size,) = LENGTH.unpack(_read(LENGTH.size))
        return worker_requests.decode(_read(size))

    # The standard streams

    def open_streams(self) -> None:
        """Make text streams of descriptors 0 to 2.

        They write line by line, so that what was printed is seen even when the worker
        is killed the moment after.
        """
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (lives as long as the process)
        self._streams = (_writer(1), _writer(2))
        sys.stdout, sys.stderr = self._streams
        sys.__stdin__ = sys.stdin  # type: ignore[misc]  # the zygote's are gone
        sys.__stdout__, sys.__stderr__ = self._streams  # type: ignore[misc,assignment]  # likewise

    def flush(self) -> None:
        """Write out what is buffered, and replace streams that the code closed."""
        for stream in {id(one): one for one in (sys.stdout, sys.stderr)}.values():
            try:
                stream.flush()
            except Exception:  # noqa: BLE001 (the code may have put anything there)
                continue
        stdout, stderr = self._streams
        if _is_closed(sys.stdout):
            sys.stdout = stdout = _writer(1) if stdout.closed else stdout
        if _is_closed(sys.stderr):
            sys.stderr = stderr = _writer(2) if stderr.closed else stderr
        self._streams = (stdout, stderr)
        system.flush_c_streams()


def _writer(descriptor: int) -> TextIO:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def _is_closed(stream: object) -> bool:
    return stream is None or getattr(stream, "closed", False) is True


def _read(size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(CHANNEL, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _clean(text: str) -> str:
    """Text that can be encoded: without lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str, most: int) -> tuple[str, bool]:
    """At most so many bytes of text, and whether that is less than all."""
    # A character has at least one byte: no need to encode what is cut off anyway.
    encoded = text[: most + 1].encode("utf-8", "backslashreplace")
    if len(encoded) <= most:
        return encoded.decode(), False
    return encoded[:most].decode("utf-8", "ignore"), True
