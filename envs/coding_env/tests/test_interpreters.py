from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from coding_env.interpreters import (
    Interpreter,
    Kind,
    Outcome,
    from_literal,
    make_interpreter,
    to_literal,
    warm_up,
)

_KINDS: list[Kind] = ["smolagents", "cpython"]


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    """Restore what an interpreter changes in the process that it has for itself."""
    main, limit = sys.modules["__main__"], sys.getrecursionlimit()
    yield
    sys.modules["__main__"] = main
    sys.setrecursionlimit(limit)


@pytest.fixture(params=_KINDS)
def interpreter(request: pytest.FixtureRequest) -> Interpreter:
    """One of each kind."""
    return make_interpreter(request.param)


def _error(outcome: Outcome) -> tuple[str, str, int | None]:
    assert outcome.error is not None
    assert outcome.result is None
    return outcome.error.type, outcome.error.message, outcome.error.line


# Results, output, state


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("1 + 1", "2"),
        ("'a'", "'a'"),
        ("None", None),
        ("x = 1", None),
        ("", None),
        ("# nothing", None),
        ("x = 2\nx", "2"),
        ("x = 2\nif x:\n    x", None),
        ("for i in range(3):\n    i", None),
        ("def f():\n    return 1", None),
        ("print('hi')", None),
    ],
)
def test_the_result_is_that_of_a_last_expression(
    interpreter: Interpreter, code: str, result: str | None
) -> None:
    """Only an expression in last place has a result, and None is none."""
    assert interpreter.run(code) == Outcome(result=result)


def test_names_stay_from_run_to_run(interpreter: Interpreter) -> None:
    """Variables, functions, classes and imports are there in the next run."""
    interpreter.run("import math\nx = 2")
    interpreter.run("def area(r):\n    return math.floor(math.pi * r * x)")
    interpreter.run(
        "class Box:\n    def __init__(self, size):\n        self.size = size"
    )
    assert interpreter.run("[area(2), Box(3).size]").result == "[12, 3]"


def test_two_interpreters_share_no_names() -> None:
    """A fresh interpreter knows nothing of another one's code."""
    for kind in _KINDS:
        make_interpreter(kind).run("x = 1")
        assert _error(make_interpreter(kind).run("x"))[0] == "NameError"


def test_output_is_written_while_the_code_runs(
    interpreter: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was printed before a line is out when that line runs."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    interpreter.run("def seen():\n    return 0")
    outcome = interpreter.run(
        "print('a', 1, sep='-', end='!')\nprint()\n1 / 0\nprint(2)"
    )
    assert out.getvalue() == "a-1!\n"
    assert outcome.exit_code == 1


# Errors


@pytest.mark.parametrize(
    ("code", "kind", "message", "line"),
    [
        ("x = 1\n1 / 0", "ZeroDivisionError", "division by zero", 2),
        ("y", "NameError", "name 'y' is not defined", 1),
        ("y()", "NameError", "name 'y' is not defined", 1),
        ("{}['a']", "KeyError", "'a'", 1),
        ("[][1]", "IndexError", "list index out of range", 1),
        ("a, b = 1, 2, 3", "ValueError", "too many values to unpack (expected 2)", 1),
        ("def f():\n    raise ValueError('no')\nf()", "ValueError", "no", 2),
        ("assert 1 == 2, 'wrong'", "AssertionError", "wrong", 1),
        ("class E(Exception):\n    pass\nraise E(7)", "E", "7", 3),
        ("\n\nx = (", "SyntaxError", "'(' was never closed", 3),
        ("x = 1\n  y = 2", "IndentationError", "unexpected indent", 2),
        ("import no_such_module", None, None, 1),
    ],
)
def test_an_error_has_type_message_and_line(
    interpreter: Interpreter,
    code: str,
    kind: str | None,
    message: str | None,
    line: int,
) -> None:
    """Errors are told as Python tells them, with the line of the code."""
    outcome = interpreter.run(code)
    assert outcome.exit_code == 1
    error = _error(outcome)
    assert error == (kind or error[0], message or error[1], line)


def test_the_line_is_of_this_run(interpreter: Interpreter) -> None:
    """An error within a function of an earlier run has the line that called it."""
    interpreter.run("\n\n\n\ndef f():\n    return 1 / 0")
    assert _error(interpreter.run("x = 1\nf()"))[2] == 2


def test_state_survives_an_error(interpreter: Interpreter) -> None:
    """What ran before the error happened."""
    interpreter.run("x = 1\nx = 2\n1 / 0\nx = 3")
    assert interpreter.run("x").result == "2"


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("raise SystemExit", "SystemExit", 0),
        ("raise SystemExit(3)", "SystemExit", 3),
        ("raise SystemExit('why')", "SystemExit", 1),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", 130),
        ("raise MemoryError", "MemoryError", 1),
        ("raise BaseException('b')", "BaseException", 1),
        ("raise GeneratorExit", "GeneratorExit", 1),
    ],
)
def test_exits_are_outcomes(
    interpreter: Interpreter, code: str, kind: str, status: int
) -> None:
    """Whatever code raises, the interpreter answers, and goes on."""
    outcome = interpreter.run(code)
    assert _error(outcome)[0] == kind
    assert outcome.exit_code == status
    assert interpreter.run("1").result == "1"


