"""A PyTorch module as a policy, asked in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, final

import anyio
import anyio.to_thread

from ..policies import Decision, EpisodeContext

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Categorical", "TorchPolicy"]

ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT")


@final
class TorchPolicy(Generic[ObsT, ActT]):
    """Calls a module with what a batch of observations encodes to.

    The module computes without gradients, in a thread, while the event loop goes on.
    Needs the extra `torch`. A matrix product of another batch size may differ in its
    last bits: on such ties, and only there, the timing can show in what is chosen.

    Args:
        module: The model; anything that can be called with what `encode` returns.
        encode: Turns observations into what the module takes, on its device.
        decode: Turns what the module returns into actions, in the same order; see
            `Categorical`.
        threaded: Whether to compute in a thread; without, a call blocks the loop, but
            saves some 50 us, which pays for a tiny module.
    """

    def __init__(
        self,
        module: Callable[[Any], Any],
        *,
        encode: Callable[[Sequence[ObsT]], Any],
        decode: Callable[
            [Any, Sequence[EpisodeContext]], Sequence[ActT | Decision[ActT]]
        ],
        threaded: bool = True,
    ) -> None:
        self._module = module
        self._encode = encode
        self._decode = decode
        self._threaded = threaded
        self._limiter: anyio.CapacityLimiter | None = None
        self.lock = threading.Lock()
        """Held while the module computes: hold it to change the weights."""

    async def act_batch(
        self, observations: Sequence[ObsT], episodes: Sequence[EpisodeContext]
    ) -> Sequence[ActT | Decision[ActT]]:
        """Compute the next actions; a computation that has begun is not stopped."""
        if not self._threaded:
            return self._compute(observations, episodes)
        if self._limiter is None:
            # Of its own: the default one is shared with whatever else has threads.
            self._limiter = anyio.CapacityLimiter(4)
        return await anyio.to_thread.run_sync(
            self._compute, observations, episodes, limiter=self._limiter
        )

    def _compute(
        self, observations: Sequence[ObsT], episodes: Sequence[EpisodeContext]
    ) -> Sequence[ActT | Decision[ActT]]:
        import torch  # noqa: PLC0415 (an optional extra)

        with self.lock, torch.inference_mode():
            output = self._module(self._encode(observations))
            return self._decode(output, episodes)


@final
class Categorical(Generic[ActT]):
    """Chooses among a number of actions, by logits of the shape (batch, actions).

    Records the choice as `choice`, its `logprob`, and the `value` where the module
    returns values too. The random numbers are the episode's own.

    Args:
        action: Builds the action from its number.
        greedy: Whether to take the most likely one instead.
    """

    def __init__(self, action: Callable[[int], ActT], *, greedy: bool = False) -> None:
        self._action = action
        self._greedy = greedy

    def __call__(
        self, output: Tensor | tuple[Tensor, Tensor], episodes: Sequence[EpisodeContext]
    ) -> list[Decision[ActT]]:
        """Choose an action for each row."""
        import torch  # noqa: PLC0415 (an optional extra)

        logits, values = output if isinstance(output, tuple) else (output, None)
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        if self._greedy:
            choices = logprobs.argmax(dim=-1)
        else:
            drawn = [episode.random.random() for episode in episodes]
            points = torch.tensor(drawn, dtype=torch.float64, device=logits.device)
            heights = logprobs.exp().cumsum(dim=-1)
            choices = torch.searchsorted(heights, points[:, None], right=True)[:, 0]
            # Rounding may leave the last height below 1, and a point above it.
            choices = choices.clamp(max=logits.shape[-1] - 1)
        numbers: list[int] = _listed(choices)
        chosen: list[float] = _listed(logprobs.gather(-1, choices[:, None]))
        rows: list[dict[str, object]] = [
            {"choice": number, "logprob": logprob}
            for number, logprob in zip(numbers, chosen, strict=True)
        ]
        if values is not None:
            for row, value in zip(rows, _listed(values), strict=True):
                row["value"] = value
        return [
            Decision(self._action(number), row)
            for number, row in zip(numbers, rows, strict=True)
        ]


def _listed(tensor: Tensor) -> list[Any]:
    listed: Any = tensor.reshape(-1)
    return cast("list[Any]", listed.tolist())
