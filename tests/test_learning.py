"""The example that learns: its algorithm, and that it really learns."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from gymnasium_env import GymnasiumEnv
from gymnasium_env.server.environment import gymnasium_environment
from openenv_async import EnvironmentSpec
from openenv_async.rollout import Episode, collect, to_batch
from tests.serving import serving
from tests.sources import ROOT

pytestmark = pytest.mark.torch

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch; imported late, because a machine without it skips these tests."""
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def ppo(torch: Any) -> Any:
    """The algorithm."""
    torch.set_num_threads(1)
    return importlib.import_module("examples.learning.ppo")


@pytest.fixture(scope="module")
def asynchronous(ppo: Any) -> Any:
    """The loop that collects."""
    return importlib.import_module("examples.learning.asynchronous")


def _data(ppo: Any, *, length: int = 40, seed: int = 0) -> Any:
    """Steps of three trajectories; the first one terminates, the others are cut."""
    random = np.random.default_rng(seed)
    last = np.zeros(length, bool)
    last[[length // 4, length // 2, length - 1]] = True
    terminated = np.zeros(length, bool)
    terminated[length // 4] = True
    return ppo.Transitions(
        observations=random.normal(size=(length, 4)).astype(np.float32),
        actions=random.integers(0, 2, length),
        logprobs=np.log(random.uniform(0.2, 0.8, length)).astype(np.float32),
        rewards=random.normal(size=length).astype(np.float32),
        next_observations=random.normal(size=(length, 4)).astype(np.float32),
        terminated=terminated,
        last=last,
        versions=np.zeros(length, np.int64),
    )


# Advantages


def _targets(ppo: Any, data: Any, logprobs: Any) -> Any:
    random = np.random.default_rng(1)
    values, following = random.normal(size=(2, len(data.actions))).astype(np.float32)
    found = ppo.targets(
        data,
        values=values,
        next_values=following,
        logprobs=logprobs,
        settings=ppo.Settings(discount=0.9, trace=0.8),
    )
    errors = data.rewards + 0.9 * following * ~data.terminated - values
    return *found, values, errors


def test_targets_are_generalised_advantages_on_policy(ppo: Any) -> None:
    """Where the policies are the same, the sum of the textbook comes out."""
    data = _data(ppo)
    advantages, true_values, values, errors = _targets(ppo, data, data.logprobs)
    ends = np.flatnonzero(data.last)
    for row, advantage in enumerate(advantages):
        end = ends[ends >= row][0]
        decays = (0.9 * 0.8) ** np.arange(end - row + 1)
        assert advantage == pytest.approx(decays @ errors[row : end + 1], abs=1e-5)
    np.testing.assert_allclose(true_values, values + advantages, atol=1e-5)


def test_targets_do_not_credit_what_the_policy_would_not_do(ppo: Any) -> None:
    """Actions that became impossible say nothing about those before them."""
    data = _data(ppo)
    advantages, true_values, values, errors = _targets(ppo, data, data.logprobs - 100)
    np.testing.assert_allclose(advantages, errors, atol=1e-5)
    np.testing.assert_allclose(true_values, values, atol=1e-5)


def test_targets_truncate_importance_weights(ppo: Any) -> None:
    """Actions that became likelier count once, not many times."""
    data = _data(ppo)
    likelier, *_ = _targets(ppo, data, data.logprobs + 100)
    same, *_ = _targets(ppo, data, data.logprobs)
    np.testing.assert_array_equal(likelier, same)


# Gradients


def test_surrogate_has_the_policy_gradient(torch: Any, ppo: Any) -> None:
    """Where the policies are the same, its gradient is that of REINFORCE."""
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    advantages = torch.randn(50, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    logprobs = torch.log_softmax(logits, -1)[:, 0]
    objective, weights = ppo.surrogate(logprobs, logprobs.detach(), advantages, 0.2)
    (found,) = torch.autograd.grad(objective, logits, retain_graph=True)
    (expected,) = torch.autograd.grad((advantages * logprobs).mean(), logits)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0
    torch.testing.assert_close(weights.detach(), torch.ones(50))


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.5, -1.0)])
def test_surrogate_stops_outside_of_the_clip(
    torch: Any, ppo: Any, ratio: float, advantage: float
) -> None:
    """A probability that has changed enough has no gradient; the way back has one."""
    acted = torch.zeros(1)
    logprobs = torch.tensor([ratio]).log().requires_grad_()
    for sign, expected in ((1, 0.0), (-1, -advantage * ratio)):
        objective, _ = ppo.surrogate(
            logprobs, acted, torch.tensor([sign * advantage]), 0.2
        )
        (gradient,) = torch.autograd.grad(objective, logprobs)
        assert gradient.item() == pytest.approx(expected)


# Updates


def test_learner_prefers_what_was_rewarded(torch: Any, ppo: Any) -> None:
    """Updates raise the probability of the action that pays, and the critic's value."""
    learner = ppo.Learner(ppo.Settings(minibatch=64, max_lag=100), seed=0)
    data = _data(ppo, length=256)
    paid = (data.actions == 1).astype(np.float32)
    data = data._replace(
        rewards=paid,
        logprobs=np.full(256, np.log(0.5), np.float32),
        terminated=np.ones(256, bool),
        last=np.ones(256, bool),
    )
    seen = torch.from_numpy(data.observations)
    for _ in range(8):
        learner.update(data)
    with torch.no_grad():
        logits, values = learner.model(seen)
    assert torch.softmax(logits, -1)[:, 1].mean() > 0.6
    assert abs(values.mean().item() - 0.5) < 0.2


def test_learner_repeats_itself_with_the_same_seed(torch: Any, ppo: Any) -> None:
    """Seed and data decide the weights, and another seed gives others."""
    weights = []
    for seed in (3, 3, 4):
        learner = ppo.Learner(ppo.Settings(minibatch=16), seed=seed)
        learner.update(_data(ppo))
        weights.append(torch.nn.utils.parameters_to_vector(learner.model.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_learner_leaves_out_what_is_too_old(ppo: Any) -> None:
    """Steps beyond the bound of the lag are counted, not learned from."""
    learner = ppo.Learner(ppo.Settings(max_lag=2), seed=0)
    learner.model.version = 5
    versions = np.array([1] * 10 + [3] * 20 + [5] * 10)
    update = learner.update(_data(ppo)._replace(versions=versions))
    assert (update.steps, update.stale, update.lag_max) == (30, 10, 2)
    assert update.lag_mean == pytest.approx(4 / 3)
    assert update.version == learner.model.version == 6
    with pytest.raises(ValueError, match="expected a step of the last 2 policies"):
        learner.update(_data(ppo))


# Episodes


class Fragile(CartPoleEnv):
    """Breaks in its fifth step when its seed is odd."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Begin."""
        self._left = 5 if seed is not None and seed % 2 else 10**6
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Go on, or break."""
        self._left -= 1
        if not self._left:
            raise RuntimeError("the pole broke")
        return super().step(action)  # type: ignore[no-untyped-call]  # Gymnasium's


def _make_fragile(**arguments: Any) -> Fragile:
    return Fragile(**arguments)


gymnasium.register(id="Fragile-v0", entry_point=_make_fragile, max_episode_steps=500)


@pytest.fixture(scope="module")
def fragile() -> EnvironmentSpec:
    """The same, served."""
    return gymnasium_environment("Fragile-v0")


async def test_failed_episodes_teach_nothing(
    ppo: Any, asynchronous: Any, fragile: EnvironmentSpec
) -> None:
    """What broke is masked, and steps carry the version of the policy that acted."""
    learner = ppo.Learner(ppo.Settings(), seed=0)
    actor = asynchronous.Actor(learner.make_actor())
    async with (
        serving(fragile) as server,
        GymnasiumEnv.batch(server.url, size=4) as envs,
    ):
        for version in (0, 1):
            episodes: list[Episode[Any, Any]] = [
                episode async for episode in collect(envs, actor.policy, 16)
            ]
            batch = to_batch(episodes)
            good = [episode for episode in episodes if not episode.failed]
            assert 0 < batch.masked_count == len(episodes) - len(good) < 16
            data = asynchronous.transitions_of(batch)
            assert len(data.actions) == sum(episode.length for episode in good)
            assert data.last.sum() == data.terminated.sum() == len(good)
            assert set(data.versions) == {version}
            np.testing.assert_array_equal(data.rewards, 1.0)
            following = ~data.last
            np.testing.assert_array_equal(
                data.next_observations[following],
                data.observations[1:][following[:-1]],
            )
            update = learner.update(data)
            assert (update.steps, update.lag_max) == (len(data.actions), 0)
            actor.follow(learner.model)


# The example


def _run(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "examples.learn_cartpole"]
    done = subprocess.run(
        [*command, "--runs", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(140)
def test_example_learns(tmp_path: Path) -> None:
    """Both loops get much better than chance, and leave what they learned behind."""
    code, output = _run(tmp_path, "--goal", "60", "--envs", "16", "--seconds", "40")
    assert code == 0, output
    assert "goal              reached: return 2" in output
    assert "policy called" in output
    for name in ("async", "lockstep"):
        (path,) = tmp_path.glob(f"learn-*/{name}.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[0]["mean_return"] < 40 < 60 < rows[-1]["mean_return"]
        assert all(row["update"]["lag_max"] <= 8 for row in rows)
        assert all(row["masked"] == 0 for row in rows)
        overlapped = rows[-1]["workload"]["overlapped"]
        assert overlapped > 0 if name == "async" else overlapped == 0
    assert next(tmp_path.glob("learn-*/policy.pt")).stat().st_size > 10_000
    assert next(tmp_path.glob("learn-*/curves.png")).read_bytes().startswith(PNG)


@pytest.mark.timeout(60)
def test_example_says_when_it_failed(tmp_path: Path) -> None:
    """A bound that is too low for the goal gives the exit code 1."""
    code, output = _run(tmp_path, "--no-baseline", "--episodes", "20", "--envs", "4")
    assert code == 1
    assert "openenv_async: no update, 20 episodes" in output
    assert next(tmp_path.glob("learn-*/curves.png")).read_bytes().startswith(PNG)
