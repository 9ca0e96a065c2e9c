"""JSON Schema of an environment's types."""

from __future__ import annotations

from typing import Any

import msgspec

from ..environment import EnvironmentSpec

__all__ = ["environment_schema"]


def environment_schema(spec: EnvironmentSpec) -> dict[str, Any]:
    """The schemas of action, observation and state, each complete in itself.

    Raises:
        TypeError: A type has no JSON Schema.
    """
    if spec.schemas is not None:
        return dict(spec.schemas)
    return {
        "action": msgspec.json.schema(spec.action_type),
        "observation": msgspec.json.schema(spec.observation_type),
        "state": msgspec.json.schema(spec.state_type),
    }
