"""How this environment evaluates Python with the parts of smolagents' interpreter.

smolagents 1.26 evaluates syntax trees with one function per kind of node, all of which
call `evaluate_ast`. `statements.install` puts `evaluate` in its place. It looks up a
node's handler in a table, where smolagents asks up to forty `isinstance` questions
(code is three to four times faster), and has handlers of its own where smolagents gives
another answer than Python does:

- `else` of loops, `*` in displays and targets, `**` in dictionaries, several `for` in a
  generator expression, decorators, defaults and scopes of functions, `!r` in f-strings.
- A name of a built-in function may be a variable, a parameter or a function of the
  code's own. A name that is not defined is a NameError; smolagents takes a similar one.
- Exceptions keep their type: a missing key is a KeyError, which the code can catch.
- `return` within `try` returns, whatever the handlers catch.
- `print` prints at once, `sep` and `end` included. `eval` evaluates an expression with
  this interpreter, under its fences.

The fences are smolagents' own (allowed built-ins and modules, no dunder attributes,
results are checked), and a few of its known holes are closed: see `fences`. Its limit
of operations is gone: the worker's deadline and CPU limit bound time. `yield`, `match`,
`async`, `global` and `nonlocal` are not supported, as in smolagents.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from smolagents import local_python_executor as smolagents

from .fences import check_attribute

__all__ = ["HANDLERS", "Handler", "Scope", "evaluate", "lookup"]

Scope: TypeAlias = dict[str, Any]
"""Variables by name. (Any: they are the values of somebody else's program.)"""

Handler: TypeAlias = Callable[..., Any]
"""Takes a node, its scope, the tools, functions of the code, authorized imports."""

HANDLERS: dict[type[ast.AST], Handler] = {}
"""By type of node. `statements` adds its own."""

_UNSUSPICIOUS = frozenset(
    (int, str, float, bool, type(None), list, tuple, set, range, bytes, complex)
)
"""Types of results that smolagents' check lets through anyway."""


_Constant, _Name = ast.Constant, ast.Name


def evaluate(
    node: Any,
    state: Scope,
    static_tools: Scope,
    custom_tools: Scope,
    authorized_imports: list[str],
) -> Any:
    """Evaluate a node, and refuse a result that smolagents considers dangerous."""
    kind = type(node)
    # Half of all nodes are one of these two.
    if kind is _Constant:
        return node.value
    if kind is _Name and node.id in state:
        result = state[node.id]
    elif kind in HANDLERS:
        result = HANDLERS[kind](
            node, state, static_tools, custom_tools, authorized_imports
        )
    else:
        raise smolagents.InterpreterError(f"{kind.__name__} is not supported.")
    if type(result) not in _UNSUSPICIOUS:
        smolagents.check_safer_result(result, static_tools, authorized_imports)
    return result


def lookup(name: str, state: Scope, tools: Scope, functions: Scope) -> Any:
    """Find what a name stands for.

    Raises:
        InterpreterError: It is a built-in function that is not allowed.
        NameError: It is not defined.
    """
    for scope in (state, functions, tools, smolagents.ERRORS):
        if name in scope:
            return scope[name]
    if hasattr(smolagents.builtins, name):
        raise smolagents.InterpreterError(f"Forbidden access to built-in: {name}")
    raise NameError(f"name {name!r} is not defined")


# Names, constants, operators

_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.FloorDiv: operator.floordiv,
    ast.MatMult: operator.matmul,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}


def _name(
    node: ast.Name, state: Scope, tools: Scope, functions: Scope, imports: list[str]
) -> Any:
    return lookup(node.id, state, tools, functions)


def _expression(node: ast.Expr, *context: Any) -> Any:
    return evaluate(node.value, *context)


def _binary(
    node: ast.BinOp, state: Scope, tools: Scope, functions: Scope, imports: list[str]
) -> Any:
    left = evaluate(node.left, state, tools, functions, imports)
    right = evaluate(node.right, state, tools, functions, imports)
    return _BINARY[type(node.op)](left, right)


def _comparison(
    node: ast.Compare, state: Scope, tools: Scope, functions: Scope, imports: list[str]
) -> Any:
    left = evaluate(node.left, state, tools, functions, imports)
    if len(node.ops) == 1:
        right = evaluate(node.comparators[0], state, tools, functions, imports)
        return _COMPARISONS[type(node.ops[0])](left, right)
    result = True
    for kind, comparator in zip(node.ops, node.comparators, strict=True):
        right = evaluate(comparator, state, tools, functions, imports)
        result = _COMPARISONS[type(kind)](left, right)
        if not result:
            break
        left = right
    return result


def _attribute(node: ast.Attribute, *context: Any) -> Any:
    check_attribute(node.attr)
    return getattr(evaluate(node.value, *context), node.attr)


def _subscript(node: ast.Subscript, *context: Any) -> Any:
    value = evaluate(node.value, *context)
    return value[evaluate(node.slice, *context)]


def _named(node: ast.NamedExpr, state: Scope, *context: Any) -> Any:
    value = evaluate(node.value, state, *context)
    state[node.target.id] = value
    return value


# Displays


def _items(nodes: list[ast.expr], *context: Any) -> Iterator[Any]:
    for node in nodes:
        if isinstance(node, ast.Starred):
            yield from evaluate(node.value, *context)
        else:
            yield evaluate(node, *context)


def _list(node: ast.List, *context: Any) -> list[Any]:
    return list(_items(node.elts, *context))


