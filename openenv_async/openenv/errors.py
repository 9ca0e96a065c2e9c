"""What the drop-in client raises: OpenEnv's kinds of errors, with our facts in them.

Each is also the built-in exception that OpenEnv's client raises, and its text is the
same: callers look for `CAPACITY_REACHED` in it, or for a class named
`ConnectionClosed...`.
"""

from __future__ import annotations

from ..dialect import dialect_code
from ..errors import (
    AtCapacity,
    ConnectFailed,
    DeadlineExceeded,
    LocalProtocolError,
    OpenEnvError,
    ProviderError,
    SessionClosed,
    SessionLost,
    Unauthorized,
)

__all__ = [
    "CallTimeout",
    "ConnectError",
    "ConnectionClosedError",
    "ServerError",
    "translated",
]


class ServerError(OpenEnvError, RuntimeError):
    """The server answered with an error; `dialect_code` is OpenEnv's code of it."""

    @property
    def dialect_code(self) -> str:
        """OpenEnv's code, such as `CAPACITY_REACHED`."""
        return str(self.detail.get("dialect_code", "UNKNOWN"))


class ConnectionClosedError(SessionLost, ConnectionError):
    """The session is gone; `executed` says what became of the call.

    OpenEnv's client would go on in a new session, on an environment that was not
    reset. Here only `reset()` begins a new one.
    """


class ConnectError(ConnectFailed, ConnectionError):
    """No connection to the server could be made."""


class CallTimeout(DeadlineExceeded, TimeoutError):
    """The server did not answer within `message_timeout_s`."""


def translated(error: OpenEnvError, url: str) -> Exception:
    """The exception that OpenEnv's client would raise in this place.

    Args:
        error: What happened.
        url: Where the server is, for the text.
    """
    if isinstance(error, ServerError | ConnectionClosedError):
        return error
    if isinstance(error, DeadlineExceeded):
        return _copied(CallTimeout, error, error.message)
    if isinstance(error, ConnectFailed | Unauthorized):
        return _copied(ConnectError, error, f"Failed to connect to {url}: {error}")
    is_ours = isinstance(error, ProviderError | LocalProtocolError)
    if is_ours and error.code != "invalid_action":
        return error
    has_answer = "dialect_code" in error.detail or isinstance(error, AtCapacity)
    if isinstance(error, SessionClosed) and not has_answer:
        return _copied(ConnectionClosedError, error, error.message)
    code = str(error.detail.get("dialect_code", dialect_code(error.code)))
    text = f"Server error: {error.message} (code: {code})"
    return _copied(ServerError, error, text, dialect_code=code)


def _copied(
    kind: type[OpenEnvError], error: OpenEnvError, text: str, **detail: str
) -> OpenEnvError:
    return kind(
        text,
        code=error.code,
        executed=error.executed,
        retryable=error.retryable,
        fault=error.fault,
        detail={**error.detail, **detail},
    )
