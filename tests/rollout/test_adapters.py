"""Random and scripted policies, a chat model over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import anyio
import msgspec
import pytest

from openenv_async import Action, LocalProtocolError
from openenv_async.rollout import (
    EpisodeContext,
    PolicyFailure,
    Task,
    Terminated,
)
from openenv_async.rollout.adapters import (
    ChatPolicy,
    RandomPolicy,
    ScriptedPolicy,
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


async def test_random_leaves_defaults_alone() -> None:
    """Fields that an agent need not know keep theirs, unless there are no others."""

    class Optional(Action):
        note: str = ""

    episode = _context()
    moves = [await RandomPolicy(Move).act(None, episode) for _ in range(20)]
    assert {(move.speed, move.note) for move in moves} == {(0.0, None)}
    all_of_it = RandomPolicy(Move, optional=1.0)
    other = _context("o")
    moves = [await all_of_it.act(None, other) for _ in range(20)]
    assert len({move.speed for move in moves}) > 1
    policy = RandomPolicy(Optional)
    notes = {(await policy.act(None, _context(seed=seed))).note for seed in range(20)}
    assert len(notes) > 1


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
