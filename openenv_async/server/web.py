"""`create_web_interface_app`: `create_app` with the debug pane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette

from ..environment import EnvironmentSpec
from ..errors import LocalProtocolError
from .app import EnvironmentLike, create_app

__all__ = ["create_web_interface_app"]


def create_web_interface_app(
    environments: EnvironmentLike
    | Sequence[EnvironmentLike]
    | Mapping[str, EnvironmentLike],
    action_cls: type | None = None,
    observation_cls: type | None = None,
    *,
    env_name: str | None = None,
    max_concurrent_envs: int | None = None,
    **options: Any,
) -> Starlette:
    """Build the application that serves environments, with the debug pane at `/web/`.

    OpenEnv's arguments are accepted for an environment of this package, so that a
    server which was written for OpenEnv keeps its last line.

    Args:
        environments: What `create_app` takes.
        action_cls: The class of its actions; checked, because the environment says so.
        observation_cls: The class of its observations; likewise.
        env_name: Name to serve a single environment under.
        max_concurrent_envs: Sessions at a time, as `max_sessions`.
        options: Those of `create_app`.

    Raises:
        LocalProtocolError: An environment cannot be found or described, or is not of
            this package, or has other actions or observations.
        TypeError: `create_app` has no such option.
    """
    given = {"action_cls": action_cls, "observation_cls": observation_cls}
    if env_name is not None or any(given.values()):
        environments = _spec_of(environments, given, env_name)
    if max_concurrent_envs is not None:
        options.setdefault("max_sessions", max_concurrent_envs)
    options["web"] = True
    return create_app(environments, **options)


def _spec_of(
    environment: object, given: Mapping[str, type | None], name: str | None
) -> EnvironmentSpec:
    """One environment, whose actions and observations are of these classes."""
    if not isinstance(environment, EnvironmentSpec):
        if not (
            isinstance(environment, type)
            and all(hasattr(environment, method) for method in ("reset", "step"))
        ):
            raise LocalProtocolError(
                "expected one Environment class with action_cls, observation_cls and "
                f"env_name, got {environment!r}"
            )
        try:
            environment = EnvironmentSpec.of(environment, name=name)
        except LocalProtocolError as error:
            raise LocalProtocolError(
                f"{error}; an environment of OpenEnv's is served as it is, by "
                "`openenv-async serve openenv:package.server.app:app --web`"
            ) from error
    types = {
        "action_cls": environment.action_type,
        "observation_cls": environment.observation_type,
    }
    for argument, found in given.items():
        if found is not None and found is not types[argument]:
            raise LocalProtocolError(
                f"expected {argument} {types[argument]!r} for {environment.name!r}, "
                f"got {found!r}"
            )
    return environment if name is None else environment.with_name(name)
