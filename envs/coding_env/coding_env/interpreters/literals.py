"""Plain data as text that two processes, one of them hostile, may exchange.

Only exact built-in types pass, so that no method of a submitted class ever runs on the
receiving side: an object whose `__eq__` is always true never arrives there. The text is
Python's literal syntax, and `inf`, `nan`, `set()`, `frozenset(...)` and `complex(...)`
as names and calls. Reading it evaluates nothing.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "Literal", "LiteralFault", "from_literal"]
__all__ += ["to_literal"]

Literal: TypeAlias = object
"""None, bool, int, float, complex, str, bytes, or list, tuple, dict, set, frozenset."""

MAX_DEPTH = 64
"""Containers within containers. Python's own parser gives up at 200."""
MAX_LENGTH = 500_000
"""Characters of a text. In UTF-8 they fit into a worker's frame, whatever they are."""

_HUGE = 1 << 64
_NAMES = {"inf": math.inf, "nan": math.nan}
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
}


class LiteralFault(ValueError):
    """A value or a text is no plain data, or too large."""


# Writing


def to_literal(value: Literal) -> str:
    """Write plain data as text.

    No code of the value's own runs, not even its `__repr__`.

    Raises:
        LiteralFault: It is of another type, nested too deeply, or too long.
    """
    parts: list[str] = []
    _write(value, parts, 0)
    text = "".join(parts)
    if len(text) > MAX_LENGTH:
        raise LiteralFault(_too_long(len(text)))
    return text


def _too_long(length: int) -> str:
    return f"expected at most {MAX_LENGTH} characters of plain data, got {length}"


def _write(value: object, parts: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LiteralFault(f"expected at most {MAX_DEPTH} levels of nesting")
    # `type(value)`, not `isinstance`: `__class__` of a submitted object may lie, and a
    # subclass brings methods of its own.
    kind = type(value)
    if value is None or kind is bool or kind in (float, str, bytes):
        parts.append(repr(value))
    elif kind is int:
        parts.append(_int_text(value))
    elif kind is complex:
        parts.append(_complex_text(value))
    elif kind in _BRACKETS:
        _write_items(value, kind, parts, depth)
    elif kind is frozenset:
        parts.append("frozenset(")
        _write(list(_items(value)), parts, depth)
        parts.append(")")
    elif kind is dict:
        _write_dict(value, parts, depth)
    else:
        raise LiteralFault(f"expected plain data, got an object of type {_name(kind)}")


def _name(kind: type) -> str:
    # A metaclass may have a `__name__` of its own; this one is the type's.
    name = type.__dict__["__name__"].__get__(kind)
    return repr(str(name)[:80])


def _int_text(value: object) -> str:
    assert isinstance(value, int)
    # Python writes no more than 4,300 decimal digits, and takes long for those.
    return hex(value) if not -_HUGE < value < _HUGE else repr(value)


def _complex_text(value: object) -> str:
    assert isinstance(value, complex)
    return f"complex({value.real!r},{value.imag!r})"


def _items(value: object) -> Iterable[object]:
    assert isinstance(value, (list, tuple, set, frozenset))
    return value


def _write_items(value: object, kind: type, parts: list[str], depth: int) -> None:
    items = list(_items(value))
    if kind is set and not items:
        parts.append("set()")
        return
    opening, closing = _BRACKETS[kind]
    parts.append(opening)
    for item in items:
        _write(item, parts, depth + 1)
        parts.append(",")
    parts.append(closing)


def _write_dict(value: object, parts: list[str], depth: int) -> None:
    assert isinstance(value, dict)
    parts.append("{")
    for key, item in list(value.items()):
        _write(key, parts, depth + 1)
        parts.append(":")
        _write(item, parts, depth + 1)
        parts.append(",")
    parts.append("}")


# Reading


def from_literal(text: str) -> Literal:
    """Read what `to_literal` wrote.

    Raises:
        LiteralFault: The text is something else, nested too deeply, or too long.
    """
    if len(text) > MAX_LENGTH:
        raise LiteralFault(_too_long(len(text)))
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        # The parser reports what is nested too deeply in one of these ways.
        raise LiteralFault(_unreadable(text)) from error
    try:
        return _read(tree.body, 0)
    except TypeError as error:  # a list as a key, for example
        raise LiteralFault(f"{_unreadable(text)}: {error}") from error


def _unreadable(text: str) -> str:
    return f"expected plain data as text, got {text[:80]!r}"


def _read(node: ast.expr | None, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise LiteralFault(f"expected at most {MAX_DEPTH} levels of nesting")
    match node:
        case ast.Constant(value=value) if value is not ...:
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _read_call(name, arguments, depth)
        case ast.Dict(keys=keys, values=values):
            # `**` is a pair without a key, which `_read` refuses.
            pairs = zip(keys, values, strict=True)
            return {_read(key, depth + 1): _read(one, depth + 1) for key, one in pairs}
        case ast.List(elts=items):
            return [_read(item, depth + 1) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_read(item, depth + 1) for item in items)
        case ast.Set(elts=items):
            return {_read(item, depth + 1) for item in items}
    raise LiteralFault(f"expected plain data as text, got {type(node).__name__}")


def _number(node: ast.expr) -> int | float:
    value = _read(node, MAX_DEPTH) if not isinstance(node, ast.UnaryOp) else None
    if type(value) is int or type(value) is float:
        return value
    raise LiteralFault(f"expected a number after '-', got {ast.unparse(node)[:80]!r}")


def _read_call(name: str, arguments: list[ast.expr], depth: int) -> object:
    match name, arguments:
        case "set", []:
            return set()
        case "frozenset", [ast.List(elts=items)]:
            return frozenset(_read(item, depth + 1) for item in items)
        case "complex", [real, imag]:
            return complex(_part(real), _part(imag))
    raise LiteralFault(f"expected plain data as text, got a call of {name!r}")


def _part(node: ast.expr) -> float:
    value = _read(node, MAX_DEPTH)
    if type(value) is not float:
        raise LiteralFault(f"expected a float, got {ast.unparse(node)[:80]!r}")
    return value
