"""A recorded run over HTTP, for the debug pane."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from openenv_async import RunError
from openenv_async.rollout.episodes import Episode
from openenv_async.viewer import create_viewer_app
from tests.rollout.runs import make_episode, write_run


async def written(
    folder: Path, episodes: Iterable[Episode[Any, Any]], *, close: bool = True
) -> None:
    """Write a run, off the loop, because it blocks."""
    write = partial(write_run, folder, episodes, close=close)
    await anyio.to_thread.run_sync(write)


def damage(path: Path) -> None:
    """Change a bit of a file."""
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


@contextlib.asynccontextmanager
async def viewing(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the viewer of a run."""
    app = await anyio.to_thread.run_sync(create_viewer_app, folder)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client,
    ):
        yield client


async def test_a_run_is_listed_in_pages(tmp_path: Path) -> None:
    """With its manifest, and numbers of all its episodes."""
    await written(
        tmp_path, [make_episode(number, length=number) for number in range(30)]
    )
    async with viewing(tmp_path) as client:
        run = (await client.get("/run")).json()
        assert run["manifest"]["environment"]["name"] == "made"
        assert run["summary"]["episodes"] == run["total"] == 30
        assert run["complete"] is True
        assert run["problem"] is None
        assert [row["index"] for row in run["episodes"]] == list(range(30))
        page = (await client.get("/run?offset=10&limit=5")).json()
        assert [row["steps"] for row in page["episodes"]] == [10, 11, 12, 13, 14]
        assert (await client.get("/web/pane.json")).json()["mode"] == "recorded"
        assert (await client.get("/run", headers={"Host": "x.y"})).status_code == 403


async def test_an_episode_is_records_in_order(tmp_path: Path) -> None:
    """The reset, then each step with its action, reward and times."""
    await written(tmp_path, [make_episode(number, length=3) for number in range(4)])
    async with viewing(tmp_path) as client:
        episode = (await client.get("/run/episodes/2")).json()
        records = episode["records"]
        assert [record["kind"] for record in records] == ["reset", *["step"] * 3]
        assert [record["seq"] for record in records] == [1, 2, 3, 4]
        assert records[0]["request"]["seed"] == episode["seed"]
        assert records[1]["request"] == {"move": 1}
        assert records[1]["payload"]["x"]["kind"] == "array"
        assert isinstance(records[1]["payload"]["x"]["data"], str)
        assert set(records[1]["timings"]) == {
            *("queueNs", "environmentNs", "encodeNs", "roundTripNs")
        }


@pytest.mark.parametrize("index", ["4", "-1", "x", "1e3", "99999999999999999999"])
async def test_an_unknown_episode_is_a_readable_error(
    tmp_path: Path, index: str
) -> None:
    """With a code and what was expected."""
    await written(tmp_path, [make_episode(number) for number in range(4)])
    async with viewing(tmp_path) as client:
        answer = await client.get(f"/run/episodes/{index}")
        assert answer.status_code == 404
        assert answer.json()["code"] == "run_failed"
        assert answer.json()["message"].startswith("expected ")


async def test_damage_is_told_beside_what_can_be_read(tmp_path: Path) -> None:
    """The list ends where the damage is, and says what and where it is."""
    await written(tmp_path, map(make_episode, range(6)), close=False)
    path = tmp_path / "episodes-00000.jsonl.zst"
    await anyio.to_thread.run_sync(damage, path)
    async with viewing(tmp_path) as client:
        run = (await client.get("/run")).json()
        assert run["code"] == "run_damaged"
        assert str(path) in run["problem"]
        answer = await client.get("/run/episodes/0")
        assert (answer.status_code, answer.json()["code"]) == (500, "run_damaged")


def test_no_run_is_an_error_at_once(tmp_path: Path) -> None:
    """Not a page without episodes."""
    with pytest.raises(RunError, match="expected a run with a manifest"):
        create_viewer_app(tmp_path)
