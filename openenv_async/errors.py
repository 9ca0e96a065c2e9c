"""Every exception that this package raises, sorted by who must act.

```
OpenEnvError
├── LocalProtocolError        you misused the interface; nothing was sent
│   └── SessionBusy           two calls in flight on one session
├── RemoteProtocolError       the peer broke the rules of docs/protocol.md
│   └── VersionMismatch       the peer speaks no version that we speak
├── RequestRejected           the server refused; the environment was not touched
│   ├── InvalidAction         the action does not fit the environment's type
│   ├── ResetRequired         no episode is running on the session
│   ├── EpisodeDone           the episode is over
│   ├── UnknownEnvironment    the server does not host that name
│   ├── AtCapacity            the server has no room for another session
│   ├── Unauthorized          the token is missing or wrong
│   └── TakenOver             somebody else holds the session for now
├── EnvironmentFailed         the environment's own code raised
├── StepInterrupted           a call was cancelled; says what became of it
├── DeadlineExceeded          the call ran out of time
├── SessionClosed             the session has ended
│   └── SessionLost           ... without our asking: the episode is gone
├── EpisodeLost               the episode is gone; the session can be reset
├── ReplyLost                 executed, but the reply is no longer there
├── ConnectFailed             no connection to the server could be made
├── ProviderError             something that should serve could not be started
│   ├── ServerDied            ... or ended by itself; says how
│   └── BuildFailed           the image that should serve could not be built
└── RunError                  a folder of episodes cannot be written or read
    ├── RunLocked             somebody else writes to it
    ├── RunMismatch           it was begun with other settings
    ├── RunDamaged            what was acknowledged can't be read any more
    └── StorageFull           no room is left for the next episode
```

Three attributes say what a caller can do about an error, whatever its class:
`executed` (did the environment run the request: `"yes"`, `"no"` or `"unknown"`),
`retryable` (may the same call succeed later), and `fault` (`"caller"`,
`"environment"` or `"infrastructure"`). An infrastructure fault is never a reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

__all__ = [
    "AtCapacity",
    "BuildFailed",
    "ConnectFailed",
    "DeadlineExceeded",
    "EnvironmentFailed",
    "EpisodeDone",
    "EpisodeLost",
    "Executed",
    "Fault",
    "InvalidAction",
    "LocalProtocolError",
    "OpenEnvError",
    "ProviderError",
    "RemoteProtocolError",
    "ReplyLost",
    "RequestRejected",
    "ResetRequired",
    "RunDamaged",
    "RunError",
    "RunLocked",
    "RunMismatch",
    "ServerDied",
    "SessionBusy",
    "SessionClosed",
    "SessionLost",
    "StepInterrupted",
    "StorageFull",
    "TakenOver",
    "Unauthorized",
    "UnknownEnvironment",
    "VersionMismatch",
    "error_from_code",
]

Executed = Literal["yes", "no", "unknown"]
"""Whether the environment ran the request."""

Fault = Literal["caller", "environment", "infrastructure"]
"""Who has to act."""


class OpenEnvError(Exception):
    """Root of everything that this package raises.

    Args:
        message: What happened: expected before found, lower case.
        code: The code that travels on the wire (docs/protocol.md, section 9).
        executed: Whether the environment ran the request.
        retryable: Whether the same call may succeed later.
        fault: Who has to act.
        detail: Numbers and names that belong to the code, as sent by the peer.
    """

    default_code: ClassVar[str] = "error"
    default_executed: ClassVar[Executed] = "no"
    default_retryable: ClassVar[bool] = False
    default_fault: ClassVar[Fault] = "infrastructure"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        executed: Executed | None = None,
        retryable: bool | None = None,
        fault: Fault | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: str = self.default_code if code is None else code
        self.executed: Executed = (
            self.default_executed if executed is None else executed
        )
        self.retryable: bool = (
            self.default_retryable if retryable is None else retryable
        )
        self.fault: Fault = self.default_fault if fault is None else fault
        self.detail: dict[str, object] = dict(detail or {})

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class without its keyword-only arguments.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(
    kind: type[OpenEnvError], message: str, attributes: dict[str, object]
) -> OpenEnvError:
    error = kind(message)
    error.__dict__.update(attributes)
    return error


class LocalProtocolError(OpenEnvError):
    """The interface was misused; nothing was sent."""

    default_code = "misuse"
    default_fault: ClassVar[Fault] = "caller"


class SessionBusy(LocalProtocolError):
    """A call was made while another one is in flight on the same session."""

    default_code = "busy"


class RemoteProtocolError(OpenEnvError):
    """The peer broke the rules of the protocol."""

    default_code = "protocol_error"
    default_executed: ClassVar[Executed] = "unknown"


class VersionMismatch(RemoteProtocolError):
    """The peer speaks no protocol version that we speak."""

    default_code = "version_mismatch"
    default_executed: ClassVar[Executed] = "no"
    default_fault: ClassVar[Fault] = "caller"


class RequestRejected(OpenEnvError):
    """The server refused the request before the environment saw it."""

    default_code = "rejected"
    default_fault: ClassVar[Fault] = "caller"


class InvalidAction(RequestRejected):
    """The action, or the reset options, do not fit the environment's type."""

    default_code = "invalid_action"


