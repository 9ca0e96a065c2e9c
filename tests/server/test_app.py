"""The application: its HTTP pages, several environments, what it refuses to build."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from openenv_async import LocalProtocolError
from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from openenv_async.server import create_app
from tests.environments import BlockingEnvironment, ScriptedEnvironment
from tests.serving import Serving, dial, serving


async def get(server: Serving, path: str) -> httpx.Response:
    """Ask over HTTP."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.path))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as c:
        return await c.get(path)


async def test_health_tells_the_capacity_in_numbers() -> None:
    """Health counts sessions, connections and what is in flight."""
    async with serving(max_sessions=10) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        answer = await get(server, "/health")
        assert answer.status_code == 200
        health = answer.json()
        assert health["status"] == "healthy"
        assert (health["sessions"], health["max_sessions"], health["free"]) == (
            1,
            10,
            9,
        )
        assert (health["connections"], health["in_flight"]) == (1, 0)
        assert health["requests"] == 1
        assert health["incarnation"] == server.core.incarnation


async def test_health_says_when_the_server_leaves() -> None:
    """A draining server is no longer healthy, so that nobody is sent to it."""
    async with serving() as server:
        server.core.table.draining = True
        answer = await get(server, "/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        server.core.table.draining = False


async def test_the_schema_describes_each_environment() -> None:
    """Action, observation and state have a JSON Schema, all or one of them."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        whole = (await get(server, "/schema")).json()
        assert list(whole["environments"]) == ["scripted", "blocking"]
        assert whole["default"] == "scripted"
        one = (await get(server, "/schema?environment=blocking")).json()
        assert one == whole["environments"]["blocking"]
        assert set(one) == {"action", "observation", "state"}
        assert "seconds" in str(one["action"])


async def test_the_metadata_describe_each_environment() -> None:
    """Name, description and place of execution are there to be read."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        told = (await get(server, "/metadata")).json()["environments"]
        assert told["scripted"]["execution"] == "inline"
        assert told["blocking"]["execution"] == "thread"
        assert told["blocking"]["description"] == "The same without `async`."


@pytest.mark.parametrize("page", ["/schema", "/metadata"])
async def test_an_unknown_environment_has_no_page(page: str) -> None:
    """Asking for what is not hosted names what is."""
    async with serving() as server:
        answer = await get(server, f"{page}?environment=chess")
        assert answer.status_code == 404
        assert "scripted" in answer.json()["message"]


async def test_several_environments_share_an_endpoint() -> None:
    """Each session names its environment; the first is the default."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        async with dial(server) as peer:
            assert (await peer.open(1)).environment == "scripted"
            assert (
                await peer.open(2, environment="blocking")
            ).environment == "blocking"
            await peer.reset(1)
            await peer.reset(2)


async def test_the_operator_may_name_and_place_environments() -> None:
    """A mapping gives names; an execution overrides what the class says."""
    app = create_app(
        {"one": ScriptedEnvironment, "two": ScriptedEnvironment}, execution="thread"
    )
    specs = app.state.core.specs
    assert [(name, spec.execution) for name, spec in specs.items()] == [
        ("one", "thread"),
        ("two", "thread"),
    ]


async def test_arguments_reach_the_constructor() -> None:
    """An environment described with arguments is built with them."""

    class Sized(ScriptedEnvironment):
        name = "sized"

        def __init__(self, length: int) -> None:
            super().__init__()
            self.length = length  # type: ignore[misc]  # an instance's own

        def reset(self, **arguments: Any) -> Any:
            return super().reset(**{**arguments, "options": {"length": self.length}})

    spec = EnvironmentSpec.of(Sized, arguments={"length": 1})
    async with serving(spec) as server, dial(server) as peer:
        await peer.open()
        await peer.reset()
        await peer.step(1, 2)
        answer = await peer.step(1, 3)
        assert isinstance(answer, m.Failure)
        assert answer.code == "episode_done"


@pytest.mark.parametrize(
    ("environments", "problem"),
    [
        ((), "different names"),
        ((ScriptedEnvironment, ScriptedEnvironment), "different names"),
        ("no.such.module", "importable package"),
        ("tests.environments:Nothing", "'Nothing'"),
        ("tests.environments:Report", "Environment class"),
        ("tests.environments", "exactly one Environment"),
        ((object,), "object"),
        ((3,), "3"),
    ],
)
def test_what_is_no_environment_is_refused(environments: Any, problem: str) -> None:
    """A server that could serve nothing is not built, and the error names what."""
    with pytest.raises(LocalProtocolError, match=problem):
        create_app(environments)


async def test_a_session_keeps_its_encoding() -> None:
    """A session cannot move to a client of another encoding, whose replies differ."""
    key = "a" * 32
    async with serving() as server, dial(server) as packed:
        await packed.open(1, key)
        await packed.reset()
        async with dial(server, codec=m.JSON) as text:
            await text.send(m.Resume(1, key))
            assert "msgpack" in (await text.expect(m.Failure)).message
        assert isinstance(await packed.step(1, 2), m.Reply)
