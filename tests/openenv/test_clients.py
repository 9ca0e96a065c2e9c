"""The drop-in client, called as trainers call OpenEnv's; on a server of ours."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from openenv_async.client.dialect import DialectLink
from openenv_async.openenv import (
    CallTimeout,
    ConnectError,
    ConnectionClosedError,
    EnvClient,
    GenericAction,
    GenericEnvClient,
    ServerError,
    StepResult,
    SyncEnvClient,
)
from openenv_async.openenv.background import BACKGROUND
from tests.chaos.cutter import cut_off
from tests.client.dialects import started
from tests.clients import asleep, cancelled, holding
from tests.environments import ScriptedEnvironment
from tests.openenv.apart import serving_apart
from tests.openenv.counting import Counting, OrderedCounting
from tests.serving import Serving, eventually, serving


@dataclasses.dataclass
class CountAction:
    """As environments of OpenEnv define theirs."""

    delta: int


@dataclasses.dataclass
class CountObservation:
    """As environments of OpenEnv define theirs."""

    total: int
    reward: float | None
    done: bool


class CountEnv(EnvClient[CountAction, CountObservation, dict[str, Any]]):
    """As environments of OpenEnv define theirs."""

    def _step_payload(self, action: CountAction) -> dict[str, Any]:
        return {"delta": action.delta}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[CountObservation]:
        reward, done = payload.get("reward"), payload.get("done", False)
        observation = CountObservation(payload["observation"]["total"], reward, done)
        return StepResult(observation, reward, done, payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


@pytest.fixture(scope="module")
def apart() -> Iterator[Serving]:
    """A server that plain calls do not block."""
    with serving_apart(Counting) as server:
        with GenericEnvClient(base_url=_url(server)) as client:
            client.reset()  # The server's own threads are not a test's.
        yield server


def _url(server: Serving) -> str:
    return server.url.replace("ws://", "http://")


def test_the_client_needs_nothing_of_openenv() -> None:
    """Importing it costs neither pydantic nor OpenEnv nor a server's libraries."""
    heavy = "{'pydantic', 'openenv', 'mcp', 'fastmcp', 'starlette', 'aiodocker'}"
    code = f"import sys, openenv_async.openenv; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "set()\n", done


# Plain calls, as TRL, torchforge and Oumi make them


def test_plain_calls_connect_by_themselves(apart: Serving) -> None:
    """No `with`, no `sync()`, no loop."""
    client = CountEnv(base_url=_url(apart), connect_timeout_s=30, message_timeout_s=120)
    result = client.reset(seed=1, start=2)
    assert result.observation == CountObservation(2, None, done=False)
    assert result.metadata == {"seed": 1, "kw": []}
    result = client.step(CountAction(3))
    assert (result.observation.total, result.reward, result.done) == (5, 3.0, False)
    assert client.step(CountAction(5)).done
    assert client.state()["step_count"] == 2
    client.close()


def test_plain_calls_may_come_from_any_thread(apart: Serving) -> None:
    """Those of one client wait for each other; those of several share a socket."""
    clients = [CountEnv(base_url=_url(apart)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda client: client.reset(), clients))
        steps = [client for client in clients for _ in range(5)]
        list(pool.map(lambda client: client.step(CountAction(1)), steps))
        totals = list(pool.map(lambda client: client.state()["total"], clients))
        assert totals == [5] * 8
        assert len(apart.core.links) == 1
        list(pool.map(lambda client: client.close(), clients))
    assert not [t for t in threading.enumerate() if t.name == "openenv-async-calls"]


def test_a_client_that_nobody_closed_ends_with_itself(apart: Serving) -> None:
    """Its session does, too: trainers never close theirs."""
    client = CountEnv(base_url=_url(apart))
    client.reset()
    assert apart.sessions == 1
    del client
    gc.collect()
    asyncio.run(eventually(lambda: not apart.sessions))


def test_clients_that_are_left_end_with_the_process(apart: Serving) -> None:
    """What the interpreter's exit calls closes their sessions."""
    client = CountEnv(base_url=_url(apart))
    client.reset()
    BACKGROUND.end_all()
    asyncio.run(eventually(lambda: not apart.sessions))
    client.close()


@pytest.mark.allow_blocking(reason="that is what it is about")
async def test_plain_calls_inside_of_a_loop_block_it(apart: Serving) -> None:
    """Results that are used without `await` are there, as async GRPO needs it."""
    client = CountEnv(base_url=_url(apart))
    assert client.reset(start=1).observation.total == 1
    result = client.step(CountAction(1))
    assert result.reward == 1.0
    assert client.state()["total"] == 2
    assert "total" in client.state()
    assert len(client.state()) == 3
    assert set(client.state()) == {"episode_id", "step_count", "total"}
    assert client.step(CountAction(1))
    assert repr(result).startswith("StepResult(")
    client.close().result()