def _tuple(node: ast.Tuple, *context: Any) -> tuple[Any, ...]:
    return tuple(_items(node.elts, *context))


def _set(node: ast.Set, *context: Any) -> set[Any]:
    return set(_items(node.elts, *context))


def _dict(node: ast.Dict, *context: Any) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            made.update(evaluate(value, *context))
        else:
            made[evaluate(key, *context)] = evaluate(value, *context)
    return made


def _generator(node: ast.GeneratorExp, state: Scope, *context: Any) -> Iterator[Any]:
    elements: Iterator[Any] = smolagents._evaluate_comprehensions(  # noqa: SLF001 (the one that nests)
        node.generators,
        lambda scope: evaluate(node.elt, scope, *context),
        state,
        *context,
    )
    return elements


_CONVERSIONS: dict[int, Callable[[Any], Any]] = {
    -1: lambda value: value,
    ord("s"): str,
    ord("r"): repr,
    ord("a"): ascii,
}


def _formatted(node: ast.FormattedValue, *context: Any) -> str:
    value = _CONVERSIONS[node.conversion](evaluate(node.value, *context))
    spec = evaluate(node.format_spec, *context) if node.format_spec else ""
    return format(value, spec)


# Calls


def _call(
    node: ast.Call, state: Scope, tools: Scope, functions: Scope, imports: list[str]
) -> Any:
    context = (state, tools, functions, imports)
    function = _callee(node.func, *context)
    arguments = list(_items(node.args, *context))
    keywords: dict[str, Any] = {}
    for keyword in node.keywords:
        value = evaluate(keyword.value, *context)
        if keyword.arg is None:
            keywords.update(value)
        else:
            keywords[keyword.arg] = value
    if function is _super:
        return _super(state, *arguments)
    if function is _eval:
        return _eval(context, *arguments)
    _check_callee(function, tools)
    return function(*arguments, **keywords)


def _callee(node: ast.expr, *context: Any) -> Any:
    if isinstance(node, ast.Attribute):
        # `super().__init__()` is allowed where reading the attribute is not.
        if node.attr not in smolagents.ALLOWED_DUNDER_METHODS:
            check_attribute(node.attr)
        return getattr(evaluate(node.value, *context), node.attr)
    if isinstance(node, ast.Name):
        # With the operators of the others: `super` and `eval` need the scope.
        name, state, tools, functions = node.id, *context[:3]
        if name in state:
            return state[name]
        if name in _SCOPED and name not in functions:
            return _SCOPED[name]
        return lookup(name, state, tools, functions)
    return evaluate(node, *context)


def _check_callee(function: Any, tools: Scope) -> None:
    """Refuse built-ins that are no tools, and dunder functions, as smolagents does."""
    if isinstance(function, type):
        return
    if (
        smolagents.inspect.isbuiltin(function)
        and function.__module__ == "builtins"
        and not any(function is tool for tool in tools.values())
    ):
        raise smolagents.InterpreterError(
            f"Forbidden call of built-in: {function.__name__}"
        )
    name = getattr(function, "__name__", "")
    is_dunder = type(name) is str and name.startswith("__") and name.endswith("__")
    if is_dunder and name not in smolagents.ALLOWED_DUNDER_METHODS:
        raise smolagents.InterpreterError(f"Forbidden call of dunder: {name}")


def _super(state: Scope, *arguments: Any) -> Any:
    if arguments:
        return super(*arguments)
    if "__class__" not in state:
        raise RuntimeError("super(): no arguments")
    return super(state["__class__"], state["__self__"])


def _eval(context: tuple[Any, ...], source: object, *scopes: object) -> Any:
    if scopes or not isinstance(source, str):
        raise smolagents.InterpreterError("eval() takes one string here")
    # Its exceptions are the code's; its nodes have lines of their own.
    return evaluate(ast.parse(source.strip(), mode="eval").body, *context)


_SCOPED: dict[str, Callable[..., Any]] = {"super": _super, "eval": _eval}
"""Functions that see the scope of their caller."""

HANDLERS.update(
    {
        ast.Name: _name,
        ast.Expr: _expression,
        ast.BinOp: _binary,
        ast.Compare: _comparison,
        ast.Attribute: _attribute,
        ast.Subscript: _subscript,
        ast.NamedExpr: _named,
        ast.List: _list,
        ast.Tuple: _tuple,
        ast.Set: _set,
        ast.Dict: _dict,
        ast.GeneratorExp: _generator,
        ast.FormattedValue: _formatted,
        ast.Call: _call,
        ast.UnaryOp: smolagents.evaluate_unaryop,
        ast.BoolOp: smolagents.evaluate_boolop,
        ast.ListComp: smolagents.evaluate_listcomp,
        ast.SetComp: smolagents.evaluate_setcomp,
        ast.DictComp: smolagents.evaluate_dictcomp,
    }
)


def _conditional(node: ast.IfExp, *context: Any) -> Any:
    branch = node.body if evaluate(node.test, *context) else node.orelse
    return evaluate(branch, *context)


def _slice(node: ast.Slice, *context: Any) -> slice:
    bounds = (node.lower, node.upper, node.step)
    return slice(*(b and evaluate(b, *context) for b in bounds))


def _joined(node: ast.JoinedStr, *context: Any) -> str:
    return "".join([str(evaluate(value, *context)) for value in node.values])


HANDLERS.update({ast.IfExp: _conditional, ast.Slice: _slice, ast.JoinedStr: _joined})
