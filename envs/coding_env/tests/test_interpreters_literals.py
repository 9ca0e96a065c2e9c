from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding_env.interpreters import LiteralFault, from_literal, to_literal
from coding_env.interpreters.literals import MAX_DEPTH, MAX_LENGTH

_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
)
_KEYS = st.recursive(
    _ATOMS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=5
)
_DATA = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.sets(_KEYS)
        | st.frozensets(_KEYS)
        | st.dictionaries(_KEYS, inner)
    ),
    max_leaves=20,
)


def _same(one: Any, other: Any) -> bool:
    """Equal, of the same types, with the same signs of zero."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return _same(list(one.items()), list(other.items()))
    if isinstance(one, (int, set, frozenset)):
        return bool(one == other)
    return repr(one) == repr(other)


@settings(max_examples=60)
@given(_DATA)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    """Whatever `to_literal` writes, `from_literal` reads back, types included."""
    assert _same(from_literal(to_literal(value)), value)


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, -0.0, complex(-0.0, math.inf), 10**5000, -(2**70), set()],
    ids=["inf", "-inf", "-0", "complex", "huge", "negative", "empty set"],
)
def test_special_numbers_arrive_as_they_were(value: object) -> None:
    """Infinities, signs of zero and integers beyond Python's own limit pass."""
    assert _same(from_literal(to_literal(value)), value)


def test_nan_arrives_as_nan() -> None:
    """NaN, alone and within a complex number, stays NaN."""
    value = from_literal(to_literal([math.nan, complex(math.nan, 1.0)]))
    assert isinstance(value, list)
    assert math.isnan(value[0])
    assert math.isnan(value[1].real)


class _Liar:
    """Runs code when anybody looks at it."""

    @property  # type: ignore[misc]  # the lie
    def __class__(self) -> Any:
        return int

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    def __hash__(self) -> int:
        raise RuntimeError("hashed")

    def __repr__(self) -> str:
        raise RuntimeError("shown")


class _Int(int):
    def __repr__(self) -> str:
        raise RuntimeError("shown")

    __str__ = __repr__


class _List(list[int]):
    def __iter__(self) -> Any:
        raise RuntimeError("iterated")


_OTHERS: dict[str, Callable[[], object]] = {
    "liar": _Liar,
    "int": lambda: _Int(3),
    "list": lambda: _List([1]),
    "class": lambda: object,
    "function": lambda: len,
    "range": lambda: range(3),
}


@pytest.mark.parametrize("kind", _OTHERS)
def test_objects_with_code_of_their_own_do_not_pass(kind: str) -> None:
    """Anything but exact built-in types is refused before any of its code runs."""
    value = _OTHERS[kind]()
    for wrapped in (value, [value, 1], {1: (value,)}):
        with pytest.raises(LiteralFault, match="expected plain data, got an object of"):
            to_literal(wrapped)


def test_a_metaclass_cannot_name_its_class() -> None:
    """The error's name of a type is the real one, and is cut."""

    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]  # an attempt to run code
            raise RuntimeError("named")

    kind = Meta("x" * 200, (), {})
    with pytest.raises(LiteralFault, match=r"type '(x{80})'$"):
        to_literal(kind())


def test_what_is_nested_too_deeply_is_refused_both_ways() -> None:
    """Neither end recurses beyond the bound, which is below Python's own."""
    value: object = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(LiteralFault, match="levels of nesting"):
        to_literal(value)
    for depth in (MAX_DEPTH + 2, 150, 100_000):
        with pytest.raises(LiteralFault):
            from_literal("[" * depth + "]" * depth)
    with pytest.raises(LiteralFault):
        from_literal("-" * 100_000 + "1")


def test_a_list_that_contains_itself_is_refused() -> None:
    """Recursion in the data ends at the bound of nesting."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(LiteralFault, match="levels of nesting"):
        to_literal(value)


def test_what_is_too_long_is_refused_both_ways() -> None:
    """Both ends bound the text, and the error names the bound."""
    with pytest.raises(LiteralFault, match=str(MAX_LENGTH)):
        to_literal("x" * MAX_LENGTH)
    with pytest.raises(LiteralFault, match=str(MAX_LENGTH)):
        from_literal(" " * (MAX_LENGTH + 1))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getpid()",
        "print(1)",
        "[x for x in (1,)]",
        "lambda: 1",
        "x",
        "...",
        "1 + 1",
        "f'{1}'",
        "frozenset((1,))",
        "complex(1, 2)",
        "complex(1.0, 2.0, 3.0)",
        "set([1])",
        "-'a'",
        "--1",
        "{**{}}",
        "{[]: 1}",
        "{[1]}",
        "[*[1]]",
        "1; 2",
        "1\n2",
        "\0",
        "",
        "(",
        "'",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    """Text that is no plain data is an error, and nothing in it is evaluated."""
    with pytest.raises(LiteralFault):
        from_literal(text)


@given(st.text(alphabet="[](){},:'\"-1.0e infsetnacomplxr*\\\n#"))
def test_arbitrary_text_raises_only_the_documented_error(text: str) -> None:
    """Whatever a hostile worker sends, reading it ends in a value or a LiteralFault."""
    try:
        value = from_literal(text)
    except LiteralFault:
        return
    assert _same(from_literal(to_literal(value)), value) or "nan" in text
