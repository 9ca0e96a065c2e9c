"""Gymnasium's own `AsyncVectorEnv`: a process per environment, pipes in between.

Run by the harness as a worker: `python -m benchmarks.gymnasium_vector`.
"""

from __future__ import annotations

import asyncio

import gymnasium
import numpy as np

from benchmarks.meter import Job, Metrics, measure
from benchmarks.worker import serve_jobs

__all__ = ["run"]


async def run(job: Job) -> Metrics:
    """Step CartPole with a batch of fixed actions."""
    environments = gymnasium.make_vec(
        "CartPole-v1", num_envs=job.case.sessions, vectorization_mode="async"
    )
    try:
        environments.reset(seed=0)
        actions = np.arange(job.case.sessions) % 2

        async def step() -> None:
            environments.step(actions)
            # `step` blocks; without this the meter's clock would never be read.
            await asyncio.sleep(0)

        return await measure(job, [step], steps_per_sample=job.case.sessions)
    finally:
        environments.close()


if __name__ == "__main__":
    serve_jobs(run)
