"""What an environment of OpenEnv's is made of: its factory, its models, its habits.

Found from a class, from an application that OpenEnv's `create_app` made, or from a
function that returns one of these or an environment. All by shape, because
`openenv.core` takes seconds to import and its module paths changed between versions.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from pydantic import BaseModel

from ...environment import name_of_class, type_arguments
from ...errors import LocalProtocolError
from .warmth import import_openenv

__all__ = ["Hosted", "Models", "find_hosted"]

_TASKS: Final = ("list_splits", "list_tasks", "num_tasks", "get_task", "get_task_range")
"""OpenEnv's task discovery; any of them makes an environment a provider of tasks."""
_MCP_MODELS: Final = ("Action", "CallToolAction", "ListToolsAction")
"""Action classes of OpenEnv's for which it also accepts calls of tools."""


@dataclasses.dataclass(frozen=True)
class Models:
    """The pydantic models that an environment speaks."""

    action: type[BaseModel]
    observation: type[BaseModel]
    state: type[BaseModel] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosted:
    """One environment of OpenEnv's, and what a host must know of it."""

    name: str
    factory: Callable[[], Any]
    kind: type
    """The environment's class."""
    models: Models
    concurrent: bool
    """Whether several sessions may live in one process."""
    single_thread: bool
    """Whether all sessions have to be on one thread."""
    reset_async: str
    """Name of the coroutine method that resets; empty where a blocking one does."""
    step_async: str
    holds_session: bool
    """Whether an MCP session has to be held open for as long as the environment is."""
    lists_tasks: bool

    @property
    def is_async(self) -> bool:
        """Whether anything of it has to be on the event loop."""
        return bool(self.reset_async or self.step_async or self.holds_session)

    @property
    def takes_tools(self) -> bool:
        """Whether calls of tools are among its actions."""
        action = self.models.action
        return action.__name__ in _MCP_MODELS and _is_openenv(action)

    def build_action(self) -> Callable[[dict[str, Any]], BaseModel]:
        """What turns an action's fields into its model, as OpenEnv does."""
        action = self.models.action
        if self.takes_tools:
            serialization = _sibling(self.kind, "serialization")
            build = cast(
                Callable[[dict[str, Any], type], BaseModel],
                serialization.deserialize_action,
            )
            return lambda fields: build(fields, action)
        plain = getattr(BaseModel.model_validate, "__func__", None)
        if getattr(action.model_validate, "__func__", None) is not plain:
            return action.model_validate
        # What `model_validate` does, without its many arguments.
        return cast(
            Callable[[dict[str, Any]], BaseModel],
            action.__pydantic_validator__.validate_python,
        )


def find_hosted(target: str, arguments: Mapping[str, object]) -> Hosted:
    """Find an environment of OpenEnv's by import path.

    Args:
        target: `module:attribute`.
        arguments: Keyword arguments for a class or a function; applications take none.

    Raises:
        LocalProtocolError: Nothing is there, or nothing that OpenEnv would serve.
    """
    found = _import(target)
    server = _server_of(found)
    if server is None and _is_environment_class(found):
        return _of_class(cast(type, found), arguments)
    if server is None and callable(found) and not isinstance(found, type):
        found = _call(found, arguments, target)
        server = _server_of(found)
        if server is None and _is_environment_class(found):
            return _of_class(cast(type, found), {})
        if server is None and _is_environment_class(type(found)):
            return _of_function(target, found, arguments)
        arguments = {}
    if server is None:
        raise LocalProtocolError(
            f"expected an environment or an application of OpenEnv's at {target!r}, "
            f"got {found!r}"
        )
    if arguments:
        raise LocalProtocolError(
            f"expected no arguments for the application {target!r}, "
            f"got {sorted(arguments)!r}"
        )
    return _of_server(server)


