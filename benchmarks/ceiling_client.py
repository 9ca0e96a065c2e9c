"""Client of the bare ceiling: sans-I/O framing, and futures or batches on top.

Run by the harness as a worker: `python -m benchmarks.ceiling_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias, cast

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.typing import BytesLike
from websockets.uri import parse_uri

from benchmarks import ceiling_wire as wire
from benchmarks.cases import MESSAGE
from benchmarks.loops import loop_from_arguments
from benchmarks.meter import Job, Metrics, measure
from benchmarks.meter import Step as MeasuredStep
from benchmarks.worker import serve_jobs

__all__ = ["AwaitedSteps", "BatchSteps", "FrameSocket"]

_AnyResult: TypeAlias = wire.Result[Any]
_Decode: TypeAlias = Callable[[BytesLike], list[_AnyResult]]

_encode = msgspec.msgpack.Encoder().encode
_DECODERS: dict[str, _Decode] = {
    "text": msgspec.msgpack.Decoder(list[wire.Result[wire.TextObservation]]).decode,
    "image": msgspec.msgpack.Decoder(list[wire.Result[wire.ImageObservation]]).decode,
}


class FrameSocket(asyncio.Protocol):
    """One WebSocket: the transport, and websockets' framing on it."""

    def __init__(self, url: str) -> None:
        self._framing = ClientProtocol(parse_uri(url), max_size=None)
        self._opened = asyncio.get_running_loop().create_future()
        self.received: Callable[[BytesLike], None] = _ignore

    async def opened(self) -> None:
        """Wait for the handshake."""
        await self._opened

    def send(self, frame: bytes) -> None:
        """Send a binary message."""
        self._framing.send_binary(frame)
        self._write()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._framing.send_request(self._framing.connect())
        self._write()

    def data_received(self, data: bytes) -> None:
        """Hand complete messages to `received`."""
        self._framing.receive_data(data)
        for event in self._framing.events_received():
            if isinstance(event, Frame):
                self.received(event.data)
            elif isinstance(event, Response):
                self._opened.set_result(None)

    def close(self) -> None:
        """Drop the connection; the ceiling has no farewell."""
        self._transport.close()

    def _write(self) -> None:
        self._transport.writelines(self._framing.data_to_send())


class AwaitedSteps:
    """`await step(handle)`: one future per step, one frame per turn of the loop."""

    def __init__(self, socket: FrameSocket, decode: _Decode, sessions: int) -> None:
        self._socket = socket
        self._decode = decode
        self._action = wire.Action(MESSAGE)
        self._waiting: list[asyncio.Future[object] | None] = [None] * sessions
        self._sequence = [0] * sessions
        self._outgoing: list[wire.Step] = []
        self._loop = asyncio.get_running_loop()
        socket.received = self._receive

    def step(self, handle: int) -> asyncio.Future[object]:
        """Step one of the sessions."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiting[handle] = future
        self._sequence[handle] = sequence = self._sequence[handle] + 1
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(wire.Step(handle, sequence, self._action))
        return future

    def _flush(self) -> None:
        frame = _encode(self._outgoing)
        self._outgoing.clear()
        self._socket.send(frame)

    def _receive(self, frame: BytesLike) -> None:
        waiting = self._waiting
        for result in self._decode(frame):
            future = waiting[result.handle]
            assert future is not None
            future.set_result(result.observation)


class BatchSteps:
    """`await step()`: one frame out, one frame back (large ones come in pieces)."""

    def __init__(self, socket: FrameSocket, decode: _Decode, sessions: int) -> None:
        self._socket = socket
        self._decode = decode
        self._action = wire.Action(MESSAGE)
        self._sessions = sessions
        self._sequence = 0
        self._observations: list[object] = []
        self._loop = asyncio.get_running_loop()
        socket.received = self._receive

    def step(self) -> asyncio.Future[list[object]]:
        """Step all sessions."""
        self._sequence += 1
        self._observations = []
        self._done: asyncio.Future[list[object]] = self._loop.create_future()
        self._socket.send(
            _encode(
                [
                    wire.Step(handle, self._sequence, self._action)
                    for handle in range(self._sessions)
                ]
            )
        )
        return self._done

    def _receive(self, frame: BytesLike) -> None:
        self._observations += [result.observation for result in self._decode(frame)]
        if len(self._observations) == self._sessions:
            self._done.set_result(self._observations)


async def run(job: Job) -> Metrics:
    """Measure one case."""
    case = job.case
    count = case.sockets or 1
    share = case.sessions // count
    decode = _DECODERS[case.payload]
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(_open(job)) for _ in range(count)]
        if case.mode == "batch":
            batches = [BatchSteps(socket, decode, share) for socket in sockets]
            steps: list[MeasuredStep] = [batch.step for batch in batches]
            return await measure(job, steps, steps_per_sample=share)
        awaited = [AwaitedSteps(socket, decode, share) for socket in sockets]
        steps = [_bind(client, handle) for client in awaited for handle in range(share)]
        return await measure(job, steps)


def _bind(client: AwaitedSteps, handle: int) -> MeasuredStep:
    step = client.step

    def bound() -> asyncio.Future[object]:
        return step(handle)

    return bound


@contextlib.asynccontextmanager
async def _open(job: Job) -> AsyncIterator[FrameSocket]:
    """Connect to `ws://...`, or to `unix:PATH`."""
    loop = asyncio.get_running_loop()
    route = f"/{job.case.payload}/{job.case.mode}"
    if job.case.transport == "unix":
        path = job.url.removeprefix("unix:")
        _, socket = await loop.create_unix_connection(
            lambda: FrameSocket(f"ws://localhost{route}"), path
        )
    else:
        url = parse_uri(job.url)
        _, socket = await loop.create_connection(
            lambda: FrameSocket(job.url + route), url.host, url.port
        )
    try:
        await socket.opened()
        yield socket
    finally:
        socket.close()


def _ignore(frame: BytesLike) -> None:
    """Stand in for the receiver until there is one."""


if __name__ == "__main__":
    serve_jobs(run, loop_factory=loop_from_arguments())
