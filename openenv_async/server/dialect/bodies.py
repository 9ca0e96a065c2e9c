"""Bodies of OpenEnv's HTTP requests: bounded, decoded, refused as FastAPI does."""

from __future__ import annotations

from typing import Final, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...dialect import validation_error, validation_errors

__all__ = ["BadBody", "detailed", "located", "read_body", "read_json"]

BodyT = TypeVar("BodyT")

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadBody(Exception):
    """A request that cannot be taken, with the response that says so."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.response: Final = response


def detailed(status: int, detail: object) -> Response:
    """A response in FastAPI's form."""
    return JSONResponse({"detail": detail}, status_code=status)


async def read_body(request: Request, most: int) -> bytes:
    """Read a body up to a bound, in bytes.

    Raises:
        BadBody: It is larger.
    """
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not (declared.isdigit() and int(declared) > most):
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                break
        else:
            return bytes(body)
    text = f"expected a body of at most {most} bytes"
    response = detailed(413, text)
    # The rest is not read, so nothing can follow on this connection.
    response.headers["Connection"] = "close"
    raise BadBody(response)


def read_json(body: bytes, kind: type[BodyT]) -> BodyT:
    """Decode a body.

    Raises:
        BadBody: It does not fit; status 422.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except _UNREADABLE as error:
        problems = _problems(body, error)
    raise BadBody(detailed(422, located(problems, ["body"])))


def _problems(body: bytes, error: Exception) -> list[dict[str, object]]:
    try:
        # A wrong type is found before what comes after it turns out to be no JSON.
        found: object = msgspec.json.decode(body)
    except _UNREADABLE as unreadable:
        problem = validation_error("json_invalid", [], {}, "JSON decode error")
        return [{**problem, "ctx": {"error": str(unreadable)}}]
    return validation_errors(str(error), found)


def located(
    problems: list[dict[str, object]], where: list[str | int]
) -> list[dict[str, object]]:
    """The same problems, found below a part of the request."""
    return [
        {**problem, "loc": [*where, *cast(list[str | int], problem["loc"])]}
        for problem in problems
    ]
