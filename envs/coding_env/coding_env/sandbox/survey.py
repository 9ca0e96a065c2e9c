"""Which fences this machine offers, found out by putting them up once."""

from __future__ import annotations

import functools

from openenv_async import ProviderError

from .fences import namespaces
from .frames import MAX_PACKET, Configure, Failed, Fence, Ready, control_replies, encode
from .launcher import launch, reserve_users
from .pool import PoolConfig

__all__ = ["survey"]

_PATIENCE = 20.0
"""Seconds for what takes a fraction of one."""


@functools.cache
def survey(config: PoolConfig) -> tuple[Fence, ...]:
    """The fences of every worker of such a pool, each attacked before it is reported.

    Blocks for a fraction of a second, the first time.

    Raises:
        ProviderError: The workers of such a pool cannot be started.
    """
    isolate = config.namespaces == "auto"
    users = reserve_users(isolate=isolate)
    launched = launch(hidden=config.hidden, isolate=isolate)
    try:
        request = Configure(
            kinds=[],
            authorized_imports=[],
            limits=config.limits,
            scratch=launched.sessions,
            hidden=list(config.hidden),
            uid=None if users is None else users.take(),
            namespaces=namespaces(),
        )
        launched.control.settimeout(_PATIENCE)
        launched.control.send(encode(request))
        data = launched.control.recv(MAX_PACKET)
        reply = control_replies.decode(data) if data else Failed("the process ended")
    except OSError as error:
        reply = Failed(str(error))
    finally:
        said = launched.discard()
        if users is not None:
            users.close()
    if isinstance(reply, Ready):
        return tuple(reply.fences)
    fault = reply.message if isinstance(reply, Failed) else repr(reply)
    raise ProviderError(f"expected to put up the fences: {fault}", detail={"log": said})
