"""Statements, for the interpreter that `dialect` describes."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from smolagents import local_python_executor as smolagents

from .dialect import HANDLERS, Scope, evaluate, lookup
from .fences import check_attribute

__all__ = ["install"]

_CONTROL = (
    smolagents.ReturnException,
    smolagents.BreakException,
    smolagents.ContinueException,
)
"""How smolagents leaves functions and loops; no exception of the code's."""


def _run(body: Sequence[ast.stmt], *context: Any) -> None:
    for statement in body:
        evaluate(statement, *context)


# Assignments


def assign(target: ast.expr, value: Any, state: Scope, *context: Any) -> None:
    """Assign to a name, an item, an attribute, or several of them.

    In place of smolagents' `set_value`.
    """
    if isinstance(target, ast.Name):
        state[target.id] = value
    elif isinstance(target, ast.Subscript):
        container = evaluate(target.value, state, *context)
        container[evaluate(target.slice, state, *context)] = value
    elif isinstance(target, ast.Attribute):
        check_attribute(target.attr)
        setattr(evaluate(target.value, state, *context), target.attr, value)
    elif isinstance(target, (ast.Tuple, ast.List)):
        _unpack(target.elts, value, state, *context)
    else:
        kind = type(target).__name__
        raise smolagents.InterpreterError(f"Assignment to {kind} is not supported.")


def _unpack(targets: list[ast.expr], value: Any, *context: Any) -> None:
    values = list(value)
    stars = [i for i, t in enumerate(targets) if isinstance(t, ast.Starred)]
    expected = len(targets)
    if stars and len(values) >= expected - 1:
        after = expected - stars[0] - 1
        end = len(values) - after
        values[stars[0] : end] = [values[stars[0] : end]]
    elif stars or len(values) < expected:
        least = "at least " if stars else ""
        raise ValueError(
            f"not enough values to unpack (expected {least}"
            f"{expected - len(stars)}, got {len(values)})"
        )
    elif len(values) > expected:
        raise ValueError(f"too many values to unpack (expected {expected})")
    for target, item in zip(targets, values, strict=True):
        plain = target.value if isinstance(target, ast.Starred) else target
        assign(plain, item, *context)


def _assignment(node: ast.Assign, *context: Any) -> None:
    value = evaluate(node.value, *context)
    for target in node.targets:
        assign(target, value, *context)


_IN_PLACE: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.iadd,
    ast.Sub: operator.isub,
    ast.Mult: operator.imul,
    ast.Div: operator.itruediv,
    ast.Mod: operator.imod,
    ast.Pow: operator.ipow,
    ast.FloorDiv: operator.ifloordiv,
    ast.MatMult: operator.imatmul,
    ast.BitAnd: operator.iand,
    ast.BitOr: operator.ior,
    ast.BitXor: operator.ixor,
    ast.LShift: operator.ilshift,
    ast.RShift: operator.irshift,
}


def _augmented(node: ast.AugAssign, state: Scope, *context: Any) -> None:
    change = _IN_PLACE[type(node.op)]
    target = node.target
    if isinstance(target, ast.Name):
        value = lookup(target.id, state, *context[:2])
        state[target.id] = change(value, evaluate(node.value, state, *context))
        return
    # The container and the key are evaluated once.
    container = evaluate(target.value, state, *context)
    if isinstance(target, ast.Attribute):
        check_attribute(target.attr)
        value = getattr(container, target.attr)
        changed = change(value, evaluate(node.value, state, *context))
        setattr(container, target.attr, changed)
    else:
        key = evaluate(target.slice, state, *context)
        value = container[key]
        container[key] = change(value, evaluate(node.value, state, *context))


# Control flow


def _if(node: ast.If, *context: Any) -> None:
    for statement in node.body if evaluate(node.test, *context) else node.orelse:
        evaluate(statement, *context)


def _turn(body: Sequence[ast.stmt], *context: Any) -> bool:
    """Run a loop's body once; whether the loop goes on."""
    try:
        for statement in body:
            evaluate(statement, *context)
    except smolagents.ContinueException:
        return True
    except smolagents.BreakException:
        return False
    return True