def _import(target: str) -> object:
    path, _, attribute = target.partition(":")
    import_openenv()
    try:
        found: object = importlib.import_module(path)
    except ImportError as error:
        raise LocalProtocolError(
            f"expected an importable module, got {path!r}: {error}"
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise LocalProtocolError(
            f"expected {attribute!r} in {path!r}, got nothing of that name"
        )
    return found


def _call(
    factory: Callable[..., object], arguments: Mapping[str, object], target: str
) -> object:
    try:
        inspect.signature(factory).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(
            f"expected arguments that fit {target!r}: {error}"
        ) from error
    return factory(**arguments)


# By shape


def _is_openenv(kind: type) -> bool:
    """Whether a class is one of OpenEnv's own."""
    return "env_server" in kind.__module__


def _base(kind: type) -> type | None:
    """OpenEnv's `Environment` among a class's bases."""
    for base in kind.__mro__:
        if base.__name__ == "Environment" and _is_openenv(base):
            return base
    return None


def _is_environment_class(found: object) -> bool:
    return isinstance(found, type) and _base(found) is not None


def _sibling(kind: type, name: str) -> Any:
    """A module beside the one of OpenEnv's `Environment`."""
    base = _base(kind)
    assert base is not None
    return importlib.import_module(f"{base.__module__.rpartition('.')[0]}.{name}")


def _server_of(application: object) -> Any:
    """The server object behind an application that OpenEnv's `create_app` made.

    It keeps no reference to it, but its routes do.
    """
    for route in cast(list[object], getattr(application, "routes", None) or ()):
        for value in _enclosed(getattr(route, "endpoint", None)):
            if hasattr(value, "_env_factory") and hasattr(value, "action_cls"):
                return value
    return None


def _enclosed(function: object) -> Iterator[object]:
    """What a function sees of the function that made it."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # still empty
            continue


# The kinds


def _of_class(kind: type, arguments: Mapping[str, object]) -> Hosted:
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
        raise LocalProtocolError(
            f"expected an environment with all methods, got {kind.__qualname__!r} "
            f"without {missing}"
        )
    if arguments:
        _check(kind, arguments)
    factory = functools.partial(kind, **arguments) if arguments else kind
    return _described(name_of_class(kind), factory, kind, _models_of(kind))


def _check(kind: type, arguments: Mapping[str, object]) -> None:
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise LocalProtocolError(
            f"expected arguments that fit {kind.__qualname__!r}: {error}"
        ) from error


def _of_function(
    target: str, instance: object, arguments: Mapping[str, object]
) -> Hosted:
    kind = type(instance)
    _discard(instance)
    factory = cast(Callable[..., object], _import(target))
    if arguments:
        factory = functools.partial(factory, **arguments)
    return _described(name_of_class(kind), factory, kind, _models_of(kind))


def _of_server(server: Any) -> Hosted:
    factory: Any = server._env_factory  # noqa: SLF001 (OpenEnv has no other name for it)
    made: Any = getattr(factory, "func", factory)
    if not isinstance(made, type):
        # Only an instance tells its class, and with it how it wants to be hosted.
        instance: object = factory()
        made = type(instance)
        _discard(instance)
    models = Models(
        server.action_cls, server.observation_cls, getattr(server, "state_cls", None)
    )
    if models.state is not None and _is_openenv(models.state):
        models = dataclasses.replace(models, state=_state_of(made) or models.state)
    name = getattr(server, "env_name", None)
    if not name or name == made.__name__:
        name = name_of_class(made)
    return _described(str(name), factory, made, models)


def _discard(instance: Any) -> None:
    """Close an environment that was built to look at it."""
    close = getattr(instance, "close", None)
    if callable(close):
        close()


def _described(
    name: str, factory: Callable[[], Any], kind: type, models: Models
) -> Hosted:
    base = _base(kind)
    if base is None:
        raise LocalProtocolError(
            f"expected a subclass of OpenEnv's Environment, got {kind.__qualname__!r}"
        )
    return Hosted(
        name=name,
        factory=factory,
        kind=kind,
        models=models,
        concurrent=bool(getattr(kind, "SUPPORTS_CONCURRENT_SESSIONS", False)),
        single_thread=bool(getattr(kind, "REQUIRES_SINGLE_THREAD_EXECUTOR", False)),
        reset_async=_coroutine_method(kind, base, "reset"),
        step_async=_coroutine_method(kind, base, "step"),
        holds_session=callable(getattr(kind, "mcp_session", None)),
        lists_tasks=any(callable(getattr(kind, method, None)) for method in _TASKS),
    )


def _coroutine_method(kind: type, base: type, method: str) -> str:
    """The method to await instead of calling the plain one, if there is one."""
    name = f"{method}_async"
    own = getattr(kind, name, None)
    if own is not None and own is not getattr(base, name, None):
        return name
    return method if inspect.iscoroutinefunction(getattr(kind, method, None)) else ""


# Models


def _models_of(kind: type) -> Models:
    base = _base(kind)
    assert base is not None
    if callable(getattr(kind, "mcp_session", None)):
        mcp = _sibling(kind, "mcp_types")
        return Models(mcp.CallToolAction, mcp.CallToolObservation, _state_of(kind))
    action, observation = _given(kind, base)[:2]
    hints = _hints(getattr(kind, "step", None))
    if not hints:
        hints = _hints(getattr(kind, "step_async", None))
    parameters = [hint for name, hint in hints.items() if name != "return"]
    if not _is_model(action) and parameters:
        action = parameters[0]
    if not _is_model(observation):
        observation = hints.get("return")
    if not (_is_model(action) and _is_model(observation)):
        raise LocalProtocolError(
            f"expected the pydantic models of {kind.__qualname__!r} as arguments of "
            "Environment or as annotations of step, got none: name the application "
            "that create_app made instead"
        )
    return Models(
        cast(type[BaseModel], action),
        cast(type[BaseModel], observation),
        _state_of(kind),
    )


def _given(kind: type, base: type) -> tuple[object, ...]:
    """The models that a class, or the nearest of its bases, gives to `Environment`."""
    for each in kind.__mro__:
        found = type_arguments(each, base)
        if found is not None:
            return found
    return (None, None, None)


def _state_of(kind: type) -> type[BaseModel] | None:
    base = _base(kind)
    given = None if base is None else _given(kind, base)[2]
    if not _is_model(given):
        state = inspect.getattr_static(kind, "state", None)
        given = _hints(getattr(state, "fget", None)).get("return")
    return cast(type[BaseModel], given) if _is_model(given) else None


def _is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


def _hints(function: object) -> dict[str, object]:
    """A function's annotations, as far as they can be resolved."""
    if function is None:
        return {}
    scope = vars(sys.modules[getattr(function, "__module__", __name__)])
    try:
        return dict(typing.get_type_hints(function, scope))
    except Exception:  # noqa: BLE001 (annotations are any code; some name what is not there)
        return {}
