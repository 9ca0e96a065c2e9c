"""`create_viewer_app`: one recorded run behind the debug pane's files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Collection
from typing import Final

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..arrays import encodable
from ..errors import OpenEnvError, RunError
from ..rollout.episodes import Episode, outcome_label
from ..rollout.runs import Run, open_run
from ..server.security import AccessPolicy
from ..ui import Pane
from .index import EpisodeIndex
from .records import records_of

__all__ = ["create_viewer_app"]

_PATIENCE: Final = 1.5
"""Seconds that a page waits for a list that is still being read."""
_PAGE: Final = 10_000
"""Episodes in a list, if not told otherwise."""
_MOST: Final = 100_000


def create_viewer_app(
    run: str | os.PathLike[str], *, allowed_hosts: Collection[str] = ()
) -> Starlette:
    """Build the application that shows a run; nothing is locked and nothing changed.

    The run may still be written to: reading its list again shows what came.

    Args:
        run: The run's folder.
        allowed_hosts: Names in `Host` besides addresses and `localhost`.

    Raises:
        RunError: There is no run, or it was written by a newer version.
        RunDamaged: Its manifest can't be read.
    """
    viewer = _Viewer(open_run(run))
    application = Starlette(
        routes=[
            *Pane(mode="recorded").routes(),
            Route("/run", viewer.run),
            Route("/run/episodes/{index}", viewer.episode),
            Route("/metadata", viewer.metadata),
            Route("/schema", viewer.schema),
        ],
        lifespan=viewer.lifespan,
        exception_handlers={HTTPException: _http_error, OpenEnvError: _error},
    )
    application.add_middleware(_Gate, policy=AccessPolicy(hosts=allowed_hosts))
    return application


class _Gate:
    """Refuses other sites' pages: what a run holds is nobody else's."""

    def __init__(self, app: ASGIApp, *, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = None
        if scope["type"] == "http":
            problem = self._policy.refusal(scope["headers"])
        if problem is None:
            await self._app(scope, receive, send)
        else:
            response = _json({"code": "forbidden", "message": problem}, status=403)
            await response(scope, receive, send)


class _Viewer:
    """The routes of one run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._index = EpisodeIndex(run.folder)

    @contextlib.asynccontextmanager
    async def lifespan(self, _application: Starlette) -> AsyncGenerator[None, None]:
        """Read the list while the application runs."""
        self._index.start()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(self._index.stop)

    async def run(self, request: Request) -> Response:
        """The manifest, numbers, and a page of the list: `?offset=0&limit=10000`."""
        offset = _number(request, "offset", 0)
        limit = min(_number(request, "limit", _PAGE), _MOST)
        if self._index.complete and offset == 0:
            self._index = EpisodeIndex(self._run.folder)
            self._index.start()
        return await anyio.to_thread.run_sync(self._list, self._index, offset, limit)

    def _list(self, index: EpisodeIndex, offset: int, limit: int) -> Response:
        # All of it, if that is soon: then there is a summary of all.
        index.wait(_MOST, _PATIENCE)
        index.wait(1, 10 * _PATIENCE)
        complete, total = index.complete, len(index.rows)
        problem = index.problem
        reading = "" if complete else f"{total} episodes were read so far"
        return _json(
            {
                "manifest": self._run.manifest,
                "summary": index.summary(),
                "episodes": index.rows[offset : offset + limit],
                "total": total,
                "complete": complete,
                "problem": str(problem) if problem else reading or None,
                "code": problem.code if problem else None,
            }
        )

    async def episode(self, request: Request) -> Response:
        """All records of an episode, by its place in the list."""
        text: str = request.path_params["index"]
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise RunError(
                f"expected the number of an episode, got {text!r}", fault="caller"
            )
        return await anyio.to_thread.run_sync(self._read, self._index, int(text))

    def _read(self, index: EpisodeIndex, number: int) -> Response:
        index.wait(number + 1, 20 * _PATIENCE)
        if number >= len(index.rows):
            if index.problem is not None:
                raise index.problem
            raise RunError(
                f"expected an episode below {len(index.rows)}, got {number}",
                fault="caller",
            )
        episode = self._run.episode(index.rows[number].id)
        return _json(self._describe(number, episode))

    def _describe(
        self, number: int, episode: Episode[object, object]
    ) -> dict[str, object]:
        environment = self._run.manifest.environment
        return {
            "index": number,
            "id": episode.id,
            "environment": episode.environment or environment.name,
            "task": episode.task.id,
            "seed": episode.seed,
            "outcome": outcome_label(episode.outcome),
            "return": episode.return_,
            "attempt": episode.attempt,
            "session": episode.session,
            "extras": episode.extras,
            "records": list(records_of(episode)),
            "metadata": environment.metadata or None,
            "schemas": environment.json_schema or None,
            "problem": None,
        }

    async def metadata(self, request: Request) -> Response:
        """As a server gives it at `/metadata`, from the manifest."""
        return self._about(request, self._run.manifest.environment.metadata)

    async def schema(self, request: Request) -> Response:
        """As a server gives it at `/schema`, from the manifest."""
        return self._about(request, self._run.manifest.environment.json_schema)

    def _about(self, request: Request, value: object) -> Response:
        name = self._run.manifest.environment.name
        asked = request.query_params.get("environment")
        if asked is None:
            return _json({"environments": {name: value}, "default": name})
        if asked != name:
            message = f"expected {name!r}, got {asked!r}"
            return _json({"code": "unknown_environment", "message": message}, 404)
        return _json(value)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise RunError(f"expected {name} to be a number, got {text!r}", fault="caller")
    return int(text)


def _json(value: object, status: int = 200) -> Response:
    # As the protocol's JSON encoding: bytes as base64, arrays as maps, no NaN.
    return Response(
        msgspec.json.encode(value, enc_hook=encodable),
        status,
        {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        "application/json",
    )


async def _error(_request: Request, error: Exception) -> Response:
    """Say what is wrong with a run, or with what was asked of it."""
    assert isinstance(error, OpenEnvError)
    status = 404 if error.fault == "caller" else 500
    return _json({"code": error.code, "message": str(error)}, status)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"code": "not_found", "message": error.detail}
    response = _json(body, error.status_code)
    response.headers.update(error.headers or {})
    return response
