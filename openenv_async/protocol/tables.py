"""Who may say what, when: every rule about order, as tables.

Two machines exist on each side. A **connection** goes through phases; a **session**
goes through stages and outlives connections. What is not in a table is not allowed.
docs/protocol.md draws its diagrams from these tables (sections 3.7 and 5.6).
"""

from __future__ import annotations

import enum
from typing import Final, Literal

from .. import messages as m

__all__ = ["OUTCOMES", "PERMITS", "RECEIVES", "Outcome", "Phase", "Role", "Stage"]

Role = Literal["client", "server"]


class Phase(enum.Enum):
    """Where a connection stands (section 3.7)."""

    GREETING = "greeting"
    """`hello` has not been answered yet."""
    READY = "ready"
    DRAINING = "draining"
    """`goodbye` was said: no new session begins, and those that exist will end."""
    CLOSED = "closed"


class Stage(enum.Enum):
    """Where a session's episode stands (section 5.6)."""

    NEW = "new"
    """No episode has begun."""
    RUNNING = "running"
    DONE = "done"
    """The last observation was terminated or truncated."""
    BROKEN = "broken"
    """A request of the episode ended in an unknown state."""
    POISONED = "poisoned"
    """A call hangs in the environment and cannot be stopped."""
    CLOSED = "closed"


class Outcome(enum.Enum):
    """How a request ended, as far as the episode is concerned (section 5.6)."""

    ONGOING = "ongoing"
    """An observation of a running episode."""
    FINAL = "final"
    """An observation that ends the episode."""
    UNCHANGED = "unchanged"
    """The episode is where it was: a state, or a request that was not executed."""
    BROKEN = "broken"
    POISONED = "poisoned"
    CLOSED = "closed"


_READY, _DRAINING, _CLOSED = Phase.READY, Phase.DRAINING, Phase.CLOSED

_FROM_CLIENT_WHEN_READY: Final[tuple[type[m.Message], ...]] = (
    m.Ping,
    m.Pong,
    m.Chunk,
    m.Open,
    m.Resume,
    m.Reset,
    m.Step,
    m.GetState,
    m.Close,
    m.Cancel,
    m.ListSessions,
    m.Watch,
    m.Unwatch,
    m.TakeOver,
    m.HandBack,
)
_FROM_SERVER_WHEN_READY: Final[tuple[type[m.Message], ...]] = (
    m.Ping,
    m.Pong,
    m.Chunk,
    m.Opened,
    m.Reply,
    m.Failure,
    m.Progress,
    m.Ended,
    m.Sessions,
    m.Watching,
    m.Event,
)

RECEIVES: Final[dict[Role, dict[Phase, dict[type[m.Message], Phase]]]] = {
    "server": {
        Phase.GREETING: {m.Hello: _READY, m.Goodbye: _CLOSED},
        Phase.READY: {
            **dict.fromkeys(_FROM_CLIENT_WHEN_READY, _READY),
            m.Goodbye: _CLOSED,
        },
        Phase.DRAINING: {
            **dict.fromkeys(_FROM_CLIENT_WHEN_READY, _DRAINING),
            m.Goodbye: _CLOSED,
        },
        Phase.CLOSED: {},
    },
    "client": {
        Phase.GREETING: {m.Welcome: _READY, m.Failure: _CLOSED, m.Goodbye: _CLOSED},
        Phase.READY: {
            **dict.fromkeys(_FROM_SERVER_WHEN_READY, _READY),
            m.Goodbye: _DRAINING,
        },
        Phase.DRAINING: {
            **dict.fromkeys(_FROM_SERVER_WHEN_READY, _DRAINING),
            m.Goodbye: _DRAINING,
        },
        Phase.CLOSED: {},
    },
}
"""The next phase, by role, phase and type of the received message."""

PERMITS: Final[dict[Stage, dict[type[m.Message], str]]] = {
    Stage.NEW: {m.Reset: "", m.Step: "reset_required", m.GetState: "", m.Close: ""},
    Stage.RUNNING: {m.Reset: "", m.Step: "", m.GetState: "", m.Close: ""},
    Stage.DONE: {m.Reset: "", m.Step: "episode_done", m.GetState: "", m.Close: ""},
    Stage.BROKEN: {m.Reset: "", m.Step: "episode_broken", m.GetState: "", m.Close: ""},
    Stage.POISONED: {
        m.Reset: "session_poisoned",
        m.Step: "session_poisoned",
        m.GetState: "session_poisoned",
        m.Close: "",
    },
    Stage.CLOSED: dict.fromkeys(
        (m.Reset, m.Step, m.GetState, m.Close), "session_closed"
    ),
}
"""By stage and request: the code to refuse it with; empty where it is allowed."""

_ALL: Final = (Stage.NEW, Stage.RUNNING, Stage.DONE, Stage.BROKEN)


def _every(then: Stage) -> dict[Stage, Stage]:
    return dict.fromkeys(_ALL, then) | {
        Stage.POISONED: Stage.POISONED,
        Stage.CLOSED: Stage.CLOSED,
    }


OUTCOMES: Final[dict[Outcome, dict[Stage, Stage]]] = {
    Outcome.ONGOING: _every(Stage.RUNNING),
    Outcome.FINAL: _every(Stage.DONE),
    Outcome.UNCHANGED: {stage: stage for stage in Stage},
    # A session that had no episode still has none: only `reset` was possible.
    Outcome.BROKEN: _every(Stage.BROKEN),
    Outcome.POISONED: _every(Stage.POISONED),
    Outcome.CLOSED: dict.fromkeys(Stage, Stage.CLOSED),
}
"""The next stage, by a request's outcome and the stage before it."""
