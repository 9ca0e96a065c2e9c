"""A policy for CartPole that was written by hand; `make demo` plays with it.

    openenv-async rollout 'gymnasium_env?id=CartPole-v1' --out runs/cartpole \
        --policy examples.cartpole_policy:Balance --tasks 256 --concurrency 256
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from openenv_async import Array

__all__ = ["Balance"]

_LEFT, _RIGHT = {"action": 0}, {"action": 1}


class Balance:
    """Pushes the cart to where the pole falls, but not always.

    Without noise every episode would last until its time is up. It comes from what is
    seen, so that the same seeds give the same episodes, whatever the timing.
    """

    weights = np.array([0.1, 0.3, 1.5, 1.0])
    """For position, velocity, angle and angular velocity."""

    async def act_batch(
        self, observations: Sequence[Mapping[str, object]]
    ) -> list[dict[str, int]]:
        """Choose an action for each observation."""
        rows = [seen["observation"] for seen in observations]
        data = b"".join(row.data for row in rows if isinstance(row, Array))
        states = np.frombuffer(data, np.float32).reshape(len(rows), 4)
        noise = 0.7 * np.sin(1e5 * states[:, 2])
        return [_RIGHT if push else _LEFT for push in states @ self.weights + noise > 0]
