"""Server of the bare ceiling: Starlette and uvicorn, driven by raw ASGI.

Run as `python -m benchmarks.ceiling_server --port 8000` or `--uds PATH`.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from benchmarks.ceiling_wire import (
    Action,
    AnyObservation,
    ImageObservation,
    Result,
    Step,
    TextObservation,
    image,
)

__all__ = ["app"]

_FLUSH_ITEMS = 64
"""Replies per frame of the awaited variant: both ends then work at the same time."""
_FLUSH_BYTES = 256 * 1024
"""Replies with more than this leave at once, or both ends copy megabytes in turn."""

_decoder: msgspec.msgpack.Decoder[list[Step]] = msgspec.msgpack.Decoder(list[Step])
_encoder = msgspec.msgpack.Encoder()


class Steps:
    """Raw ASGI endpoint: a frame of steps in, frames of results out."""

    def __init__(
        self,
        step: Callable[[Action], Awaitable[AnyObservation]],
        *,
        flush_items: float,
        observation_bytes: int = 0,
    ) -> None:
        self._step = step
        self._flush = flush_items
        if observation_bytes:
            self._flush = min(flush_items, _FLUSH_BYTES // observation_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket."""
        await receive()
        await send({"type": "websocket.accept"})
        step, flush = self._step, self._flush
        while (event := await receive())["type"] == "websocket.receive":
            results: list[Result[AnyObservation]] = []
            for request in _decoder.decode(event["bytes"]):
                observation = await step(request.action)
                results.append(Result(request.handle, request.seq, observation))
                if len(results) >= flush:
                    await _send_results(send, results)
                    results = []
            if results:
                await _send_results(send, results)


async def _send_results(send: Send, results: list[Result[AnyObservation]]) -> None:
    await send({"type": "websocket.send", "bytes": _encoder.encode(results)})


_IMAGE = image()


async def _echo(action: Action) -> TextObservation:
    return TextObservation(echoed_message=action.message, reward=1.0)


async def _show(action: Action) -> ImageObservation:
    return ImageObservation(pixels=_IMAGE, reward=1.0)


app = Starlette(
    routes=[
        WebSocketRoute("/text/awaited", Steps(_echo, flush_items=_FLUSH_ITEMS)),
        WebSocketRoute("/text/batch", Steps(_echo, flush_items=float("inf"))),
        *(
            WebSocketRoute(
                f"/image/{mode}",
                Steps(
                    _show,
                    flush_items=_FLUSH_ITEMS,
                    observation_bytes=_IMAGE.data.nbytes,
                ),
            )
            for mode in ("awaited", "batch")
        ),
    ]
)
"""One route per variant, so that none asks at run time which one it is."""


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds")
    arguments = parser.parse_args()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=arguments.port,
        uds=arguments.uds,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