@pytest.mark.allow_blocking(reason="that is what it is about")
async def test_the_same_client_can_be_called_plainly_and_awaited(
    apart: Serving,
) -> None:
    """Whichever came first."""
    client = CountEnv(base_url=_url(apart))
    await asyncio.to_thread(client.reset)
    assert (await client.step(CountAction(1))).reward == 1.0
    await asyncio.to_thread(client.step, CountAction(2))
    assert (await client.state())["total"] == 3
    await client.close()


def test_a_blocking_facade_does_the_same(apart: Serving) -> None:
    """`.sync()`, with and without `with`, as OpenEnv's session adapter uses it."""
    with CountEnv(base_url=_url(apart)).sync() as env:
        assert isinstance(env, SyncEnvClient)
        assert env.reset(start=4).observation.total == 4
        assert env.step(CountAction(1)).reward == 1.0
        assert env.state()["total"] == 5
        assert env.async_client.sync() is env
        assert env.base_url == _url(apart)
        child = env.new_session()
        assert child.reset().observation.total == 0
        assert env.state()["total"] == 5
        env.disconnect()
        assert env.reset().observation.total == 0
    assert apart.sessions == 0


def test_coroutines_of_subclasses_block_in_the_facade(apart: Serving) -> None:
    """As tools of OpenEnv's clients do."""

    class Tooled(CountEnv):
        async def twice(self, delta: int) -> float:
            await self.step(CountAction(delta))
            result: StepResult[CountObservation] = await self.step(CountAction(delta))
            return result.reward or 0.0

    with Tooled(base_url=_url(apart)).sync() as env:
        env.reset()
        assert env.twice(2) == 2.0
        assert env.state()["total"] == 4


def test_the_client_is_a_context_itself(apart: Serving) -> None:
    """`with client:` connects and closes."""
    with GenericEnvClient(base_url=_url(apart)) as env:
        env.reset()
        assert env.step(GenericAction(delta=1)).observation["total"] == 1
    assert apart.sessions == 0


# Awaited, as verifiers and miles do


async def test_awaited_calls_run_in_the_loop_of_their_caller() -> None:
    """No other thread is involved, and the server is spoken to in our language."""
    async with serving(Counting) as server:
        async with CountEnv(base_url=server.url, message_timeout_s=1200) as env:
            assert not isinstance(env._session._connection, DialectLink)  # type: ignore[union-attr]  # it is open
            result = await env.reset(start=1)
            assert result.observation.total == 1
            assert (await env.step(CountAction(2))).reward == 2.0
            assert (await env.state())["total"] == 3
            child = await env.new_session()
            await child.reset()
            assert server.sessions == 2
        assert server.sessions == 0


async def test_a_first_call_that_is_awaited_connects() -> None:
    """Without `async with`; `connect()` and `close()` are there, too."""
    async with serving(Counting) as server:
        env = GenericEnvClient(base_url=server.url)
        assert await env.connect() is env
        assert (await env.reset()).observation["total"] == 0
        await env.close()
        # It may be used again.
        assert (await env.step({"delta": 2})).observation["total"] == 2
        await env.close()


async def test_calls_of_one_client_wait_for_each_other() -> None:
    """Where OpenEnv's would mix up their answers."""
    async with serving(Counting) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_step(env)) for _ in range(5)]
            assert [task.result() for task in tasks] == [1, 2, 3, 4, 5]


async def _step(env: GenericEnvClient) -> int:
    total: int = (await env.step({"delta": 1})).observation["total"]
    return total


@pytest.mark.parametrize("environment", [Counting, OrderedCounting])
async def test_a_step_may_come_before_the_first_reset(environment: Any) -> None:
    """As verifiers lists tools; where ours is stricter, it is reset before."""
    async with serving(environment) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            assert (await env.step({"delta": 2})).observation["total"] == 2


async def test_subclasses_find_the_address() -> None:
    """verifiers reads `_base_url`, without a slash at its end."""
    client = GenericEnvClient(base_url="localhost:8000/")
    assert client._base_url == client.base_url == "localhost:8000"


def test_a_client_outlives_the_loop_it_was_connected_in(apart: Serving) -> None:
    """`asyncio.run(connect)` and plain calls afterwards: nothing was executed yet."""
    client = GenericEnvClient(base_url=_url(apart))

    async def connect() -> None:
        await client.connect()
        await client._session.aclose()  # type: ignore[union-attr]  # it is open

    asyncio.run(connect())
    assert client.step({"delta": 1}).observation["total"] == 1
    client.close()


