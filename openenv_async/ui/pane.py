"""The debug pane as routes: static files, behind headers that trust no content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..version import VERSION
from .files import StaticFile, read_files

__all__ = ["Pane", "is_pane_path", "pane_hint_routes"]

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_INDEX: Final = "index.html"
_OFF: Final = (
    "expected the debug pane to be on: start the server with `openenv-async serve "
    "--web`, ENABLE_WEB_INTERFACE=true or create_app(..., web=True)"
)


def is_pane_path(path: str) -> bool:
    """Whether a path is the pane's, which holds no secret and so needs no token."""
    return path in ("/", "/web") or path.startswith("/web/")


def pane_hint_routes() -> list[BaseRoute]:
    """Routes of a server without the pane: they say how to turn it on."""
    return [Route("/web", _off), Route("/web/{path:path}", _off)]


async def _off(_request: Request) -> Response:
    raise HTTPException(404, _OFF)


class Pane:
    """The pane's files, read once, when the first of them is asked for.

    Args:
        mode: What it shows: a server with `live` sessions, or one `recorded` run.
        needs_token: Whether the other routes of this server need a token.
        files: What is served instead of the package's own files.
        more: What else `pane.json` says.
    """

    def __init__(
        self,
        *,
        mode: str = "live",
        needs_token: bool = False,
        files: Mapping[str, StaticFile] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        self._files = files
        self._about = {
            "mode": mode,
            "version": VERSION,
            "token": needs_token,
            **(more or {}),
        }

    def routes(self) -> list[BaseRoute]:
        """`/web/` and what leads to it, relative to wherever they are mounted."""
        return [
            Route("/", self._enter),
            Route("/web", self._enter),
            Route("/web/pane.json", self._describe),
            Route("/web/{path:path}", self._serve),
        ]

    async def _enter(self, _request: Request) -> Response:
        # Relative, because only the browser knows under which prefix we are reached.
        return RedirectResponse("web/", headers=_HEADERS)

    async def _describe(self, _request: Request) -> Response:
        return JSONResponse(
            self._about, headers={**_HEADERS, "Cache-Control": "no-store"}
        )

    async def _serve(self, request: Request) -> Response:
        path: str = request.path_params["path"] or _INDEX
        if self._files is None:
            # Not before, because applications are made on event loops, too.
            self._files = await anyio.to_thread.run_sync(read_files)
        file = self._files.get(path)
        if file is None:
            raise HTTPException(
                404, f"expected a file of the debug pane, got {path!r}", dict(_HEADERS)
            )
        headers = {**_HEADERS, "Cache-Control": "no-cache", "ETag": file.etag}
        if file.etag in _etags(request):
            return Response(status_code=304, headers=headers)
        headers["Content-Length"] = str(len(file.body))
        body = b"" if request.method == "HEAD" else file.body
        return Response(body, headers=headers, media_type=file.media_type)


def _etags(request: Request) -> list[str]:
    """The tags that the browser has, also where a proxy made them weak ones."""
    listed = request.headers.get("if-none-match", "").split(",")
    return [tag.strip().removeprefix("W/") for tag in listed]
