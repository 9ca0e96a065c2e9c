"""Real Python that runs hidden tests against a function in another process.

The tests call `candidate(...)` as they would call the function itself. Each call goes
out as plain data and comes back as plain data: the submitted code never shares a
process with the tests, and no object of its own reaches them.
"""

from __future__ import annotations

import builtins
from typing import final

from .base import Ask, Outcome
from .cpython import CPythonInterpreter
from .literals import from_literal, to_literal

__all__ = ["CandidateLost", "JudgeInterpreter", "raised_reply", "value_reply"]
__all__ += ["lost_reply"]


class CandidateLost(BaseException):
    """The submitted function can't be called any more.

    No test's `except Exception` may take it for an answer.
    """


# What is answered to a call: a word, and on the next line what belongs to it


def value_reply(text: str) -> str:
    """The function returned `text`, written by `to_literal`."""
    return f"value\n{text}"


def raised_reply(kind: str) -> str:
    """The function raised an exception whose class has this name."""
    return f"raised\n{kind}"


def lost_reply(reason: str) -> str:
    """The function will answer no call any more."""
    return f"lost\n{reason}"


@final
class _Candidate:
    """Stands for the submitted function."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.answered = 0

    def __call__(self, *arguments: object) -> object:
        word, _, text = self._ask(to_literal(arguments)).partition("\n")
        if word == "value":
            self.answered += 1
            return from_literal(text)
        if word == "raised":
            raise _exception(text)
        raise CandidateLost(text)


def _exception(kind: str) -> Exception:
    """Make the exception that the tests see; only built-in ones are known here."""
    found = vars(builtins).get(kind)
    text = "raised by the submitted function"
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return RuntimeError(f"{kind} {text}")
    if issubclass(found, AssertionError):
        # It must not look like a test's own.
        return RuntimeError(f"{kind} {text}")
    try:
        return found(text)
    except TypeError:  # UnicodeDecodeError takes more
        return RuntimeError(f"{kind} {text}")


class JudgeInterpreter(CPythonInterpreter):
    """Runs tests, which find the submitted function as `candidate`.

    The value of an outcome is how many of its calls were answered, so that tests that
    never call it count for nothing.

    Args:
        ask: Takes a tuple of arguments as plain data, returns one of the replies above.
    """

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self._candidate = _Candidate(ask)
        self._names["candidate"] = self._candidate

    def run(self, code: str) -> Outcome:
        """Run tests."""
        outcome = super().run(code)
        return Outcome(
            error=outcome.error,
            exit_code=outcome.exit_code,
            value=to_literal(self._candidate.answered),
        )