def _for(node: ast.For, state: Scope, *context: Any) -> None:
    name = node.target.id if isinstance(node.target, ast.Name) else None
    for item in evaluate(node.iter, state, *context):
        if name is not None:
            state[name] = item
        else:
            assign(node.target, item, state, *context)
        if not _turn(node.body, state, *context):
            return
    _run(node.orelse, state, *context)


def _while(node: ast.While, *context: Any) -> None:
    while evaluate(node.test, *context):
        if not _turn(node.body, *context):
            return
    _run(node.orelse, *context)


def _return(node: ast.Return, *context: Any) -> None:
    value = node.value and evaluate(node.value, *context)
    raise smolagents.ReturnException(value)


def _break(*_: object) -> None:
    raise smolagents.BreakException


def _continue(*_: object) -> None:
    raise smolagents.ContinueException


def _pass(*_: object) -> None:
    pass


# Exceptions


def _try(node: ast.Try, *context: Any) -> None:
    try:
        try:
            _run(node.body, *context)
        except _CONTROL:
            raise
        except Exception as error:
            if not _handled(error, node.handlers, *context):
                raise
        else:
            _run(node.orelse, *context)
    finally:
        _run(node.finalbody, *context)


def _handled(
    error: Exception, handlers: list[ast.ExceptHandler], state: Scope, *context: Any
) -> bool:
    for handler in handlers:
        kinds: Any = handler.type and evaluate(handler.type, state, *context)
        if kinds is None or isinstance(error, kinds):
            if handler.name is None:
                _run(handler.body, state, *context)
                return True
            state[handler.name] = error
            try:
                _run(handler.body, state, *context)
            finally:
                state.pop(handler.name, None)
            return True
    return False


def _raise(node: ast.Raise, *context: Any) -> None:
    if node.exc is None:
        # Within a handler's body Python itself knows what is being handled.
        raise
    error = evaluate(node.exc, *context)
    if node.cause is None:
        raise error
    raise error from evaluate(node.cause, *context)


# Functions and classes

_OWNER = "__owner__"
"""Attribute of a function that names its class, for `super()`; no code can read it."""


def _function(node: ast.FunctionDef, state: Scope, *context: Any) -> Any:
    made: Any = _make(node, node.name, state, *context)
    for decorator in reversed(node.decorator_list):
        made = evaluate(decorator, state, *context)(made)
    state[node.name] = made
    return made


def _lambda(node: ast.Lambda, *context: Any) -> Any:
    return _make(node, "<lambda>", *context)


def _make(
    node: ast.FunctionDef | ast.Lambda, name: str, state: Scope, *context: Any
) -> Callable[..., Any]:
    """Make a function whose scope starts as a copy of the one that defines it."""
    signature = _signature(node.args, state, *context)
    plain = tuple(signature.parameters) if _is_plain(node.args) else ()
    owner: list[type] = []

    def function(*values: Any, **keywords: Any) -> Any:
        scope = state.copy()
        if not keywords and len(values) == len(plain):
            scope.update(zip(plain, values, strict=True))
        else:
            scope.update(_bound(name, signature, values, keywords))
        if owner and values:
            scope.update({"__class__": owner[0], "__self__": values[0]})
        if isinstance(node, ast.Lambda):
            return evaluate(node.body, scope, *context)
        try:
            _run(node.body, scope, *context)
        except smolagents.ReturnException as done:
            return done.value
        return None

    function.__name__ = function.__qualname__ = name
    vars(function)[_OWNER] = owner
    return function


def _bound(
    name: str, signature: inspect.Signature, values: Sequence[Any], keywords: Scope
) -> dict[str, Any]:
    try:
        bound = signature.bind(*values, **keywords)
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None
    bound.apply_defaults()
    return bound.arguments


def _is_plain(arguments: ast.arguments) -> bool:
    special = (arguments.vararg, arguments.kwarg, arguments.kwonlyargs)
    return not any(special)


