"""What a server tells about its environments, before any session."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ..environment import EnvironmentMetadata
from ..errors import (
    ConnectFailed,
    RemoteProtocolError,
    Unauthorized,
    UnknownEnvironment,
)
from .endpoint import Endpoint
from .http import UNREACHABLE, fetch

__all__ = ["EnvironmentDescription", "describe", "server_health"]

_TIMEOUT: Final = 10.0


class EnvironmentDescription(msgspec.Struct, frozen=True, kw_only=True):
    """One environment of a server, as it describes itself."""

    name: str
    """What clients open it by."""
    metadata: EnvironmentMetadata
    action: dict[str, Any]
    """JSON Schema of what `step` takes."""
    observation: dict[str, Any]
    """JSON Schema of what `reset` and `step` return."""
    state: dict[str, Any]
    """JSON Schema of what `state` returns."""


async def describe(
    url: str,
    *,
    environment: str | None = None,
    token: str | None = None,
    timeout: float = _TIMEOUT,
) -> EnvironmentDescription:
    """Ask a server for an environment's metadata and schemas; opens no session.

    Args:
        url: As for `EnvClient`.
        environment: Which one; None takes the server's default.
        token: Bearer token.
        timeout: Seconds for all of it.

    Raises:
        ConnectFailed: Nobody answers there, or not in time.
        Unauthorized: The token is missing or wrong.
        UnknownEnvironment: The server does not host it.
        RemoteProtocolError: The answer is none of ours.
    """
    endpoint = Endpoint.parse(url)
    every = _Described(endpoint, token, timeout)
    if environment is None:
        listed = await every.get("/metadata")
        environment = str(listed.get("default", ""))
    query = f"?environment={quote(environment, safe='')}"
    metadata = await every.get(f"/metadata{query}")
    schema = await every.get(f"/schema{query}")
    try:
        return msgspec.convert(
            {"name": environment, "metadata": metadata, **schema},
            EnvironmentDescription,
        )
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(
            f"expected the description of an environment from {url!r}: {error}"
        ) from error


async def server_health(url: str, *, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Ask a server for the numbers of `/health`; needs no token.

    Raises:
        ConnectFailed: Nobody answers there, or not in time.
        RemoteProtocolError: The answer is none of ours.
    """
    return await _Described(Endpoint.parse(url), None, timeout).get("/health")


class _Described:
    """The HTTP side of one server."""

    def __init__(self, endpoint: Endpoint, token: str | None, timeout: float) -> None:
        self._endpoint = endpoint
        self._token = token
        self._timeout = timeout

    async def get(self, path: str) -> dict[str, Any]:
        """Get a JSON object."""
        url = self._endpoint.url
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await fetch(
                    self._endpoint, "GET", path, token=self._token
                )
        except TimeoutError:
            raise ConnectFailed(
                f"expected an answer from {url!r} within {self._timeout} s"
            ) from None
        except UNREACHABLE as error:
            text = str(error) or type(error).__name__
            raise ConnectFailed(f"expected a server at {url!r}: {text}") from error
        try:
            answer: object = json.loads(body)
        except ValueError:
            answer = None
        if status == 401:
            raise Unauthorized(_message(answer, f"{url!r} asks for a token"))
        if status == 404 and "?environment=" in path:
            raise UnknownEnvironment(_message(answer, f"{url!r} has no {path}"))
        if not isinstance(answer, dict) or status not in (200, 503):
            raise RemoteProtocolError(
                f"expected an answer to {path!r} from {url!r}, got HTTP {status}: "
                f"{body[:200]!r}"
            )
        return answer  # pyright: ignore[reportUnknownVariableType]  # of JSON


def _message(answer: object, otherwise: str) -> str:
    if isinstance(answer, dict):
        return str(answer.get("message", otherwise))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]  # of JSON
    return otherwise
