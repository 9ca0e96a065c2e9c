"""The judge's worker and the server's side of a call, back to back in one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from coding_env.interpreters import from_literal, make_interpreter, to_literal
from coding_env.interpreters.judge import lost_reply, raised_reply, value_reply


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    """Restore what an interpreter changes in the process that it has for itself."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


def test_calls_go_out_and_come_back_as_text() -> None:
    """The tests' arguments arrive as a tuple, and the answer's value in the tests."""
    asked: list[object] = []

    def ask(text: str) -> str:
        asked.append(from_literal(text))
        return value_reply(to_literal({"a": [1.5]}))

    outcome = make_interpreter("judge", ask=ask).run(
        "assert candidate(1, [None]) == {'a': [1.5]}\ncandidate()"
    )
    assert outcome.error is None
    assert outcome.value == "2"
    assert asked == [(1, [None]), ()]


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("ZeroDivisionError", "ZeroDivisionError"),
        ("KeyError", "KeyError"),
        # None of these may look like something else than an error of the submission.
        ("AssertionError", "RuntimeError"),
        ("SystemExit", "RuntimeError"),
        ("KeyboardInterrupt", "RuntimeError"),
        ("UnicodeDecodeError", "RuntimeError"),
        ("print", "RuntimeError"),
        ("NoSuchError", "RuntimeError"),
        ("", "RuntimeError"),
    ],
)
def test_an_exception_arrives_by_its_name(kind: str, seen: str) -> None:
    """Built-in exceptions arrive as themselves, all others as RuntimeError."""
    judge = make_interpreter("judge", ask=lambda text: raised_reply(kind))
    outcome = judge.run("candidate(1)")
    assert outcome.error is not None
    assert outcome.error.type == seen
    assert outcome.value == "0"


@pytest.mark.parametrize("reply", [lost_reply("gone"), "gone", "", "valve\n1"])
def test_a_lost_function_ends_the_tests(reply: str) -> None:
    """No `except Exception` of the tests goes on after it."""
    judge = make_interpreter("judge", ask=lambda text: reply)
    outcome = judge.run("try:\n    candidate(1)\nexcept Exception:\n    pass")
    assert outcome.error is not None
    assert outcome.error.type == "CandidateLost"


@pytest.mark.parametrize("text", ["__import__('os')", "", "(", "A()"])
def test_an_answer_that_is_no_plain_data_fails(text: str) -> None:
    """A worker that answers with anything else fails the test that called it."""
    judge = make_interpreter("judge", ask=lambda _: value_reply(text))
    outcome = judge.run("candidate(1)")
    assert outcome.error is not None
    assert outcome.error.type == "LiteralFault"


def test_arguments_that_are_no_plain_data_are_the_tests_own_fault() -> None:
    """Tests that pass objects of their own fail before anything is asked."""
    asked: list[str] = []

    def ask(text: str) -> str:
        asked.append(text)
        return value_reply("1")

    outcome = make_interpreter("judge", ask=ask).run("candidate(object())")
    assert outcome.error is not None
    assert outcome.error.type == "LiteralFault"
    assert asked == []
