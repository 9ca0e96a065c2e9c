"""The tables of order: complete, closed, and what they say."""

from __future__ import annotations

from typing import get_args

import pytest

from openenv_async import messages as m
from openenv_async.protocol import OUTCOMES, PERMITS, RECEIVES, Outcome, Phase, Stage

REQUESTS = (m.Reset, m.Step, m.GetState, m.Close)


def test_every_message_is_received_somewhere() -> None:
    """Each side allows all that the other one may say, in some phase."""
    for role, union in (("server", m.ClientMessage), ("client", m.ServerMessage)):
        allowed = {kind for row in RECEIVES[role].values() for kind in row}  # type: ignore[index]  # the roles
        assert allowed == set(get_args(union))


def test_every_phase_has_a_row() -> None:
    """No phase is left out, and the last one allows nothing."""
    for rows in RECEIVES.values():
        assert set(rows) == set(Phase)
        assert rows[Phase.CLOSED] == {}


def test_the_greeting_comes_once() -> None:
    """`hello` and `welcome` are allowed in the first phase only."""
    for role, kind in (("server", m.Hello), ("client", m.Welcome)):
        rows = RECEIVES[role]  # type: ignore[index]  # the roles
        assert [phase for phase in Phase if kind in rows[phase]] == [Phase.GREETING]


def test_every_stage_permits_or_refuses_every_request() -> None:
    """A request always has an answer, and every code is a known one."""
    for stage in Stage:
        assert set(PERMITS[stage]) == set(REQUESTS)
        assert {code for code in PERMITS[stage].values() if code} <= set(m.CODES)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage != Stage.CLOSED])
def test_a_session_can_always_be_closed(stage: Stage) -> None:
    """Whatever happened, `close` is permitted until it is done."""
    assert PERMITS[stage][m.Close] == ""


@pytest.mark.parametrize("stage", [Stage.NEW, Stage.DONE, Stage.BROKEN])
def test_a_step_needs_a_running_episode(stage: Stage) -> None:
    """Only `reset` leads to a stage in which a step is permitted."""
    assert PERMITS[stage][m.Step] != ""
    assert PERMITS[stage][m.Reset] == ""


def test_every_outcome_leads_somewhere() -> None:
    """Each outcome is defined for each stage."""
    for outcome in Outcome:
        assert set(OUTCOMES[outcome]) == set(Stage)


def test_nothing_leads_out_of_the_last_stages() -> None:
    """A poisoned session stays so until it is closed, a closed one for ever."""
    for outcome in Outcome:
        assert OUTCOMES[outcome][Stage.POISONED] in (Stage.POISONED, Stage.CLOSED)
        assert OUTCOMES[outcome][Stage.CLOSED] is Stage.CLOSED
