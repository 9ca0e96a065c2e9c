"""A PyTorch module as a policy."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from openenv_async import Array
from openenv_async.rollout import EpisodeContext, Task
from openenv_async.rollout.adapters import Categorical, TorchPolicy
from tests.environments import Command, Report
from tests.rollout.players import ScriptedEpisode, collected, tasks_of
from tests.serving import serving

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


Tensor = Any  # untyped for mypy, which does without PyTorch


def _context(seed: int = 0) -> EpisodeContext:
    return EpisodeContext(Task(id="t"), id="t/0", seed=0, policy_seed=seed)


def _encode(observations: Sequence[Report]) -> Tensor:
    return torch.tensor([[float(observation.count)] for observation in observations])


def _text(number: int) -> Command:
    return Command(text=str(number))


class _Net(torch.nn.Module):  # type: ignore[misc,name-defined]  # untyped for mypy
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.policy = torch.nn.Linear(1, 4)
        self.value = torch.nn.Linear(1, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(features), self.value(features)


@pytest.mark.parametrize("threaded", [True, False])
async def test_a_module_plays(threaded: bool) -> None:
    """In batches, with log-probabilities and values, the same in every run."""
    net = _Net()
    runs: list[list[tuple[str, list[str]]]] = []
    episodes: list[ScriptedEpisode] = []
    async with serving() as server:
        for size in (1, 6):
            policy: TorchPolicy[Report, Command] = TorchPolicy(
                net, encode=_encode, decode=Categorical(_text), threaded=threaded
            )
            episodes = await collected(server, policy, tasks_of(6, length=5), size=size)
            for episode in episodes:
                for step in episode.steps:
                    assert step.action.text == str(step.extras["choice"])
                    assert isinstance(step.extras["value"], float)
            runs.append(
                sorted(
                    (episode.id, [step.action.text for step in episode.steps])
                    for episode in episodes
                )
            )
    assert runs[0] == runs[1]
    assert len({text for _, texts in runs[0] for text in texts}) > 1
    first = episodes[0].steps[0]
    logits = net(torch.tensor([[0.0]]))[0].detach()
    expected = torch.log_softmax(logits.double(), dim=-1)[0, int(first.action.text)]
    assert first.extras["logprob"] == pytest.approx(float(expected))


async def test_a_module_computes_without_gradients_in_a_thread() -> None:
    """The loop goes on meanwhile, and the lock keeps trainers out."""
    seen: list[tuple[bool, bool, bool]] = []
    main = threading.get_ident()

    def module(features: Tensor) -> Tensor:
        seen.append(
            (
                torch.is_grad_enabled(),
                threading.get_ident() == main,
                policy.lock.locked(),
            )
        )
        return torch.zeros(len(features), 2)

    policy: TorchPolicy[Report, Command] = TorchPolicy(
        module, encode=_encode, decode=Categorical(_text)
    )
    await policy.act_batch([Report()], [_context()])
    assert seen == [(False, False, True)]
    assert not policy.lock.locked()


def test_categorical_follows_the_probabilities() -> None:
    """Over many episodes, each number comes as often as its logit says."""
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(3000, 1)
    episodes = [_context(seed=seed) for seed in range(3000)]
    decisions = Categorical(_text)(logits, episodes)
    counts = [
        sum(decision.action.text == str(number) for decision in decisions) / 3000
        for number in range(3)
    ]
    assert counts == pytest.approx([0.1, 0.6, 0.3], abs=0.03)
    first = decisions[0].extras
    expected = [math.log(0.1), math.log(0.6), math.log(0.3)]
    assert first["logprob"] == pytest.approx(expected[int(str(first["choice"]))])


def test_categorical_may_be_greedy() -> None:
    """Then it takes the most likely one, and no random number."""
    logits = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    chosen = Categorical(_text, greedy=True)(logits, [_context(), _context()])
    assert [decision.action.text for decision in chosen] == ["1", "0"]


def test_arrays_feed_a_module() -> None:
    """An observation's array becomes a tensor without going through Python."""
    array = Array.of([[1.0, 2.0]])
    tensor = torch.from_numpy(array.numpy().copy())
    assert tensor.tolist() == [[1.0, 2.0]]
