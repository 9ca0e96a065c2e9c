"""`rollout` plays a plan to disk with a server that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from openenv_async import (
    GenericEnv,
    LocalProtocolError,
    RunError,
    ServerObserver,
    UnknownEnvironment,
)
from openenv_async.rollout import CollectorOptions, Task
from openenv_async.rollout.episodes import Episode, outcome_label
from openenv_async.rollout.runs import Manifest, RolloutPlan, open_run, rollout
from openenv_async.rollout.runs.policies import ChatSettings
from tests.rollout.chat_server import chat_serving
from tests.serving import Serving, eventually, serving

no_policy = object()
"""What a name may lead to."""


@pytest.fixture
async def server() -> AsyncGenerator[Serving, None]:
    """A server with scripted environments."""
    async with serving() as server:
        yield server


async def _read(folder: Path) -> tuple[Manifest, dict[str, Episode[Any, Any]]]:
    def read() -> tuple[Manifest, dict[str, Episode[Any, Any]]]:
        run = open_run(folder)
        return run.manifest, {episode.id: episode for episode in run}

    return await anyio.to_thread.run_sync(read)


async def _plan(server: Serving, folder: Path, **changes: Any) -> RolloutPlan:
    actions = folder / "actions.jsonl"
    await anyio.Path(actions).write_text('{"do": "count", "text": "x"}\n')
    plan = RolloutPlan(
        folder=folder / "run",
        target=server.url,
        policy=f"scripted:{actions}",
        tasks=[Task(id=str(number), options={"length": 3}) for number in range(3)],
        options=CollectorOptions(concurrency=2, group_size=2, seed=5),
    )
    return msgspec.structs.replace(plan, **changes)


async def _play(plan: RolloutPlan) -> int:
    async with rollout(plan) as opened:
        return await opened.play()


async def test_a_plan_is_played_to_disk(server: Serving, tmp_path: Path) -> None:
    """All episodes are there, and the manifest tells where they come from."""
    plan = await _plan(server, tmp_path)
    seen: list[str] = []
    async with rollout(plan) as opened:
        count = await opened.play(recorded=lambda episode: seen.append(episode.id))
        assert opened.resumed == 0
        assert opened.collector.statistics().steps == 18
    manifest, episodes = await _read(plan.folder)
    assert count == 6
    assert sorted(seen) == sorted(episodes)
    assert {episode.length for episode in episodes.values()} == {3}
    assert manifest.environment.name == "scripted"
    assert manifest.environment.target == server.url
    assert manifest.environment.json_schema.keys() == {"action", "observation", "state"}
    assert manifest.seed == 5
    assert manifest.config["group_size"] == 2
    assert {"openenv_async", "python", "msgspec"} <= manifest.versions.keys()
    assert server.sessions == 0


async def test_only_what_is_missing_is_played(server: Serving, tmp_path: Path) -> None:
    """Of tasks and groups that are partly there, the rest is played."""
    plan = await _plan(server, tmp_path)
    async with rollout(plan) as opened:
        played = 0
        async for episode in opened.collector:
            if episode.id in ("0/0", "1/0", "1/1"):
                await opened.writer.append(episode)
                played += 1
        assert played == 3
    with pytest.raises(RunError, match="expected no run at"):
        await _play(plan)
    again = msgspec.structs.replace(plan, resume=True)
    async with rollout(again) as opened:
        assert opened.resumed == 3
        assert await opened.play() == 3
        assert opened.collector.statistics().episodes == 3
    assert await _play(again) == 0
    _, episodes = await _read(plan.folder)
    assert len(episodes) == 6


async def test_a_cancelled_rollout_keeps_what_was_finished(
    server: Serving, tmp_path: Path
) -> None:
    """Episodes that were cut off by it are not there, so that they are played again."""
    plan = await _plan(server, tmp_path, tasks=100_000)
    endless = CollectorOptions(concurrency=4, max_steps=4)
    plan = msgspec.structs.replace(plan, options=endless)
    async with rollout(plan) as opened:
        async with asyncio.timeout(10):
            count = await opened.play(recorded=lambda _: opened.collector.cancel())
    _, episodes = await _read(plan.folder)
    assert count == len(episodes) > 0
    assert {episode.length for episode in episodes.values()} == {4}


async def test_a_chat_model_s_tokens_are_recorded(
    server: Serving, tmp_path: Path
) -> None:
    """Token ids and log-probabilities have columns; its key is nowhere."""
    async with chat_serving() as model:
        model.answer = lambda body: '{"do": "count"} is my action'
        chat = ChatSettings(
            base_url=model.url,
            api_key="a-secret",
            sampling={"extra_body": {"return_token_ids": True}},
            logprobs=True,
        )
        plan = await _plan(server, tmp_path, policy="chat:small", chat=chat, tasks=1)
        options = CollectorOptions(max_steps=2)
        assert await _play(msgspec.structs.replace(plan, options=options)) == 1
        assert model.keys == ["Bearer a-secret"] * 2
    manifest, episodes = await _read(plan.folder)
    steps = episodes["0/0"].steps
    assert [step.action for step in steps] == [{"do": "count"}] * 2
    assert steps[0].extras["token_ids"] == [0, 1, 2, 3, 4]
    assert steps[0].extras["prompt_token_ids"] == [7]
    assert steps[0].extras["logprobs"] == [-0.5] * 5
    text = await anyio.Path(plan.folder / "manifest.json").read_text()
    assert "a-secret" not in text
    assert manifest.config["policy"] == "chat:small"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"policy": "nothing"}, LocalProtocolError),
        ({"environment": "other"}, UnknownEnvironment),
        ({"replicas": 2}, LocalProtocolError),
        ({"tasks": [Task(id="a"), Task(id="b"), Task(id="a")]}, LocalProtocolError),
        ({"policy": "tests.rollout.test_runs_running:no_policy"}, LocalProtocolError),
    ],
)
async def test_a_plan_that_cannot_be_played_leaves_nothing(
    server: Serving, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    """Neither a run nor a session is left of it."""
    plan = await _plan(server, tmp_path, **changes)
    with pytest.raises(error):
        await _play(plan)
    assert not await anyio.Path(plan.folder).exists()
    assert server.sessions == 0


async def test_a_session_that_is_taken_over_is_waited_for(
    server: Serving, tmp_path: Path
) -> None:
    """Whoever drives it in the debug pane for a while costs the run no episode."""
    tasks = [Task(id=str(number), options={"length": 20}) for number in range(200)]
    plan = await _plan(server, tmp_path, tasks=tasks)
    began = anyio.Event()
    async with rollout(plan) as opened, anyio.create_task_group() as group:
        group.start_soon(lambda: opened.play(recorded=lambda _: began.set()))
        await began.wait()
        async with ServerObserver(server.url) as observer:
            row = (await observer.sessions())[0]
        async with GenericEnv(server.url, take_over=row.session) as guest:
            await guest.state()
            steps = opened.collector.statistics().steps
            # The other session goes on meanwhile.
            await eventually(lambda: opened.collector.statistics().steps > steps + 40)
    _, episodes = await _read(plan.folder)
    assert len(episodes) == 400
    assert {outcome_label(each.outcome) for each in episodes.values()} == {"terminated"}
