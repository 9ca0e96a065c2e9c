"""Learn CartPole while playing it: `python -m examples.learn_cartpole`, from the root.

An asynchronous PPO on PyTorch. The collector plays on a server of its own; whenever
enough episodes have ended, a thread learns from them while the collector goes on, and
the policy that acts takes over the new weights. Then the same learner runs in the usual
loop over Gymnasium's `AsyncVectorEnv`, for comparison. Under runs/ remain every update
as a line of JSON, the weights, and the learning curves as a picture. Exits with 1 where
the goal was not reached.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import anyio
import msgspec
import torch

from examples.learning import asynchronous, lockstep, tailed
from examples.learning.chart import draw
from examples.learning.journal import Journal
from examples.learning.ppo import Learner, Settings
from gymnasium_env import GymnasiumEnv
from openenv_async import LocalProvider, OpenEnvError

__all__: list[str] = []

PLAIN = "CartPole-v1"
TAILED = "TailedCartPole-v1"
EVALUATED = 32
"""Episodes that the learned policy plays in the end."""


async def learn(
    learner: Learner, journal: Journal, chosen: argparse.Namespace
) -> list[float | None]:
    """Learn, and return what the learned policy gets in episodes that are new."""
    if chosen.tailed:
        target = f"gymnasium_env?id={TAILED}&module={tailed.__name__}"
        provider = LocalProvider(target, execution="thread")
    else:
        provider = LocalProvider(f"gymnasium_env?id={PLAIN}", execution="inline")
    async with GymnasiumEnv.batch(provider=provider, size=chosen.envs) as envs:
        with anyio.move_on_after(chosen.seconds):
            await asynchronous.learn(
                envs, learner, journal, seed=chosen.seed, episodes=chosen.episodes
            )
        return await asynchronous.evaluate(
            envs, learner.make_actor(), episodes=EVALUATED, seed=chosen.seed
        )


def compare(learner: Learner, journal: Journal, chosen: argparse.Namespace) -> None:
    """Learn the same in the usual loop."""
    with journal:
        lockstep.learn(
            learner,
            journal,
            id=TAILED if chosen.tailed else PLAIN,
            size=chosen.envs,
            seed=chosen.seed,
            seconds=chosen.seconds,
        )


# What came out


def summary(journal: Journal) -> str:
    """Say in a few lines how a run went."""
    if not journal.rows:
        return f"{journal.name}: no update, {journal.episodes} episodes"
    row = journal.rows[-1]
    workload = row.workload
    end = "reached" if journal.reached else "NOT reached"
    lag = max(one.update.lag_max for one in journal.rows)
    stale = sum(one.update.stale for one in journal.rows)
    first = math.nan if journal.first_return is None else journal.first_return
    return f"""{journal.name}:
  goal              {end}: return {first:.0f} -> {row.mean_return:.0f}
  took              {workload.seconds:.1f} s, {row.steps:,} steps, {row.episodes:,} \
episodes, {row.update.version} updates
  speed             {row.steps / workload.seconds:,.0f} steps/s
  policy called     {workload.policy_busy:.1%} of the time
  model computing   {workload.model_busy:.1%} of the time
  learner training  {workload.training:.1%} of the time, in which \
{workload.overlapped:.1%} of the steps came in
  policy lag        {lag} updates at most, {stale} steps left out as too old
  masked episodes   {row.masked}"""


def evaluation(returns: Sequence[float | None]) -> str:
    """Say what the learned policy gets."""
    known = [returned for returned in returns if returned is not None]
    mean = sum(known) / max(1, len(known))
    failed = len(returns) - len(known)
    return (
        f"learned policy, greedy, {len(known)} new episodes: mean {mean:.0f}, "
        f"least {min(known, default=math.nan):.0f}, {failed} failed"
    )


# The run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--envs", type=int, default=32, help="environments at a time")
    parser.add_argument("--seconds", type=float, default=180.0, help="for each loop")
    parser.add_argument("--episodes", type=int, help="bound of the asynchronous loop")
    parser.add_argument("--goal", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--baseline",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to run Gymnasium's AsyncVectorEnv, too",
    )
    parser.add_argument(
        "--tailed",
        action="store_true",
        help=f"let a step take {tailed.MEDIAN_MS:g} ms in the median, and "
        f"{tailed.P99_MS:g} ms in one case of a hundred",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Learn, compare, and tell what came out."""
    chosen = _parser().parse_args(argv)
    # Two cores have better things to do than to share products of small matrices.
    torch.set_num_threads(1)
    folder: Path = chosen.runs / f"learn-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    settings = Settings()
    (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
    journals = [
        Journal("openenv_async", folder / "async.jsonl", goal=chosen.goal),
        Journal("AsyncVectorEnv", folder / "lockstep.jsonl", goal=chosen.goal),
    ][: 1 + chosen.baseline]
    learner = Learner(settings, chosen.seed)
    try:
        with journals[0] as journal:
            print(evaluation(asyncio.run(learn(learner, journal, chosen))))
        torch.save(learner.model.state_dict(), folder / "policy.pt")
        for journal in journals[1:]:
            compare(Learner(settings, chosen.seed), journal, chosen)
    except (KeyboardInterrupt, OpenEnvError) as error:
        print(f"stopped early: {str(error) or 'interrupted'}", file=sys.stderr)
    for journal in journals:
        print(summary(journal))
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    environment = TAILED if chosen.tailed else PLAIN
    picture = draw(journals, folder / "curves.png", environment=environment)
    print(f"picture: {picture}")
    return 0 if journals[0].reached else 1


if __name__ == "__main__":
    sys.exit(main())