def _signature(arguments: ast.arguments, *context: Any) -> inspect.Signature:
    kind = inspect.Parameter
    positional = arguments.posonlyargs + arguments.args
    defaults: list[ast.expr | None] = [None] * len(positional)
    if arguments.defaults:
        defaults[-len(arguments.defaults) :] = arguments.defaults
    made: list[inspect.Parameter] = []

    def add(name: str, kind: Any, default: ast.expr | None) -> None:
        value = evaluate(default, *context) if default else inspect.Parameter.empty
        made.append(inspect.Parameter(name, kind, default=value))

    for index, (one, default) in enumerate(zip(positional, defaults, strict=True)):
        only = index < len(arguments.posonlyargs)
        add(
            one.arg,
            kind.POSITIONAL_ONLY if only else kind.POSITIONAL_OR_KEYWORD,
            default,
        )
    if arguments.vararg:
        add(arguments.vararg.arg, kind.VAR_POSITIONAL, None)
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        add(one.arg, kind.KEYWORD_ONLY, default)
    if arguments.kwarg:
        add(arguments.kwarg.arg, kind.VAR_KEYWORD, None)
    return inspect.Signature(made)


def _class(node: ast.ClassDef, state: Scope, *context: Any) -> Any:
    # smolagents evaluates methods in the scope around the class, which leaves their
    # names behind there.
    methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
    before = {name: state[name] for name in methods if name in state}
    made: Any = smolagents.evaluate_class_def(node, state, *context)
    for name in methods:
        state.pop(name, None)
        method = vars(made).get(name)
        method = getattr(method, "fget", None) or getattr(method, "__func__", method)
        if _OWNER in getattr(method, "__dict__", ()):
            vars(method)[_OWNER].append(made)
    state.update(before)
    for decorator in reversed(node.decorator_list):
        made = evaluate(decorator, state, *context)(made)
    state[node.name] = made
    return made


def _with(node: ast.With, *context: Any) -> None:
    _within(node.items, node.body, *context)


def _within(items: list[ast.withitem], body: list[ast.stmt], *context: Any) -> None:
    if not items:
        _run(body, *context)
        return
    left: BaseException | None = None
    with evaluate(items[0].context_expr, *context) as entered:
        if items[0].optional_vars:
            assign(items[0].optional_vars, entered, *context)
        try:
            _within(items[1:], body, *context)
        except _CONTROL as control:
            # A context manager sees `return` and `break` as a normal end.
            left = control
    if left is not None:
        raise left


def _import(node: ast.Import | ast.ImportFrom, state: Scope, *context: Any) -> None:
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level or node.module is None:
            raise ImportError("attempted relative import with no known parent package")
        for name in names:
            check_attribute(name)
    smolagents.evaluate_import(node, state, context[-1])


_copy_module = smolagents.get_safe_module
_copies: dict[str, ModuleType] = {}


def _safe_module(
    module: Any, authorized_imports: list[str], visited: set[int] | None = None
) -> Any:
    """Copy a module as smolagents does, but only once in a process.

    The copy of `typing` takes 3 ms. A forked worker has those of the process that it
    was forked from.
    """
    if visited is not None or not isinstance(module, ModuleType):
        return _copy_module(module, authorized_imports, visited)
    if module.__name__ not in _copies:
        _copies[module.__name__] = _copy_module(module, authorized_imports)
    return _copies[module.__name__]


HANDLERS.update(
    {
        ast.Assign: _assignment,
        ast.AugAssign: _augmented,
        ast.AnnAssign: smolagents.evaluate_annassign,
        ast.If: _if,
        ast.For: _for,
        ast.While: _while,
        ast.Return: _return,
        ast.Break: _break,
        ast.Continue: _continue,
        ast.Pass: _pass,
        ast.Try: _try,
        ast.Raise: _raise,
        ast.Assert: smolagents.evaluate_assert,
        ast.With: _with,
        ast.Delete: smolagents.evaluate_delete,
        ast.Import: _import,
        ast.ImportFrom: _import,
        ast.FunctionDef: _function,
        ast.Lambda: _lambda,
        ast.ClassDef: _class,
    }
)


def install() -> None:
    """Let smolagents' functions evaluate what they contain with `evaluate`.

    It changes smolagents' module, in a process that does nothing else.
    """
    smolagents.evaluate_ast = evaluate
    smolagents.set_value = assign
    smolagents.get_safe_module = _safe_module