class ResetRequired(RequestRejected):
    """No episode is running: `reset()` comes first."""

    default_code = "reset_required"


class EpisodeDone(RequestRejected):
    """The episode is over: `reset()` starts the next one."""

    default_code = "episode_done"


class UnknownEnvironment(RequestRejected):
    """The server hosts no environment of that name."""

    default_code = "unknown_environment"


class AtCapacity(RequestRejected):
    """The server has no room for another session.

    `detail` holds `sessions` and `max_sessions`, both counts.
    """

    default_code = "at_capacity"
    default_retryable = True
    default_fault: ClassVar[Fault] = "infrastructure"


class Unauthorized(RequestRejected):
    """The bearer token is missing or wrong."""

    default_code = "unauthorized"


class TakenOver(RequestRejected):
    """Somebody else holds the session for now; it will be handed back."""

    default_code = "taken_over"
    default_retryable = True


class EnvironmentFailed(OpenEnvError):
    """The environment's own code raised.

    `exception` is the name of its class; `traceback` is the text as the server
    formatted it, empty where the server keeps tracebacks to itself.
    """

    default_code = "environment_failed"
    default_executed: ClassVar[Executed] = "unknown"
    default_fault: ClassVar[Fault] = "environment"

    @property
    def exception(self) -> str:
        """Name of the exception's class."""
        return str(self.detail.get("exception", ""))

    @property
    def traceback(self) -> str:
        """The traceback as the server formatted it; may be empty."""
        return str(self.detail.get("traceback", ""))

    def __str__(self) -> str:
        text = self.traceback.rstrip()
        return f"{self.message}\n\n{text}" if text else self.message


class StepInterrupted(OpenEnvError):
    """An earlier call was cancelled by its caller; this says what became of it.

    Raised once, by the call after the cancelled one, when the environment ran (or
    may have run) the cancelled request. `result` is the reply that nobody awaited,
    where there was one: calling again then goes on from it.
    """

    default_code = "cancelled"
    default_executed: ClassVar[Executed] = "unknown"
    default_fault: ClassVar[Fault] = "caller"
    result: object = None


class DeadlineExceeded(OpenEnvError):
    """The call ran out of time; the episode cannot go on without a reset."""

    default_code = "deadline_exceeded"
    default_executed: ClassVar[Executed] = "unknown"
    default_fault: ClassVar[Fault] = "environment"


class SessionClosed(OpenEnvError):
    """The session has ended; no further call is possible on it."""

    default_code = "session_closed"
    default_fault: ClassVar[Fault] = "caller"


class SessionLost(SessionClosed):
    """The session ended without our asking, and its episode with it."""

    default_code = "session_lost"
    default_executed: ClassVar[Executed] = "unknown"
    default_fault: ClassVar[Fault] = "infrastructure"


class EpisodeLost(OpenEnvError):
    """The process of the environment died, and the episode with it.

    The session is still there: `reset()` starts a new episode in another process.
    """

    default_code = "worker_died"
    default_executed: ClassVar[Executed] = "unknown"


