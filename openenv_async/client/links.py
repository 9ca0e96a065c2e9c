"""What a session needs of its connection, whatever language that speaks."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .. import messages as m
from ..errors import OpenEnvError
from ..protocol import ClientSession
from .connection import Waiter

__all__ = ["Link", "Machine"]


class Machine(Protocol):
    """Takes the requests of sessions; see `ClientProtocol`, which is one."""

    @property
    def ready(self) -> bool:
        """Whether somebody is there to answer."""
        ...

    def open(
        self,
        key: str,
        *,
        environment: str | None = None,
        owner: str = "",
        lease: float | None = None,
        wait: float = 0.0,
        hold: bool = False,
    ) -> ClientSession[Waiter]:
        """Begin a session; `Opened` or `Failure` will say what became of it."""
        ...

    def take_over(
        self, key: str, session: str, *, lease: float
    ) -> ClientSession[Waiter]:
        """Begin to drive somebody else's session."""
        ...

    def reset(
        self,
        session: ClientSession[Waiter],
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: object = None,
        timeout: float | None = None,
    ) -> None:
        """Send a reset."""

    def step(
        self, session: ClientSession[Waiter], action: object, timeout: float | None
    ) -> None:
        """Send a step."""

    def state(
        self, session: ClientSession[Waiter], timeout: float | None = None
    ) -> None:
        """Ask for the state."""

    def close(
        self, session: ClientSession[Waiter], timeout: float | None = None
    ) -> None:
        """Ask the server to close the environment."""

    def cancel(self, session: ClientSession[Waiter]) -> None:
        """Ask to stop the request in flight; its reply says what became of it."""

    def abandon(self, session: ClientSession[Waiter]) -> None:
        """Give a session up, opened or not, and have the server close it."""

    def forget(self, session: ClientSession[Waiter]) -> None:
        """Drop a session without telling the server."""

    def hand_back(self, session: ClientSession[Waiter]) -> None:
        """End a take-over."""

    def say(self, message: m.ClientMessage) -> None:
        """Send a message that belongs to no session."""


class Link(Protocol):
    """The way of many sessions to one server; see `Connection`, which is one."""

    users: int
    error: OpenEnvError | None

    @property
    def protocol(self) -> Machine:
        """Takes the sessions' requests."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it lives in."""
        ...

    def acquire(self, count: int = 1) -> None:
        """Take it for sessions."""

    async def wait_greeted(self) -> None:
        """Wait until it can be used."""

    def release(self, count: int = 1) -> bool:
        """Give it back; returns whether nobody uses it any more."""
        ...

    async def aclose(self) -> None:
        """End it and its tasks; idempotent."""

    def flush(self) -> None:
        """Send what waits now."""

    def send_step_alone(
        self, session: ClientSession[Waiter], action: object, timeout: float | None
    ) -> None:
        """Send a step at once."""

    def guard(self, session: ClientSession[Waiter], timeout: float) -> None:
        """Stop waiting for a call some time after its deadline."""

    def silence(self, session: ClientSession[Waiter] | None = None) -> float:
        """Seconds since the last sign of life, where pings are left unanswered.

        Args:
            session: Whose socket; None for all of them.

        Returns:
            0 if the server answers, and while it may still do so.
        """
        ...

    def subscribe(self, waiter: Waiter) -> int:
        """Take a number for a list or a watch."""
        ...

    def unsubscribe(self, number: int) -> None:
        """Give a number back."""
