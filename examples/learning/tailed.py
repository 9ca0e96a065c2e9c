"""CartPole that takes its time: most steps are quick, a few take very long.

So behave browsers, compilers and whatever else a real environment waits for. Serve it
with `gymnasium_env?id=TailedCartPole-v1&module=examples.learning.tailed`.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

__all__ = ["MEDIAN_MS", "P99_MS", "Tailed", "tailed_cart_pole"]

MEDIAN_MS: Final = 1.0
P99_MS: Final = 50.0
_P99: Final = 2.3263
"""Standard deviations above the mean of a normal distribution."""


class Tailed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sleeps before each step, for times of a log-normal distribution.

    Args:
        env: What to slow down.
        median_ms: Half of the steps take longer, in milliseconds.
        p99_ms: One of a hundred steps takes longer.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], *, median_ms: float, p99_ms: float
    ) -> None:
        super().__init__(env)
        self._median = median_ms / 1e3
        self._sigma = math.log(p99_ms / median_ms) / _P99
        self._delays = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, at once."""
        if seed is not None:
            # Of its own: the environment's random numbers stay what they are.
            self._delays = np.random.default_rng(seed)
        return super().reset(seed=seed, options=options)

    def step(
        self, action: Any
    ) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Perform an action, some time later."""
        time.sleep(self._median * math.exp(self._sigma * self._delays.normal()))
        return super().step(action)


def tailed_cart_pole(
    *, median_ms: float = MEDIAN_MS, p99_ms: float = P99_MS, **arguments: Any
) -> gymnasium.Env[Any, Any]:
    """Make CartPole, slow.

    Args:
        median_ms: As for `Tailed`.
        p99_ms: As for `Tailed`.
        arguments: CartPole's own.
    """
    return Tailed(CartPoleEnv(**arguments), median_ms=median_ms, p99_ms=p99_ms)


gymnasium.register(
    id="TailedCartPole-v1", entry_point=tailed_cart_pole, max_episode_steps=500
)
