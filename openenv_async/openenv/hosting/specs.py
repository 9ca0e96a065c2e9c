"""`host`: an environment of OpenEnv's as something that our server serves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from ...environment import (
    AnyEnvironment,
    EnvironmentMetadata,
    EnvironmentSpec,
    Execution,
    Observation,
)
from ..defaults import COMPLETE
from .adapters import AsyncAdapter, BlockingAdapter, Codec
from .conversion import schema_of
from .finding import Hosted, find_hosted

__all__ = ["host"]

_METHODS: Final = frozenset({"reset", "step", "state", "close"})


def host(target: str, **arguments: object) -> EnvironmentSpec:
    """Describe an environment that was written for OpenEnv.

    It runs where it can: on the event loop if it is async, on a thread of its session's
    own if it blocks, and in a process of its session's own if it does not support
    concurrent sessions. The operator may say otherwise.

    Args:
        target: Import path, `module:attribute`, of the environment's class, of the
            application that OpenEnv's `create_app` made of it, or of a function that
            returns either.
        arguments: Keyword arguments for a class or a function.

    Raises:
        LocalProtocolError: Nothing of that kind is there.
    """
    hosted = find_hosted(target, arguments)
    codec = Codec(hosted)
    adapter = AsyncAdapter if hosted.is_async else BlockingAdapter
    execution: Execution = "inline" if hosted.is_async else "thread"
    if not hosted.concurrent:
        execution = "isolated"
    return EnvironmentSpec(
        name=hosted.name,
        factory=_named(functools.partial(adapter, codec), hosted),
        action_type=dict[str, Any],
        observation_type=Observation,
        state_type=dict[str, Any],
        execution=execution,
        metadata=_metadata(hosted, execution),
        async_methods=_METHODS if hosted.is_async else frozenset(),
        affinity="all" if hosted.single_thread else adapter.affinity,
        schemas=_schemas(hosted),
        any_order=True,
        tools=hosted.takes_tools,
        tasks=hosted.factory if hosted.lists_tasks else None,
    )


def _named(
    build: Callable[[], AnyEnvironment], hosted: Hosted
) -> Callable[[], AnyEnvironment]:
    """A factory with the name of OpenEnv's, which its error messages show."""

    def factory() -> AnyEnvironment:
        return build()

    factory.__name__ = str(getattr(hosted.factory, "__name__", hosted.kind.__name__))
    return factory


def _metadata(hosted: Hosted, execution: Execution) -> EnvironmentMetadata:
    own = _own_metadata(hosted)

    def text(key: str) -> str:
        return str(getattr(own, key, None) or "")

    return EnvironmentMetadata(
        name=hosted.name,
        description=text("description") or inspect.cleandoc(hosted.kind.__doc__ or ""),
        version=text("version"),
        author=text("author"),
        readme=text("readme_content"),
        documentation_url=text("documentation_url"),
        execution=execution,
    )


def _own_metadata(hosted: Hosted) -> object:
    """What the environment says of itself, if it can without having been built.

    OpenEnv builds one to ask it, which may start a browser. What it answers is as a
    rule constant, so an instance whose constructor did not run can tell.
    """
    kind = hosted.kind
    inherited = [base for base in kind.__mro__[1:] if "get_metadata" in vars(base)]
    if "get_metadata" not in vars(kind) and len(inherited) <= 1:
        return None  # The default, which knows only the class's name.
    try:
        return kind.get_metadata(object.__new__(kind))  # type: ignore[attr-defined]  # OpenEnv's
    except Exception:  # noqa: BLE001 (it needs what its constructor makes)
        return None


def _schemas(hosted: Hosted) -> dict[str, Any]:
    """The models' schemas, the observation's with the fields of our wire."""
    models = hosted.models
    observation = schema_of(models.observation)
    properties = dict(observation.get("properties", {}))
    properties.pop("done", None)
    properties["reward"] = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    for flag in ("terminated", "truncated"):
        properties[flag] = {"type": "boolean", "default": False}
    required = [name for name in observation.pop("required", ()) if name in properties]
    if required:
        observation["required"] = required
    return {
        "action": schema_of(models.action),
        "observation": {**observation, "properties": properties, COMPLETE: True},
        "state": {**schema_of(models.state), COMPLETE: True},
    }
