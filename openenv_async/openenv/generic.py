"""OpenEnv's client for any environment, in plain dicts."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from .client import EnvClient
from .results import StepResult

__all__ = ["GenericAction", "GenericEnvClient"]


class GenericAction(dict[str, Any]):
    """An action made of keyword arguments: `GenericAction(code="1 + 1")`."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(fields)

    def __repr__(self) -> str:
        return f"GenericAction({', '.join(f'{k}={v!r}' for k, v in self.items())})"


class GenericEnvClient(EnvClient[Any, dict[str, Any], dict[str, Any]]):
    """A client without types: dicts in, dicts out.

    Actions may also be pydantic models, structs, or objects with attributes.
    """

    def _step_payload(self, action: Any) -> dict[str, Any]:
        if isinstance(action, dict):
            return cast(dict[str, Any], action)
        if hasattr(action, "model_dump"):
            return cast(dict[str, Any], action.model_dump())
        if isinstance(action, msgspec.Struct):
            return msgspec.structs.asdict(action)
        if hasattr(action, "__dict__"):
            return dict(vars(action))  # pyright: ignore[reportUnknownArgumentType]  # of any type
        return dict(action)  # pyright: ignore[reportUnknownArgumentType]  # of any type

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult(
            observation=payload.get("observation", {}),
            reward=payload.get("reward"),
            done=payload.get("done", False),
            metadata=payload.get("metadata"),
        )

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload
