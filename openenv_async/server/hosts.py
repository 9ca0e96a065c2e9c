"""A host: one session's environment, with its payloads decoded and encoded.

The host knows how to begin a request and how to end it; a backend decides where that
happens. It answers to a `Sink`, which is a session of the protocol, or the pipe to the
parent in a worker process.
"""

from __future__ import annotations

import contextvars
import logging
import traceback
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final, Protocol, cast

import anyio
import msgspec

from .. import messages as m
from ..environment import AnyEnvironment, EnvironmentSpec, Observation
from ..errors import Executed, OpenEnvError
from ..protocol import Outcome, Request, check_observed

__all__ = [
    "METHODS",
    "UNDECODABLE",
    "Host",
    "Sink",
    "describe",
    "invalid",
    "shut_down",
    "waited",
]

METHODS: Final[dict[type, str]] = {
    m.Reset: "reset",
    m.Step: "step",
    m.GetState: "state",
    m.Close: "close",
}
"""The environment's method, by request."""

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that do not fit its type."""
_OPTIONS: Final = 1024 * 1024
"""Largest reset options: untyped values take many times their encoded size."""
_MEASURED: Final = 8192
"""Bytes of an observation from which its encoding is worth a clock."""
_SHUTDOWN_PATIENCE: Final = 10.0
"""Seconds that an environment has to give back what its sessions shared."""
_TRACEBACK_CHARACTERS: Final = 16_384

_logger = logging.getLogger("openenv_async.server")


class Sink(Protocol):
    """Where a host's answers go."""

    since_ns: int
    """When the request in flight arrived, on the clock of `perf_counter_ns`."""
    queue_ns: int

    def reply(
        self,
        payload: m.Payload,
        *,
        done: bool = False,
        reward: float | None = None,
        environment_ns: int = 0,
        encode_ns: int = 0,
    ) -> None:
        """End the request in flight with a payload."""

    def step_reply(self, observation: Any, environment_ns: int) -> None:
        """End a step with a small observation, as `reply` does, but faster."""

    def fail(
        self,
        code: str,
        message: str,
        *,
        outcome: Outcome = Outcome.UNCHANGED,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """End the request in flight with an error."""

    def progress(self, fraction: float | None, message: str) -> None:
        """Report on the request in flight."""


class Host:
    """Executes one session's requests against its environment.

    Args:
        spec: Which environment; it is built at the first request.
        sink: Where answers go.
        codec: How this session's payloads are encoded.
        label: Names the session in logs.
        tracebacks: Whether callers see the traceback of what an environment raises.
        report: Takes what the environment reports on a long request.
        separate: Whether the sink needs encoded payloads.
    """

    __slots__ = (
        "codec",
        "context",
        "decode_action",
        "environment",
        "inline",
        "label",
        "plain_type",
        "report",
        "running",
        "separate",
        "sink",
        "spec",
        "started_ns",
        "step",
        "stopping",
        "stuck",
        "task",
        "tracebacks",
    )

    def __init__(
        self,
        spec: EnvironmentSpec,
        sink: Sink,
        *,
        codec: m.Codec,
        decode_action: Callable[[Any], Any],
        label: str,
        tracebacks: bool = True,
        report: Callable[[Host, float | None, str], None] | None = None,
        separate: bool = False,
    ) -> None:
        self.spec = spec
        self.sink = sink
        self.codec = codec
        self.decode_action = decode_action
        self.label = label
        self.tracebacks = tracebacks
        self.step: Callable[[Any], Any] | None = None
        """The environment's `step`, once it is built, if that is async."""
        self.inline = False
        """Whether every request runs on the event loop."""
        self.report = report
        self.separate = separate
        self.plain_type: type | None = None
        """The observations' type, once it is known to be one, with small values."""
        self.environment: AnyEnvironment | None = None
        # A context of its own, so that what one session's environment sets in a
        # context variable does not show in another's.
        self.context = contextvars.copy_context()
        self.running: Request | None = None
        self.started_ns = 0
        """When a thread began the running request; 0 before."""
        self.stopping = ""
        """Code to end the running request with: a cancellation or a deadline."""
        self.stuck = False
        """Whether a call hangs in the environment although it was given up."""
        self.task: Any = None
        """What a backend cancels to stop the running request."""

    def begin(self, request: Request) -> Any:
        """Call the environment; returns its result, or the awaitable of it.

        Raises:
            OpenEnvError: The request does not fit; the environment was not touched.
            Exception: What the environment raises.
        """
        environment = self.environment
        if type(request) is m.Step and environment is not None:
            try:
                action = self.decode_action(request.action)
            except UNDECODABLE as error:
                raise self.undecodable(error) from error
            return environment.step(action)
        if type(request) is m.Close:
            return None if environment is None else environment.close()
        if environment is None:
            environment = self._build()
            if type(request) is m.Step:
                return self.begin(request)
        if type(request) is m.Reset:
            return environment.reset(
                seed=request.seed,
                episode_id=request.episode_id,
                options=self._options(request.options),
            )
        return environment.state()

    @property
    def _is_built(self) -> bool:
        environment = self.environment
        return environment is not None and not environment._building  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 (the base class keeps it for us)

    def undecodable(self, error: Exception) -> OpenEnvError:
        """The error for an action that does not fit its type."""
        return invalid(f"expected an action of {self.spec.name!r}: {error}")

    def _build(self) -> AnyEnvironment:
        environment = self.spec.factory()
        if self.report is not None:
            report = self.report
            environment._report = lambda fraction, message: report(  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 (the base class keeps it for us)
                self, None if fraction is None else float(fraction), _clean(message)
            )
        self.environment = environment
        if "step" in self.spec.async_methods:
            self.step = environment.step
        return environment

    def _options(self, payload: m.Payload) -> dict[str, Any] | None:
        if payload is None:
            return None
        size = memoryview(payload).nbytes  # type: ignore[arg-type]  # Raw is a buffer
        if size > _OPTIONS:
            raise invalid(f"expected options of at most {_OPTIONS} bytes, got {size}")
        try:
            options = self.codec.generic(payload)  # type: ignore[arg-type]  # Raw is a buffer
        except UNDECODABLE as error:
            raise invalid(f"expected a map of options: {error}") from error
        if options is None:
            return None
        if not isinstance(options, dict):
            raise invalid(f"expected a map of options, got {type(options).__name__}")
        for key in cast(dict[object, object], options):
            if not isinstance(key, str):
                raise invalid(f"expected options with text as keys, got {key!r}")
        return cast(dict[str, Any], options)

    def finish(self, request: Request, value: object, started_ns: int) -> int:
        """Answer with a result; returns the time at which the environment had it."""
        ended_ns = perf_counter_ns()
        kind = type(request)
        environment_ns = ended_ns - started_ns
        try:
            if kind is m.GetState:
                self._answer(value, environment_ns)
            elif kind is m.Close:
                self.environment = self.step = None
                self.sink.reply(None, environment_ns=environment_ns)
            elif not isinstance(value, Observation):
                expected = self.spec.observation_type
                name = getattr(expected, "__name__", str(expected))
                self._fail_value(
                    kind, f"got {type(value).__name__!r} instead of {name!r}"
                )
            else:
                size = self._answer(value, environment_ns)
                is_plain = size <= _MEASURED and not self.separate
                self.plain_type = type(value) if is_plain else None
        except Exception as error:  # noqa: BLE001 (its values may raise anything)
            self.unencodable(request, error)
        return ended_ns

    def unencodable(self, request: Request, error: Exception) -> None:
        """Answer for a result that cannot be encoded."""
        problem = f"got one that cannot be encoded: {_text_of(error)}"
        self._fail_value(type(request), problem)

    def _answer(self, value: object, environment_ns: int) -> int:
        """Answer with a payload that is encoded, and measured, by itself."""
        done, reward = False, None
        if isinstance(value, Observation):
            done, reward = value.done, value.reward
            check_observed(reward, done)
        before = perf_counter_ns()
        payload = self.codec.encode(value)
        encode_ns = perf_counter_ns() - before
        self.sink.reply(
            m.raw(payload),
            done=done,
            reward=reward,
            environment_ns=environment_ns,
            encode_ns=encode_ns,
        )
        return len(payload)

    def _fail_value(self, kind: type, problem: str) -> None:
        what = "a state" if kind is m.GetState else "an observation"
        self.sink.fail(
            "environment_failed",
            f"expected {what} from {self.spec.name!r}, {problem}",
            outcome=Outcome.UNCHANGED if kind is m.GetState else Outcome.BROKEN,
            executed="yes",
        )

    def failed(self, request: Request, error: BaseException) -> None:
        """Answer with what the environment, or the decoding before it, raised."""
        if isinstance(error, OpenEnvError) and error.code == "invalid_action":
            detail: dict[str, object] = self._sendable(error.detail)
            message = _clean(str(error.message))
            self.sink.fail(error.code, message, executed="no", detail=detail)
            return
        kind = type(request)
        name = type(error).__qualname__
        detail = {"exception": name}
        if kind is not m.Close and not self._is_built:
            detail["constructing"] = True
        if self.tracebacks:
            detail["traceback"] = _clean(describe(error))
        self.sink.fail(
            "environment_failed",
            f"{self.spec.name!r} raised {name} in {METHODS[kind]}: {_text_of(error)}",
            outcome=Outcome.UNCHANGED if kind is m.GetState else Outcome.BROKEN,
            executed="unknown",
            detail=detail,
        )
        if kind is m.Close:
            self.environment = self.step = None

    def _sendable(self, detail: dict[str, object]) -> dict[str, object]:
        """What an environment put into an error, if it can travel."""
        try:
            self.codec.encode(detail)
        except Exception:  # noqa: BLE001 (its values may raise anything)
            return {"detail": _clean(ascii(sorted(map(str, detail))))}
        return detail

    def stopped(
        self, request: Request, code: str, *, executed: Executed, outcome: Outcome
    ) -> None:
        """Answer a request that was cancelled or ran out of time."""
        self.stopping = ""
        # First, because the answer may bring the next request, as the close does that
        # follows an expired lease.
        self.running = None
        text = {
            "cancelled": "the call was cancelled",
            "deadline_exceeded": f"expected an answer within {request.timeout} s",
        }[code]
        if outcome is Outcome.BROKEN and type(request) is m.GetState:
            outcome = Outcome.UNCHANGED
        if outcome is Outcome.POISONED:
            self.stuck = True
            text += "; the call into the environment cannot be stopped"
        self.sink.fail(code, text, executed=executed, outcome=outcome)

    def leave(self) -> None:
        """Answer a close while a call hangs: the environment is closed after it.

        Nothing else may call into the environment until then.
        """
        sink = self.sink
        self.sink = _Nobody(self.label)
        sink.reply(None)

    def unstick(self) -> bool:
        """The call that hung has ended; returns whether to close the environment."""
        self.stuck = False
        return isinstance(self.sink, _Nobody)


class _Nobody:
    """Takes the answers of a session that is gone."""

    def __init__(self, label: str) -> None:
        self.since_ns = perf_counter_ns()
        self.queue_ns = 0
        self._label = label

    def reply(
        self,
        payload: m.Payload,
        *,
        done: bool = False,
        reward: float | None = None,
        environment_ns: int = 0,
        encode_ns: int = 0,
    ) -> None:
        """Its environment is closed at last."""

    def step_reply(self, observation: Any, environment_ns: int) -> None:
        """Never called: steps come to an end before their session is gone."""

    def fail(
        self,
        code: str,
        message: str,
        *,
        outcome: Outcome = Outcome.UNCHANGED,
        executed: Executed | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        """Nobody else will ever know."""
        _logger.warning("closing %s failed: %s", self._label, message)

    def progress(self, fraction: float | None, message: str) -> None:
        """Nobody is there to be told."""


async def shut_down(spec: EnvironmentSpec) -> None:
    """Give back what an environment's sessions shared; what it raises is logged."""
    if spec.shutdown is None:
        return
    with anyio.move_on_after(_SHUTDOWN_PATIENCE) as scope:
        try:
            await spec.shutdown()
        except Exception:  # an environment's own; the server ends all the same
            _logger.exception("shutting down %r failed", spec.name)
    if scope.cancelled_caught:
        _logger.warning(
            "shutting down %r took more than %s s", spec.name, _SHUTDOWN_PATIENCE
        )


def waited(host: Host) -> float:
    """Seconds since the host's running request arrived."""
    return (perf_counter_ns() - host.sink.since_ns) / 1e9


def invalid(message: str) -> OpenEnvError:
    """A request that does not fit, found before the environment saw it."""
    return OpenEnvError(message, code="invalid_action", executed="no", fault="caller")


def _text_of(error: BaseException) -> str:
    """What an exception says; its own code may fail at that."""
    try:
        return _clean(str(error))
    except Exception:  # noqa: BLE001 (see above)
        return "<its text could not be made>"


def _clean(text: str) -> str:
    """Replace what UTF-8 has no bytes for, such as parts of undecodable file names."""
    return text.encode(errors="backslashreplace").decode()


def describe(error: BaseException) -> str:
    """Format a traceback without our own frames, bounded in length."""
    frame = error.__traceback__
    while frame is not None and "openenv_async/server" in (
        frame.tb_frame.f_code.co_filename.replace("\\", "/")
    ):
        frame = frame.tb_next
    text = "".join(
        traceback.format_exception(type(error), error, frame or error.__traceback__)
    )
    if len(text) > _TRACEBACK_CHARACTERS:
        half = _TRACEBACK_CHARACTERS // 2
        cut = len(text) - 2 * half
        text = f"{text[:half]}\n... {cut} characters left out ...\n{text[-half:]}"
    return text
