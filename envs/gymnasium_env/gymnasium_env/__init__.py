"""Any Gymnasium environment, with types that fit every one of them."""

from .client import GymnasiumEnv
from .models import (
    DictValue,
    GymnasiumAction,
    GymnasiumObservation,
    GymnasiumState,
    Value,
    from_numpy,
    to_numpy,
)

__all__ = [
    "DictValue",
    "GymnasiumAction",
    "GymnasiumEnv",
    "GymnasiumObservation",
    "GymnasiumState",
    "Value",
    "from_numpy",
    "to_numpy",
]