def test_an_exception_that_cannot_be_shown_is_an_outcome(
    interpreter: Interpreter,
) -> None:
    """`__str__` and `__repr__` of the code's own may raise anything."""
    interpreter.run(
        "class E(Exception):\n    def __str__(self):\n        raise SystemExit(0)\n"
    )
    kind, message, _ = _error(interpreter.run("raise E"))
    assert (kind, message) == ("E", "(its text cannot be made: SystemExit)")
    interpreter.run("class R:\n    def __repr__(self):\n        raise KeyError(1)")
    assert _error(interpreter.run("R()"))[0] == "KeyError"


def test_a_long_message_is_cut(interpreter: Interpreter) -> None:
    """A message is bounded, and says how long it was."""
    message = _error(interpreter.run("raise ValueError('x' * 10_000)"))[1]
    assert message.endswith("x ... (10000 characters)")
    assert len(message) < 5_000


@pytest.mark.parametrize("kind", _KINDS)
def test_deep_recursion_is_an_error_and_no_crash(kind: Kind) -> None:
    """Recursion, in code and in data, ends in a RecursionError of a living process."""
    program = f"""
from coding_env.interpreters import make_interpreter
interpreter = make_interpreter({kind!r})
for code in (
    "def f(n):\\n    return 0 if n == 0 else 1 + f(n - 1)\\nf(10 ** 6)",
    "g = lambda n: max([g(n + 1) for _ in range(1)])\\ng(0)",
    "x = []\\nfor _ in range(100_000):\\n    x = [x]\\nx",
    "class A:\\n    def __str__(self):\\n        return str(self)\\nstr(A())",
    "a = {{}}\\na[1] = a\\nb = {{}}\\nb[1] = b\\na == b",
):
    print(interpreter.run(code).error.type)
print(interpreter.run("f(100)").result)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split() == ["RecursionError"] * 5 + ["100"]


# Calls


def test_a_call_takes_and_returns_plain_data(interpreter: Interpreter) -> None:
    """Arguments and result of a call are text that `to_literal` wrote."""
    interpreter.run("def swap(a, b=(0,)):\n    return {b: a}")
    outcome = interpreter.call("swap", to_literal(([1.5, None], (2,))))
    assert outcome.error is None
    assert from_literal(outcome.value or "") == {(2,): [1.5, None]}


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "message"),
    [
        ("missing", "()", "NameError", "name 'missing' is not defined"),
        ("x", "()", "TypeError", "'x' is not callable"),
        ("one", "[1]", "TypeError", "expected a tuple of arguments, got '[1]'"),
        ("one", "(", "LiteralFault", "expected plain data as text, got '('"),
        ("one", "()", "TypeError", None),
        ("fail", "()", "ZeroDivisionError", "division by zero"),
        ("leave", "()", "SystemExit", "3"),
        ("thing", "()", "LiteralFault", None),
    ],
)
def test_a_call_that_fails_is_an_outcome(
    interpreter: Interpreter, name: str, arguments: str, kind: str, message: str | None
) -> None:
    """Wrong names, wrong arguments, errors and results that are no plain data."""
    interpreter.run(
        "x = 1\n"
        "def one(a):\n    return a\n"
        "def fail():\n    return 1 / 0\n"
        "def leave():\n    raise SystemExit(3)\n"
        "class Thing:\n    pass\n"
        "def thing():\n    return Thing()\n"
    )
    outcome = interpreter.call(name, arguments)
    error = _error(outcome)
    assert error[:2] == (kind, message or error[1])
    assert outcome.value is None
    assert interpreter.call("one", "(1,)").value == "1"


def test_a_result_that_pretends_to_be_plain_data_does_not_pass(
    interpreter: Interpreter,
) -> None:
    """Subclasses of built-in types with an equality of their own are refused."""
    interpreter.run(
        "class Always(int):\n"
        "    def __eq__(self, other):\n        return True\n"
        "    def __hash__(self):\n        return 0\n"
        "def f():\n    return [Always(3)]\n"
    )
    assert _error(interpreter.call("f", "()"))[0] == "LiteralFault"


def test_a_call_does_not_change_its_callers_arguments(interpreter: Interpreter) -> None:
    """Each call gets data of its own."""
    interpreter.run("def f(a):\n    a.append(1)\n    return len(a)")
    assert [interpreter.call("f", "([],)").value for _ in range(2)] == ["1", "1"]


# Making


def test_unknown_kinds_and_modules_are_errors() -> None:
    """Wrong values are named, with what was expected."""
    with pytest.raises(ValueError, match="expected 'smolagents', 'cpython' or 'judge'"):
        make_interpreter("pypy")  # type: ignore[arg-type]  # the error
    with pytest.raises(ValueError, match="expected ask= for a judge"):
        make_interpreter("judge")
    with pytest.raises(ValueError, match="no_such_module"):
        make_interpreter("smolagents", authorized_imports=["no_such_module"])


@pytest.mark.parametrize("kind", [*_KINDS, "judge"])
def test_warming_up_prints_nothing(
    kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    """What warms a process up leaves no trace in its output."""
    warm_up(kind, ["json"] if kind == "smolagents" else [])
    assert capsys.readouterr() == ("", "")