class ReplyLost(OpenEnvError):
    """The request was executed, but its reply is no longer kept.

    The server bounds the memory that it spends on kept replies. The episode cannot
    go on without a reset, because its last observation is missing.
    """

    default_code = "reply_lost"
    default_executed: ClassVar[Executed] = "yes"


class ConnectFailed(OpenEnvError):
    """No connection to the server could be made."""

    default_code = "connect_failed"
    default_retryable = True


class ProviderError(OpenEnvError):
    """Something that should serve an environment could not be started or died.

    `log` holds the last lines of its output.
    """

    default_code = "provider_failed"

    @property
    def log(self) -> str:
        """The last lines of its output."""
        return str(self.detail.get("log", ""))

    def __str__(self) -> str:
        text = self.log.rstrip()
        return f"{self.message}\n\n{text}" if text else self.message


class ServerDied(ProviderError):
    """A server that was started ended without being asked to.

    The sessions on it raise `SessionLost`, whose `detail` holds the same facts.
    """

    default_code = "server_died"
    default_executed: ClassVar[Executed] = "unknown"

    @property
    def exit_code(self) -> int | None:
        """Exit status of its first process, minus the signal's number; or None."""
        code = self.detail.get("exit_code")
        return code if isinstance(code, int) else None

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel ended it because its memory was used up."""
        return self.detail.get("oom_killed") is True


class BuildFailed(ProviderError):
    """An image could not be built.

    `code` says more where there is more to say: `no_base_image` or `disk_full`. `log`
    holds the last lines of what failed.
    """

    default_code = "build_failed"


class RunError(OpenEnvError):
    """A folder of episodes cannot be written or read."""

    default_code = "run_failed"


class RunLocked(RunError):
    """Somebody else writes to the folder; `detail` holds its `pid`, where known."""

    default_code = "run_locked"
    default_retryable = True
    default_fault: ClassVar[Fault] = "caller"


class RunMismatch(RunError):
    """The run was begun with other settings: its episodes would not fit together."""

    default_code = "run_mismatch"
    default_fault: ClassVar[Fault] = "caller"


class RunDamaged(RunError):
    """What was acknowledged can't be read any more: somebody changed the files."""

    default_code = "run_damaged"


class StorageFull(RunError):
    """No room is left for the next episode; all acknowledged ones are intact.

    `detail` holds `free_bytes` of the file system.
    """

    default_code = "storage_full"
    default_retryable = True


_OWN_CODE: tuple[type[OpenEnvError], ...] = (
    SessionBusy,
    RemoteProtocolError,
    VersionMismatch,
    InvalidAction,
    ResetRequired,
    EpisodeDone,
    UnknownEnvironment,
    AtCapacity,
    Unauthorized,
    TakenOver,
    EnvironmentFailed,
    StepInterrupted,
    DeadlineExceeded,
    SessionLost,
    EpisodeLost,
    ReplyLost,
    ConnectFailed,
)

_BY_CODE: dict[str, type[OpenEnvError]] = {
    **{kind.default_code: kind for kind in _OWN_CODE},
    # Codes that share a class with another one (docs/protocol.md, section 9).
    "episode_broken": ResetRequired,
    "session_closed": SessionClosed,
    "session_poisoned": SessionLost,
    "unknown_session": SessionLost,
    "lease_expired": SessionLost,
    "shutting_down": SessionLost,
    "bad_sequence": RemoteProtocolError,
    "invalid_frame": RemoteProtocolError,
}


def error_from_code(
    code: str,
    message: str,
    *,
    executed: Executed,
    retryable: bool,
    fault: Fault,
    detail: Mapping[str, object] | None,
) -> OpenEnvError:
    """Build the exception for an error that arrived on the wire.

    An unknown code becomes a `RequestRejected`, an `EnvironmentFailed` or a plain
    `OpenEnvError`, depending on whose fault the peer says it is.
    """
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = {
            "caller": RequestRejected,
            "environment": EnvironmentFailed,
            "infrastructure": OpenEnvError,
        }[fault]
    return kind(
        message,
        code=code,
        executed=executed,
        retryable=retryable,
        fault=fault,
        detail=detail,
    )