def test_an_episode_does_not_outlive_its_loop(apart: Serving) -> None:
    """It is lost, and only a reset begins another one."""
    client = GenericEnvClient(base_url=_url(apart))

    async def begin() -> None:
        await client.reset()
        await client._session.aclose()  # type: ignore[union-attr]  # it is open

    asyncio.run(begin())
    with pytest.raises(ConnectionClosedError, match="is gone") as caught:
        client.step({"delta": 1})
    assert caught.value.executed == "no"
    assert client.reset().observation["total"] == 0
    client.close()


# Errors


async def test_a_full_server_says_capacity_reached() -> None:
    """miles looks for the text, and tries again."""
    async with serving(Counting, max_sessions=1) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            with pytest.raises(RuntimeError, match="CAPACITY_REACHED") as caught:
                await GenericEnvClient(base_url=server.url).reset()
            assert isinstance(caught.value, ServerError)
            assert caught.value.retryable
            assert caught.value.dialect_code == "CAPACITY_REACHED"


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ({"delta": 99}, "VALIDATION_ERROR"),
        ({"delta": object()}, "VALIDATION_ERROR"),
        ({"delta": 1, "boom": True}, "EXECUTION_ERROR"),
    ],
)
async def test_errors_have_openenvs_text_and_code(
    action: dict[str, Any], code: str
) -> None:
    """Whatever language the server speaks."""
    async with serving(Counting) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            with pytest.raises(RuntimeError) as caught:
                await env.step(action)
            text = str(caught.value)
            assert text.startswith("Server error: ")
            assert text.endswith(f"(code: {code})")


async def test_a_cut_connection_is_named_as_miles_expects_it() -> None:
    """Our own server resumes; where it is gone for good, the name begins like that."""
    async with serving(ScriptedEnvironment) as server, cut_off(server) as proxy:
        client = GenericEnvClient(base_url=proxy.url)
        client._wire_options = dataclasses.replace(client._wire_options, dialect=True)
        async with client as env:
            await env.reset()
            await holding("cut")
            task = started(env.step({"do": "wait", "text": "cut"}))
            await asleep("cut")
            proxy.cut()
            with pytest.raises(ConnectionError) as caught:
                await task
            assert type(caught.value).__name__.startswith("ConnectionClosed")
            assert caught.value.executed == "unknown"  # type: ignore[attr-defined]  # ours
            for call in (env.step({}), env.state()):
                with pytest.raises(ConnectionClosedError, match="reset first"):
                    await call
            assert (await env.reset()).observation["count"] == 0


async def test_our_own_server_resumes_after_a_cut() -> None:
    """Nothing is lost, and the caller notices nothing."""
    async with serving(Counting) as server, cut_off(server) as proxy:
        async with GenericEnvClient(base_url=proxy.url) as env:
            await env.reset()
            await env.step({"delta": 1})
            proxy.cut()
            assert (await env.step({"delta": 1})).observation["total"] == 2


async def test_a_call_without_an_answer_in_time_is_a_timeout() -> None:
    """The next step says that the episode is broken; a reset begins another one."""
    async with serving(ScriptedEnvironment) as server:
        async with GenericEnvClient(base_url=server.url, message_timeout_s=0.1) as env:
            await env.reset()
            await holding("long")
            with pytest.raises(TimeoutError) as caught:
                await env.step({"do": "wait", "text": "long"})
            assert isinstance(caught.value, CallTimeout)
            with pytest.raises(ServerError, match="EXECUTION_ERROR"):
                await env.step({})
            await env.reset()


async def test_a_cancelled_call_is_told_of_by_the_next() -> None:
    """miles cancels episodes by the clock; a reset goes on."""
    async with serving(ScriptedEnvironment) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            await env.reset()
            await holding("gone")
            task = started(env.step({"do": "wait", "text": "gone"}))
            await asleep("gone")
            await cancelled(task)
            with pytest.raises(ServerError, match="cancelled"):
                await env.step({})
            await env.reset()


async def test_nobody_there_is_a_connection_error() -> None:
    """With the address in its text."""
    client = GenericEnvClient(base_url="http://127.0.0.1:1", connect_timeout_s=2)
    with pytest.raises(
        ConnectionError, match="Failed to connect to http://127"
    ) as info:
        await client.reset()
    assert isinstance(info.value, ConnectError)


def test_a_client_needs_an_address_or_a_provider() -> None:
    """As OpenEnv says it."""
    with pytest.raises(ValueError, match="requires either base_url or provider"):
        GenericEnvClient()


def test_the_mode_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the argument or the environment; case does not matter."""
    assert GenericEnvClient("http://h", mode="Production")._mode == "production"
    monkeypatch.setenv("OPENENV_CLIENT_MODE", "other")
    with pytest.raises(ValueError, match="Invalid mode: 'other'"):
        GenericEnvClient("http://h")


async def test_a_call_must_be_awaited_in_its_own_loop() -> None:
    """Blocking it would wait for itself."""
    async with serving(Counting) as server:
        async with GenericEnvClient(base_url=server.url) as env:
            with pytest.raises(RuntimeError, match="must not be blocked"):
                env.sync().reset()


# Servers of its own


class FakeProvider:
    """A container provider of OpenEnv's kind, whose container is there already."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.started: list[Any] = []
        self.stopped = 0

    def start_container(self, image: str, **options: Any) -> str:
        """Note it."""
        self.started.append((image, options))
        return self.url

    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        """Nothing to wait for."""
        assert base_url == self.url

    def stop_container(self) -> None:
        """Note it."""
        self.stopped += 1


