"""A chat model that does as it is told, behind OpenAI's protocol, over real HTTP."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from openenv_async.server import bind_tcp
from tests.serving import eventually

__all__ = ["ChatServer", "chat_serving"]


@dataclasses.dataclass
class ChatServer:
    """A server that runs; `answer` says what it says."""

    url: str = ""
    answer: Callable[[dict[str, Any]], str] = lambda body: "hello"
    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    broken: int = 0
    """How many of the next requests it fails to answer."""
    status: int = 500

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers["authorization"])
        if self.broken:
            self.broken -= 1
            error = {"error": {"message": "out of order", "type": "server_error"}}
            # Says at once when to come again, so that no test waits.
            return JSONResponse(error, self.status, headers={"retry-after-ms": "1"})
        text = self.answer(body)
        words = text.split()
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": None,
        }
        completion: dict[str, Any] = {
            "id": f"chatcmpl-{len(self.requests)}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": len(body["messages"]),
                "completion_tokens": len(words),
                "total_tokens": len(body["messages"]) + len(words),
            },
        }
        if body.get("logprobs"):
            choice["logprobs"] = {
                "content": [
                    {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []}
                    for word in words
                ]
            }
        if body.get("return_token_ids"):
            choice["token_ids"] = list(range(len(words)))
            completion["prompt_token_ids"] = [7]
        return JSONResponse(completion)


@contextlib.asynccontextmanager
async def chat_serving() -> AsyncIterator[ChatServer]:
    """Serve on a free port of the loopback."""
    chat = ChatServer()
    app = Starlette(
        routes=[Route("/v1/chat/completions", chat.complete, methods=["POST"])]
    )
    bound = bind_tcp("127.0.0.1", 0)
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    await anyio.to_thread.run_sync(config.load)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    chat.url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    try:
        yield chat
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        state = server.server_state
        await eventually(lambda: not state.connections and not state.tasks)
