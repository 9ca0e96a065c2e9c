"""A session that speaks in OpenEnv's envelopes, whatever language the server speaks."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Final, cast, get_args

import msgspec

from .. import messages as m
from .._aio import shielded
from ..client import EnvClient
from ..client.connection import Connection
from ..client.description import EnvironmentDescription, describe
from ..client.dialect import DialectLink
from ..client.dialect_line import Verbatim
from ..client.payloads import Payloads
from ..client.results import revive
from ..dialect import (
    McpReplyFrame,
    RpcCode,
    RpcError,
    decode_from_server,
    decode_rpc_reply,
)
from ..errors import (
    EnvironmentFailed,
    Executed,
    LocalProtocolError,
    OpenEnvError,
    ResetRequired,
)
from .defaults import filled

__all__ = ["WireOptions", "WireSession"]

_logger = logging.getLogger("openenv_async.openenv")

_GIVE_UP_TIMEOUT: Final = 10.0
"""Seconds for giving back what a session holds."""
_BRACE: Final = ord("{")
"""How a frame of OpenEnv begins; no map does so in msgpack."""
_FRAME: Final = msgspec.json.Decoder(dict[str, Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class WireOptions:
    """What OpenEnv's client takes, in our terms.

    Args:
        connect_timeout: Seconds for connecting.
        timeout: Seconds for each answer.
        message_bytes: Largest message to accept.
        heartbeat: Seconds of silence before asking for a sign of life.
        headers: HTTP headers for handshakes.
        dialect: Whether to speak OpenEnv's dialect even to servers of ours.
        lease: Seconds for which a session may outlive its connection.
        capacity_timeout: Seconds to wait while the server is full.
    """

    connect_timeout: float
    timeout: float
    message_bytes: int
    heartbeat: float
    headers: tuple[tuple[str, str], ...] = ()
    dialect: bool = False
    lease: float | None = None
    capacity_timeout: float = 0.0


class _Shapes:
    """What a server says of its observations and states."""

    def __init__(self) -> None:
        self.observation: dict[str, Any] = {}
        self.state: dict[str, Any] = {}

    def envelope(self, payload: Any) -> dict[str, Any]:
        """An observation as OpenEnv sends it, from either language."""
        if memoryview(payload)[0] == _BRACE:
            data: dict[str, Any] = _FRAME.decode(payload).get("data", {})
            return data
        fields = cast(dict[str, Any], revive(m.MSGPACK.generic(payload)))
        filled(fields, self.observation)
        ends = fields.pop("terminated", False), fields.pop("truncated", False)
        reward = fields.pop("reward", None)
        envelope = {"observation": fields, "reward": reward, "done": any(ends)}
        if fields.setdefault("metadata", {}):
            envelope["metadata"] = fields["metadata"]
        return envelope

    def report(self, payload: Any) -> dict[str, Any]:
        """A state as OpenEnv sends it."""
        if memoryview(payload)[0] == _BRACE:
            data: dict[str, Any] = _FRAME.decode(payload).get("data", {})
            return data
        state = cast(dict[str, Any], revive(m.MSGPACK.generic(payload)))
        return filled(state, self.state)


_known: Final[dict[tuple[str, str, str], EnvironmentDescription]] = {}
"""What servers said of their environments, by address, incarnation and name."""
_MOST_KNOWN: Final = 64


class WireSession(Verbatim, EnvClient[Any, Any, Any]):
    """One session, in dicts that have the form of OpenEnv's frames.

    Args:
        url: The server.
        options: See `WireOptions`.
    """

    payloads = Payloads.generic()

    def __init__(self, url: str, options: WireOptions) -> None:
        self._url = url
        self._shapes = _Shapes()
        super().__init__(
            url,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
            lease=options.lease,
            capacity_timeout=options.capacity_timeout,
        )
        self._options = dataclasses.replace(
            self._options,
            headers=options.headers,
            dialect=options.dialect,
            limits=m.Limits(
                message_bytes=options.message_bytes, heartbeat=options.heartbeat
            ),
        )
        self._types = Payloads(
            action_type=object,
            observation=self._shapes.envelope,
            state=self._shapes.report,
        )
        self.has_begun = False
        """Whether anything was asked of the environment."""

    async def open(self) -> None:
        """Connect, open the session, and learn what a server of ours leaves out."""
        await super().open()
        connection, session = self._connection, self._session
        if session is None or not isinstance(connection, Connection):
            return
        welcome = connection.protocol.welcome
        assert welcome is not None
        key = self._url, welcome.incarnation, session.environment
        if key not in _known:
            while len(_known) >= _MOST_KNOWN:
                _known.pop(next(iter(_known)))
            try:
                _known[key] = await describe(self._url, environment=session.environment)
            except OpenEnvError as error:
                _logger.warning(
                    "%s does not tell the shape of %r, so fields with their defaults "
                    "will be missing: %s",
                    self._url,
                    session.environment,
                    error,
                )
                return
        described = _known[key]
        self._shapes.observation = described.observation
        self._shapes.state = described.state

    @property
    def is_held_up(self) -> bool:
        """Whether the next call would wait for one that was given up."""
        session, connection = self._session, self._connection
        return (
            session is not None
            and isinstance(connection, DialectLink)
            and connection.is_held_up(session)
        )

    async def give_up(self) -> None:
        """End the session at once, whatever still runs in it."""
        await shielded(self._give_back(), timeout=_GIVE_UP_TIMEOUT)

    async def reset_with(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Reset with keyword arguments; raises like `EnvClient.reset`."""
        self.has_begun = True
        rest = dict(arguments)
        seed, episode_id = rest.pop("seed", None), rest.pop("episode_id", None)
        result = await self.reset(
            seed=seed, episode_id=episode_id, options=rest or None
        )
        envelope: dict[str, Any] = result.observation
        return envelope

    async def step_with(self, action: dict[str, Any]) -> dict[str, Any]:
        """Step; raises like `EnvClient.step`.

        OpenEnv's servers allow that before the first reset, as `list_tools` needs it.
        Where ours does not, the environment is reset before.
        """
        is_first, self.has_begun = not self.has_begun, True
        try:
            result = await self.step(action)
        except ResetRequired as error:
            if not is_first or error.code != "reset_required":
                raise
            await self.reset()
            result = await self.step(action)
        envelope: dict[str, Any] = result.observation
        return envelope

    async def state_with(self) -> dict[str, Any]:
        """Read the state; raises like `EnvClient.state`."""
        try:
            return cast(dict[str, Any], await self.state())
        except ResetRequired:
            if self.has_begun:
                raise
            return filled({}, self._shapes.state)

    async def call_mcp(self, method: str, params: dict[str, Any]) -> Any:
        """Ask the environment's tools; returns the result of the JSON-RPC call.

        Raises:
            LocalProtocolError: The session does not speak OpenEnv's dialect.
            EnvironmentFailed: The answer is an error.
            OpenEnvError: As `EnvClient.step`.
        """
        session, connection = self._session, self._connection
        if session is None or not isinstance(connection, DialectLink):
            raise LocalProtocolError("expected a session in OpenEnv's dialect")
        self.has_begun = True
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        connection.mcp(session, request)
        reply = await self._reply(session, self._timeout, m.GetState)
        frame = decode_from_server(cast(Any, reply.payload))
        assert isinstance(frame, McpReplyFrame)
        answer = decode_rpc_reply(cast(msgspec.Raw, frame.data))
        if isinstance(answer, RpcError):
            raise _rpc_failed(answer)
        return msgspec.json.decode(answer)


_REFUSED: Final = frozenset(
    (
        RpcCode.PARSE_ERROR,
        RpcCode.INVALID_REQUEST,
        RpcCode.METHOD_NOT_FOUND,
        RpcCode.INVALID_PARAMS,
    )
)
"""Codes of requests that reached no environment, whosever server it is."""


def _rpc_failed(error: RpcError) -> EnvironmentFailed:
    """The exception for an error of JSON-RPC; servers of ours tell more in `data`."""
    found: object = error.data
    told = cast(dict[str, object], found) if isinstance(found, dict) else {}
    executed: Executed = "no" if error.code in _REFUSED else "unknown"
    if told.get("executed") in get_args(Executed):
        executed = cast(Executed, told["executed"])
    code = told.get("code")
    row = m.CODES.get(code) if isinstance(code, str) else None
    return EnvironmentFailed(
        error.message,
        code=None if row is None else cast(str, code),
        executed=executed,
        retryable=None if row is None else row.retryable,
        fault=None if row is None else row.fault,
        detail={"rpc_code": error.code},
    )
