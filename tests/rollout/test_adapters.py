"""Random and scripted policies, a chat model over HTTP, a PyTorch module."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import anyio
import msgspec
import pytest
import torch

from openenv_async import Action, Array, LocalProtocolError
from openenv_async.rollout import (
    EpisodeContext,
    PolicyFailure,
    Task,
    Terminated,
)
from openenv_async.rollout.adapters import (
    Categorical,
    ChatPolicy,
    RandomPolicy,
    ScriptedPolicy,
    TorchPolicy,
)
from tests.environments import Command, Report
from tests.rollout.chat_server import chat_serving
from tests.rollout.players import ScriptedEpisode, collected, tasks_of
from tests.serving import serving


def _context(name: str = "t", seed: int = 0) -> EpisodeContext:
    return EpisodeContext(Task(id=name), id=f"{name}/0", seed=0, policy_seed=seed)


class Move(Action):
    """Of all sorts."""

    direction: Literal["left", "right"]
    steps: Annotated[int, msgspec.Meta(ge=1, le=3)]
    speed: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    note: str | None = None
    data: bytes = b""


# Random


async def test_random_actions_fit_their_type() -> None:
    """They are of the type, within its bounds, and cover it."""
    policy = RandomPolicy(Move)
    episode = _context()
    moves = [await policy.act(None, episode) for _ in range(200)]
    assert all(isinstance(move, Move) for move in moves)
    assert {move.direction for move in moves} == {"left", "right"}
    assert {move.steps for move in moves} == {1, 2, 3}
    assert all(0 <= move.speed <= 1 for move in moves)


async def test_random_actions_are_the_episodes_own() -> None:
    """They depend on its seed, not on who else is in the batch."""
    policy = RandomPolicy(Move)
    alone = _context(seed=1)
    one = [await policy.act(None, alone) for _ in range(5)]
    together = [_context(seed=seed) for seed in (2, 1, 3)]
    many = [await policy.act_batch([None] * 3, together) for _ in range(5)]
    assert [moves[1] for moves in many] == one
    assert [moves[0] for moves in many] != one


async def test_random_actions_from_a_schema_are_plain() -> None:
    """As a server shows it, without knowing the type."""
    policy: RandomPolicy[dict[str, Any]] = RandomPolicy(msgspec.json.schema(Move))
    action = await policy.act(None, _context())
    assert isinstance(action, dict)
    assert isinstance(msgspec.convert(action, Move), Move)


def test_random_needs_a_schema() -> None:
    """A type without one is refused at once."""
    with pytest.raises(LocalProtocolError, match="a JSON Schema"):
        RandomPolicy(EpisodeContext)


async def test_random_plays() -> None:
    """A server accepts what it does."""

    class Quiet(Action):
        text: str

    async with serving() as server:
        episodes = await collected(
            server, RandomPolicy(Quiet), tasks_of(5, length=3), seed=1
        )
    assert [episode.outcome for episode in episodes] == [Terminated()] * 5


# Scripted


async def test_a_script_is_performed() -> None:
    """In order; from the task, where it gives the script."""
    async with serving() as server:
        script = [Command(text="a"), Command(text="b")]
        (episode,) = await collected(
            server, ScriptedPolicy(script), tasks_of(1, length=2)
        )
        assert [step.observation.text for step in episode.steps] == ["a", "b"]
        policy: ScriptedPolicy[Command] = ScriptedPolicy(
            lambda task: [Command(text=task.id)], repeat=True
        )
        (episode,) = await collected(server, policy, tasks_of(1, length=3))
        assert [step.observation.text for step in episode.steps] == ["t0"] * 3


async def test_a_script_that_ends_early_fails_its_episode() -> None:
    """The text says how long it was; other episodes are not concerned."""
    tasks = [Task(id="short", options={"length": 1}), Task(id="long")]
    async with serving() as server:
        episodes = await collected(server, ScriptedPolicy([Command()]), tasks)
    found = {episode.group: episode for episode in episodes}
    assert found["short"].outcome == Terminated()
    outcome = found["long"].outcome
    assert isinstance(outcome, PolicyFailure)
    assert "at most 1 steps, but 'long/0' goes on" in outcome.message
    with pytest.raises(LocalProtocolError, match="an empty one"):
        ScriptedPolicy([])
    assert await ScriptedPolicy([Command()]).act(None, _context()) == Command()


# Chat


def _render(observation: Report, episode: EpisodeContext) -> str:
    return f"count {observation.count}"


def _parse(text: str, episode: EpisodeContext) -> Command:
    deed, _, rest = text.partition(" ")
    if deed != "say":
        raise ValueError(f"expected 'say', got {text!r}")
    return Command(text=rest)


def _chat(url: str, **options: Any) -> ChatPolicy[Report, Command]:
    return ChatPolicy("tiny", base_url=url, render=_render, parse=_parse, **options)


async def test_a_chat_model_plays() -> None:
    """Over HTTP: the conversation grows, and what it said is recorded."""
    async with chat_serving() as chat, serving() as server:
        chat.answer = lambda body: f"say {body['messages'][-1]['content']}"
        async with _chat(
            chat.url,
            system="Play!",
            api_key="secret",
            logprobs=True,
            sampling={"temperature": 0.5, "extra_body": {"return_token_ids": True}},
        ) as policy:
            (episode,) = await collected(server, policy, tasks_of(1, length=2))
    assert episode.outcome == Terminated()
    assert [step.action.text for step in episode.steps] == ["count 0", "count 1"]
    first, second = chat.requests
    assert [message["role"] for message in second["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert first["model"] == "tiny"
    assert first["temperature"] == 0.5
    assert first["seed"] != second["seed"]
    assert chat.keys == ["Bearer secret"] * 2
    assert episode.steps[0].extras == {
        "text": "say count 0",
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "tokens": ["say", "count", "0"],
        "logprobs": [-0.5] * 3,
        "token_ids": [0, 1, 2],
        "prompt_token_ids": [7],
    }


async def test_chats_do_not_mix() -> None:
    """Many at once, each with its own conversation, with the same seeds every time."""
    seeds: list[list[int]] = []
    async with chat_serving() as chat, serving() as server:
        chat.answer = lambda body: f"say {body['messages'][0]['content']}"
        chatting: ChatPolicy[Report, Command] = ChatPolicy(
            "tiny",
            base_url=chat.url,
            render=lambda observation, episode: episode.id,
            parse=_parse,
        )
        async with chatting as policy:
            for _ in range(2):
                chat.requests.clear()
                episodes: list[ScriptedEpisode] = await collected(
                    server, policy, tasks_of(10, length=3), size=5
                )
                for episode in episodes:
                    texts = {step.action.text for step in episode.steps}
                    assert texts == {episode.id}
                seeds.append(sorted(body["seed"] for body in chat.requests))
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 30


async def test_a_chat_model_that_fails_fails_the_episode() -> None:
    """What the server or the parser refuses is the policy's failure."""
    async with chat_serving() as chat, serving() as server:
        async with _chat(chat.url) as policy:
            chat.answer = lambda body: "nonsense"
            (episode,) = await collected(server, policy, 1)
            assert isinstance(episode.outcome, PolicyFailure)
            assert "got 'nonsense'" in episode.outcome.message
            chat.broken, chat.status = 1, 400
            (episode,) = await collected(server, policy, 1)
            assert isinstance(episode.outcome, PolicyFailure)
            assert episode.outcome.exception == "BadRequestError"
            # The client asks again what may work the next time.
            chat.broken, chat.status = 1, 503
            chat.answer = lambda body: "say fine"
            (episode,) = await collected(server, policy, tasks_of(1, length=1))
            assert episode.outcome == Terminated()


async def test_a_chat_client_may_be_given() -> None:
    """It stays open; both or neither is an error."""
    with pytest.raises(LocalProtocolError, match="a base_url or a client"):
        ChatPolicy("tiny", render=_render, parse=_parse)
    async with chat_serving() as chat:
        policy = _chat(chat.url)
        client = await anyio.to_thread.run_sync(policy._new_client)
        given = ChatPolicy("tiny", render=_render, parse=_parse, client=client)
        chat.answer = lambda body: "say hi"
        async with given:
            await given.act(Report(), _context())
        assert not client.is_closed()
        await client.close()
        await policy.aclose()


# PyTorch


def _encode(observations: Sequence[Report]) -> torch.Tensor:
    return torch.tensor([[float(observation.count)] for observation in observations])


def _text(number: int) -> Command:
    return Command(text=str(number))


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.policy = torch.nn.Linear(1, 4)
        self.value = torch.nn.Linear(1, 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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

    def module(features: torch.Tensor) -> torch.Tensor:
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