def test_from_docker_image_is_called_plainly(apart: Serving) -> None:
    """As SkyRL does: the returned value is used as a client."""
    provider = FakeProvider(_url(apart))
    env = CountEnv.from_docker_image("count:latest", provider, env_vars={"A": "1"})
    assert not provider.started
    assert env.reset().observation.total == 0
    assert env.step(CountAction(1)).reward == 1.0
    assert provider.started == [("count:latest", {"env_vars": {"A": "1"}})]
    env.close()
    assert provider.stopped == 1
    assert not [t for t in threading.enumerate() if t.name == "openenv-async-calls"]


def test_from_docker_image_has_a_blocking_client(apart: Serving) -> None:
    """As OpenEnv documents it: connected."""
    provider = FakeProvider(_url(apart))
    env = CountEnv.from_docker_image("count", provider).sync()
    assert provider.started
    assert apart.sessions == 1
    env.close()
    assert provider.stopped == 1


def test_from_docker_image_is_a_context(apart: Serving) -> None:
    """Whatever happens in it, the container goes."""
    provider = FakeProvider(_url(apart))
    with pytest.raises(ZeroDivisionError):
        with CountEnv.from_docker_image("count", provider) as env:
            env.reset()
            raise ZeroDivisionError
    assert provider.stopped == 1


async def test_from_docker_image_is_awaited_or_an_async_context() -> None:
    """As async trainers do."""
    async with serving(Counting, tcp=True) as server:
        provider = FakeProvider(server.url)
        env = await CountEnv.from_docker_image("count", provider)
        assert isinstance(env, CountEnv)
        assert (await env.reset()).observation.total == 0
        await env.close()
        assert provider.stopped == 1
        async with CountEnv.from_docker_image("count", provider) as env:
            await env.reset()
        assert provider.stopped == 2


def test_from_docker_image_can_be_run(apart: Serving) -> None:
    """`asyncio.run` takes it; the client goes on outside of that loop."""
    provider = FakeProvider(_url(apart))

    async def connect() -> CountEnv:
        env = await CountEnv.from_docker_image("count", provider)
        await env.disconnect()
        return env

    env = asyncio.run(connect())
    assert env.reset().observation.total == 0
    env.close()
    assert provider.stopped == 1


async def test_calls_in_threads_of_an_async_trainer(apart: Serving) -> None:
    """As ART does: `asyncio.to_thread(client.reset)`."""
    provider = FakeProvider(_url(apart))
    env = CountEnv.from_docker_image("count", provider)
    result = await asyncio.to_thread(env.reset)
    assert result.observation.total == 0
    result = await asyncio.to_thread(env.step, CountAction(1))
    assert result.reward == 1.0
    await asyncio.to_thread(env.close)
    assert provider.stopped == 1


def test_from_env_names_the_image_of_a_space(apart: Serving) -> None:
    """verifiers: a Space by its name, with or without Docker."""
    provider = FakeProvider(_url(apart))
    env = GenericEnvClient.from_env("My.Org/some_env", provider=provider, tag="v2")
    env.reset()
    assert provider.started == [("registry.hf.space/my-org-some-env:v2", {})]
    env.close()
    with pytest.raises(Exception, match="expected a provider"):
        GenericEnvClient.from_env("a/b", use_docker=False)


def test_a_provider_that_fails_is_stopped(apart: Serving) -> None:
    """Its error is raised, and nothing stays behind."""

    class Broken(FakeProvider):
        def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
            raise TimeoutError("never ready")

    provider = Broken(_url(apart))
    env = CountEnv.from_docker_image("count", provider)
    with pytest.raises(TimeoutError, match="never ready"):
        env.reset()
    assert provider.stopped == 1
    env.close()


def test_a_provider_can_be_given_to_the_client(apart: Serving) -> None:
    """A runtime provider needs no arguments."""

    class Runtime:
        stopped = 0

        def start(self) -> str:
            return _url(apart)

        def wait_for_ready(self, timeout_s: float = 30.0) -> None:
            pass

        def stop(self) -> None:
            self.stopped += 1

    provider = Runtime()
    with CountEnv(provider=provider) as env:
        assert env.base_url == _url(apart)
        env.reset()
    assert provider.stopped == 1
    with pytest.raises(TypeError, match=r"start_container\(\) or start\(\)"):
        CountEnv(provider=object())
