"""What code may not touch in smolagents' interpreter, and its built-in functions.

None of this is a security boundary, as smolagents itself says: it keeps honest code
honest. The worker's process and the container hold where code gets around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smolagents import local_python_executor as smolagents

__all__ = ["check_attribute", "make_tools"]

_INTROSPECTION = frozenset(
    {
        # Frames lead to the globals of the interpreter itself.
        *("gi_frame", "gi_code", "gi_yieldfrom", "cr_frame", "cr_code", "ag_frame"),
        *("ag_code", "tb_frame", "tb_next", "f_back", "f_builtins", "f_code"),
        *("f_globals", "f_locals"),
        # Functions of `typing` that evaluate text as real Python.
        *("ForwardRef", "_evaluate", "_eval_type", "get_type_hints"),
        *("evaluate_forward_ref", "_type_check", "_type_convert"),
    }
)


def check_attribute(name: object) -> None:
    """Refuse an attribute that leads out of the interpreter.

    smolagents refuses dunder attributes where they are read, but not where they are
    assigned, nor in `hasattr` and `setattr` (CVE-2026-4963), nor frames at all.

    Raises:
        InterpreterError: The name is of such an attribute.
    """
    if type(name) is not str:
        # A subclass could compare as it likes.
        raise TypeError(f"attribute name must be string, not {type(name).__name__!r}")
    if name.startswith("__") and name.endswith("__"):
        raise smolagents.InterpreterError(
            f"Forbidden access to dunder attribute: {name}"
        )
    if name in _INTROSPECTION:
        raise smolagents.InterpreterError(f"Forbidden access to attribute: {name}")


def make_tools(authorized_imports: list[str]) -> dict[str, Callable[..., Any]]:
    """Make what code may call beyond smolagents' own list; none of it reaches outside.

    Args:
        authorized_imports: All modules that the code may have.
    """

    def getattribute(value: object, name: str, *default: Any) -> Any:
        check_attribute(name)
        found = getattr(value, name, *default)
        # Here, and not only where the interpreter sees the result: `map(getattr, ...)`
        # would hand a module on without its seeing it.
        smolagents.check_safer_result(found, {}, authorized_imports)
        return found

    tools = dict(_HARMLESS)
    tools.update(getattr=getattribute, hasattr=_hasattr, setattr=_setattr)
    return tools


def _hasattr(value: object, name: str) -> bool:
    check_attribute(name)
    return hasattr(value, name)


def _setattr(value: object, name: str, new: object) -> None:
    check_attribute(name)
    setattr(value, name, new)


_COMPUTE = (ascii, bin, format, hash, hex, id, oct, print, repr)
_MAKE = (bytearray, bytes, classmethod, frozenset, object, property, slice)
_HARMLESS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (*_COMPUTE, *_MAKE, staticmethod)
}
