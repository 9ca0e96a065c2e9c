"""What is measured: one `Case` is one number of one contender.

Cases are grouped into scenarios. The contenders of a scenario are measured within
seconds of each other, so that a noisy minute of the machine hits all of them.
Standard library only: OpenEnv's interpreter imports this module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, TypeAlias

__all__ = [
    "IMAGE_SHAPE",
    "MESSAGE",
    "Case",
    "ContainerMode",
    "Mode",
    "Payload",
    "scenarios",
]

Mode: TypeAlias = Literal["awaited", "batch", "connect", "idle", "cut"]
"""`awaited` is one coroutine per session, `batch` one call for all of them; `cut` is of
`benchmarks.interop`."""

ContainerMode: TypeAlias = Literal["start", "place", "spare", "reset", "paced"]
"""Of `benchmarks.containers`, see `container_cases`."""

Payload: TypeAlias = Literal["text", "image", "list", "base64", "cartpole", "code"]
"""`list` and `base64` are the two ways of an image through OpenEnv's JSON."""

MESSAGE = "What is the capital of France? The answer is Paris."
"""The small action; it comes back as the small observation."""

IMAGE_SHAPE = (160, 320, 3)
"""Bytes in this shape are exactly 150 KiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement of one contender."""

    contender: str
    mode: Mode | ContainerMode
    sessions: int
    sockets: int = 0
    """How many sockets carry the sessions; 0 is what the contender does by itself."""
    transport: Literal["tcp", "unix"] = "tcp"
    payload: Payload = "text"
    pinned: bool = False
    """Client and server share one core, so that nobody waits for an idle one."""

    @property
    def key(self) -> str:
        """Name the case in results, for machines and for `--only`."""
        parts = [self.contender, self.mode, self.payload, f"n{self.sessions}"]
        if self.sockets:
            parts.append(f"s{self.sockets}")
        parts.append(self.transport)
        if self.pinned:
            parts.append("pinned")
        return "/".join(parts)


def scenarios(*, idle_sdk: int, idle_openenv: int) -> Iterator[tuple[Case, ...]]:
    """Yield the scenarios of one round, cheapest first.

    Args:
        idle_sdk: Idle sessions of this SDK whose memory is measured.
        idle_openenv: The same for OpenEnv, which has a thread and a socket for each.
    """
    for pinned in (False, True):
        yield _one_session(pinned=pinned)
    for sessions in (64, 256, 1024):
        yield _awaited(sessions)
        yield _batch(sessions)
    for sessions in (1, 16, 64):
        yield _image(sessions)
    for sessions in (64, 1024):
        yield (
            Case(contender="sdk", mode="connect", sessions=sessions),
            Case(contender="sdk-batch", mode="connect", sessions=sessions),
            Case(contender="openenv", mode="connect", sessions=sessions),
        )
    yield (
        Case(contender="sdk", mode="idle", sessions=idle_sdk),
        Case(contender="openenv", mode="idle", sessions=idle_openenv),
    )
    for sessions in (16, 64):
        yield _cartpole(sessions)


def _one_session(*, pinned: bool) -> tuple[Case, ...]:
    """All there is to gain at one session is latency."""
    return (
        *(
            Case(
                contender=contender,
                mode="awaited",
                sessions=1,
                transport=transport,
                pinned=pinned,
            )
            for contender in ("ceiling", "sdk")
            for transport in ("tcp", "unix")
        ),
        Case(contender="openenv", mode="awaited", sessions=1, pinned=pinned),
    )


def _awaited(sessions: int) -> tuple[Case, ...]:
    return (
        *_ceiling("awaited", sessions),
        Case(contender="sdk", mode="awaited", sessions=sessions),
        Case(contender="sdk", mode="awaited", sessions=sessions, sockets=1),
        Case(contender="openenv", mode="awaited", sessions=sessions),
    )


def _batch(sessions: int) -> tuple[Case, ...]:
    """OpenEnv has no batch: `_awaited` has measured what it offers instead."""
    return (
        *_ceiling("batch", sessions),
        Case(contender="sdk", mode="batch", sessions=sessions),
        Case(contender="sdk", mode="batch", sessions=sessions, sockets=1),
    )


def _ceiling(mode: Mode, sessions: int) -> Iterator[Case]:
    for sockets in (1, 2, 4):
        yield Case(contender="ceiling", mode=mode, sessions=sessions, sockets=sockets)


def _image(sessions: int) -> tuple[Case, ...]:
    sockets = (1,) if sessions == 1 else (1, 2)
    return (
        *(
            Case(
                contender="ceiling",
                mode=mode,
                sessions=sessions,
                sockets=count,
                payload="image",
            )
            for mode in _MODES
            for count in sockets
        ),
        *(
            Case(contender="sdk", mode=mode, sessions=sessions, payload="image")
            for mode in _MODES
        ),
        *(
            Case(
                contender="openenv", mode="awaited", sessions=sessions, payload=payload
            )
            for payload in _OPENENV_IMAGES
        ),
    )


def _cartpole(sessions: int) -> tuple[Case, ...]:
    return tuple(
        Case(contender=contender, mode="batch", sessions=sessions, payload="cartpole")
        for contender in ("gymnasium", "sdk")
    )


_MODES: tuple[Mode, ...] = ("awaited", "batch")
_OPENENV_IMAGES: tuple[Payload, ...] = ("list", "base64")
