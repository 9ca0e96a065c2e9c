"""One session: calls, errors, types, what happens when two calls meet."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from openenv_async import (
    Array,
    AtCapacity,
    ConnectFailed,
    DeadlineExceeded,
    EnvClient,
    EnvironmentFailed,
    EpisodeDone,
    GenericEnv,
    InvalidAction,
    LocalProtocolError,
    RemoteProtocolError,
    ResetRequired,
    SessionBusy,
    SessionClosed,
    State,
    Unauthorized,
    UnknownEnvironment,
)
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import (
    BlockingEnvironment,
    Command,
    Report,
    ScriptedEnvironment,
    executions,
    journal,
)
from tests.serving import eventually, serving


async def test_an_episode_from_the_first_call_to_the_last() -> None:
    """reset, step and state return typed values, and leaving closes the environment."""
    async with serving() as server:
        async with ScriptedEnv(server.url) as env:
            first = await env.reset(seed=7, episode_id="e1", options={"length": 2})
            assert first.observation == Report(text="seed 7")
            assert (first.is_reset, first.done, first.reward) == (True, False, None)
            second = await env.step(Command(text="hi"))
            assert second.observation.text == "hi"
            assert (second.reward, second.terminated, second.done) == (
                1.0,
                False,
                False,
            )
            last = await env.step(Command())
            assert (last.terminated, last.truncated, last.done) == (True, False, True)
            assert await env.state() == State(episode_id="e1", step_count=2)
        assert journal == ["built", "reset e1", "closed e1"]
        assert server.sessions == 0
        assert connections() == 0


@pytest.mark.parametrize("tcp", [False, True])
async def test_both_kinds_of_address_work(tcp: bool) -> None:
    """A Unix socket and a port of the loopback are served alike."""
    async with serving(tcp=tcp) as server, ScriptedEnv(server.url) as env:
        await env.reset()
        assert (await env.step(Command())).observation.count == 1


async def test_a_result_tells_where_the_time_went() -> None:
    """Environment, queue and wire add up to the round trip."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        timing = (await env.step(Command(do="sleep", seconds=0.02))).timing
        assert timing.environment_ns >= 19_000_000
        parts = timing.queue_ns + timing.environment_ns + timing.encode_ns
        assert parts + timing.wire_ns == timing.round_trip_ns


async def test_many_sessions_share_one_socket() -> None:
    """Clients of one process with one server use one connection."""
    async with serving() as server:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(_episode(server.url, server.core.links))
        assert server.sessions == 0


async def _episode(url: str, links: set[Any]) -> None:
    async with ScriptedEnv(url) as env:
        await env.reset()
        for count in range(1, 6):
            assert (await env.step(Command(do="sleep"))).observation.count == count
        assert len(links) == 1


async def test_steps_of_different_sessions_interleave() -> None:
    """A session that waits does not hold up its neighbours on the same socket."""
    async with serving() as server:
        async with ScriptedEnv(server.url) as slow, ScriptedEnv(server.url) as fast:
            await slow.reset()
            await fast.reset()
            gate = await holding("slow")
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(slow.step(Command(do="wait", text="slow")))
                for count in range(1, 101):
                    assert (await fast.step(Command())).observation.count == count
                assert not waiting.done()
                gate.set()


# Errors


async def test_a_wrong_action_names_the_field() -> None:
    """An action of another type is refused by the server, and the episode goes on."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match=r"\$\.size") as caught:
            await env.step(Command(size="big"))  # type: ignore[arg-type]  # on purpose
        assert caught.value.executed == "no"
        assert (await env.step(Command())).observation.count == 1


@pytest.mark.parametrize(
    "action", [Command(text="\udc80"), object(), {"text": object()}]
)
async def test_an_action_that_cannot_be_encoded_is_not_sent(action: Any) -> None:
    """What msgpack cannot say is a local error; the session is as it was."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        with pytest.raises(LocalProtocolError, match="encode"):
            await env.step(action)
        assert (await env.step(Command())).observation.count == 1


async def test_the_order_of_calls_is_checked_by_the_server() -> None:
    """A step before a reset and a step after the end are errors of their own."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        with pytest.raises(ResetRequired):
            await env.step(Command())
        await env.reset(options={"length": 1})
        await env.step(Command())
        with pytest.raises(EpisodeDone):
            await env.step(Command())
        await env.reset()


async def test_an_environment_that_raises_shows_its_traceback() -> None:
    """The caller sees the remote traceback, and can go on after a reset."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        with pytest.raises(
            EnvironmentFailed, match="raised ValueError in step"
        ) as caught:
            await env.step(Command(do="fail", text="oh no"))
        assert caught.value.exception == "ValueError"
        assert "raise ValueError(text)" in str(caught.value)
        with pytest.raises(ResetRequired):
            await env.step(Command())
        await env.reset()
        await env.step(Command())


async def test_a_deadline_is_an_error_of_its_own() -> None:
    """A call with a timeout raises DeadlineExceeded; a client's default holds too."""
    async with serving() as server, ScriptedEnv(server.url, timeout=0.05) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await env.step(Command(do="sleep", seconds=60))
        await env.reset()
        await env.step(Command(do="sleep", seconds=0.1), timeout=5)


async def test_two_calls_on_a_session_are_refused_locally() -> None:
    """A second call while one is in flight raises SessionBusy; the first goes on."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        gate = await holding("busy")
        async with asyncio.TaskGroup() as group:
            first = group.create_task(env.step(Command(do="wait", text="busy")))
            await asleep("busy")
            for call in (env.step(Command()), env.reset(), env.state()):
                with pytest.raises(SessionBusy):
                    await call
            gate.set()
        assert first.result().observation.count == 1
        assert server.core.statistics.requests == 2


async def test_a_full_server_is_an_error_with_the_numbers() -> None:
    """AtCapacity has both counts and may be retried; waiting for room helps."""
    async with serving(max_sessions=1) as server:
        async with ScriptedEnv(server.url) as env:
            with pytest.raises(AtCapacity) as caught:
                await ScriptedEnv(server.url).open()
            assert caught.value.detail == {"sessions": 1, "max_sessions": 1}
            assert caught.value.retryable
            waiting = ScriptedEnv(server.url, capacity_timeout=5.0)
            async with asyncio.TaskGroup() as group:
                group.create_task(waiting.open())
                await eventually(lambda: server.core.table.waiting)
                await env.aclose()
        await waiting.reset()
        await waiting.aclose()


async def test_waiting_in_vain_for_room_is_the_same_error() -> None:
    """A capacity_timeout that ends raises AtCapacity."""
    async with serving(max_sessions=1) as server, ScriptedEnv(server.url):
        with pytest.raises(AtCapacity):
            await ScriptedEnv(server.url, capacity_timeout=0.05).open()


async def test_an_unknown_environment_is_an_error() -> None:
    """What the server does not host cannot be opened."""
    async with serving() as server:
        with pytest.raises(UnknownEnvironment, match="scripted"):
            await ScriptedEnv(server.url, environment="chess").open()
        assert connections() == 0


async def test_a_token_is_shown() -> None:
    """The right token lets in; none, or another one, raises Unauthorized."""
    async with serving(token="secret") as server:
        async with ScriptedEnv(server.url, token="secret") as env:
            await env.reset()
        for token in (None, "wrong"):
            with pytest.raises(Unauthorized):
                await ScriptedEnv(server.url, token=token).open()
        assert connections() == 0


@pytest.mark.parametrize("token", ["\u4e2d", "two\nlines"])
def test_a_token_that_no_header_can_hold_is_an_error(token: str) -> None:
    """A token that cannot be sent is refused before anybody waits for it."""
    with pytest.raises(LocalProtocolError, match="ASCII"):
        ScriptedEnv("ws://h", token=token)


@pytest.mark.parametrize(
    "url",
    ["ws+unix:///nowhere/at/all", "ws://127.0.0.1:1", "ws://localhost..invalid:1"],
)
async def test_no_server_is_an_error(url: str) -> None:
    """Nobody there raises ConnectFailed at once, and leaves nothing behind."""
    with pytest.raises(ConnectFailed):
        await ScriptedEnv(url).open()
    assert connections() == 0


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://x", "ws://", "ws://u:p@h", "ws://h?a=b", "ws://h:x"],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    """An address that cannot be meant is a local error."""
    with pytest.raises(LocalProtocolError):
        await ScriptedEnv(url).open()


async def test_a_payload_of_another_type_is_the_servers_fault() -> None:
    """A client of another type than the server's environment is told so."""

    class Other(EnvClient[Command, _Numbers, State]):
        pass

    async with serving() as server, Other(server.url) as env:
        with pytest.raises(RemoteProtocolError, match="client's type") as caught:
            await env.reset()
        assert caught.value.executed == "yes"


class _Numbers(Report, kw_only=True):
    numbers: list[int]


async def test_an_observation_with_a_wrong_field_is_told_to_the_caller() -> None:
    """What the environment returned does not fit its own type: the field is named."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        with pytest.raises(RemoteProtocolError, match=r"\$\.count"):
            await env.step(Command(do="mistyped"))


async def test_calls_need_an_open_session() -> None:
    """Before open and after aclose every call is a local error."""
    async with serving() as server:
        env = ScriptedEnv(server.url)
        for _ in range(2):
            for call in (env.reset(), env.step(Command()), env.state()):
                with pytest.raises(LocalProtocolError, match="open session"):
                    await call
            await env.open()
            with pytest.raises(LocalProtocolError, match="not open yet"):
                await env.open()
            await env.reset()
            await env.aclose()
            await env.aclose()
        assert journal.count("closed None") == 2


async def test_closing_in_a_call_tells_whoever_awaits_it() -> None:
    """A task that awaits a call while another one closes the session gets an error."""
    async with serving() as server:
        env = ScriptedEnv(server.url)
        await env.open()
        await env.reset()
        await holding("closing")
        async with asyncio.TaskGroup() as group:
            step = group.create_task(_expect_closed(env))
            await asleep("closing")
            await env.aclose()
        assert step.done()
        assert server.sessions == 0
        assert executions["closing"] == 0


async def _expect_closed(env: ScriptedEnv) -> None:
    with pytest.raises(SessionClosed):
        await env.step(Command(do="wait", text="closing"))


async def test_a_close_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the environment's close does not hide what happened before."""
    async with serving() as server:
        async with ScriptedEnv(server.url) as env:
            await env.reset(options={"close": "fail"})
        assert server.sessions == 0
    assert "raised ValueError in close" in caplog.text


def test_a_client_needs_types_and_one_address() -> None:
    """A class without types, no address and two addresses are local errors."""
    with pytest.raises(LocalProtocolError, match="GenericEnv"):
        EnvClient("ws://h")
    with pytest.raises(LocalProtocolError, match="not both"):
        ScriptedEnv()


# Progress


async def test_progress_reaches_the_callback() -> None:
    """What a long step reports arrives before its result."""
    seen: list[tuple[float | None, str]] = []
    async with (
        serving(BlockingEnvironment) as server,
        ScriptedEnv(
            server.url, on_progress=lambda part, text: seen.append((part, text))
        ) as env,
    ):
        await env.reset()
        await env.step(Command(do="progress"))
    assert seen == [(0.25, "part 1"), (0.5, "part 2"), (0.75, "part 3")]


async def test_a_callback_that_raises_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in on_progress is logged; the step and its neighbours go on."""

    def fail(_part: float | None, _text: str) -> None:
        raise ValueError("cannot draw")

    async with serving() as server:
        async with ScriptedEnv(server.url, on_progress=fail) as env:
            async with ScriptedEnv(server.url) as other:
                await env.reset()
                await other.reset()
                assert (await env.step(Command(do="progress"))).observation.count == 1
                assert (await other.step(Command())).observation.count == 1
    assert "cannot draw" in caplog.text


# Untyped use


async def test_a_generic_client_needs_no_types() -> None:
    """Dicts go in, dicts come out, with the common fields as attributes."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        async with GenericEnv(server.url, environment="blocking") as env:
            await env.reset(options={"length": 1})
            result = await env.step({"text": "plain"})
            assert result.observation["text"] == "plain"
            assert (result.reward, result.done, result.info) == (1.0, True, {})
            assert await env.state() == {"step_count": 1}


async def test_arrays_are_the_same_on_both_sides() -> None:
    """Arrays travel as binary, in both directions, typed or not."""
    value = np.arange(12, dtype="<f4").reshape(3, 4)
    async with serving() as server:
        async with ScriptedEnv(server.url) as typed, GenericEnv(server.url) as generic:
            await typed.reset()
            await generic.reset()
            action = Command(do="reflect", data=Array.of(value))
            data = (await typed.step(action)).observation.data
            assert data is not None
            assert_array_equal(data.numpy(), value)
            untyped = {"do": "reflect", "data": Array.of(value)}
            data = (await generic.step(untyped)).observation["data"]
            assert_array_equal(data.numpy(), value)


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
async def test_large_observations_arrive_whole(size: int) -> None:
    """Observations far above a frame come in chunks, and as one array."""
    async with serving() as server, ScriptedEnv(server.url) as env:
        await env.reset()
        data = (await env.step(Command(do="array", size=size))).observation.data
        assert data is not None
        assert data.shape == (size,)
        assert data.nbytes == size


async def test_large_actions_arrive_whole() -> None:
    """An action of 5 MiB goes in chunks, while a neighbour steps."""
    value = np.random.default_rng(1).integers(0, 255, 5 << 20, dtype="u1")
    async with serving() as server:
        async with ScriptedEnv(server.url) as env, ScriptedEnv(server.url) as other:
            await env.reset()
            await other.reset()
            async with asyncio.TaskGroup() as group:
                action = Command(do="reflect", data=Array.of(value))
                large = group.create_task(env.step(action))
                assert (await other.step(Command())).observation.count == 1
                assert not large.done()
            data = large.result().observation.data
            assert data is not None
            assert_array_equal(data.numpy(), value)


async def test_an_action_above_the_servers_limit_is_a_local_error() -> None:
    """What the server would not accept is not sent, and the numbers are named."""
    async with serving(message_bytes=100_000) as server, ScriptedEnv(server.url) as env:
        await env.reset()
        with pytest.raises(LocalProtocolError) as caught:
            await env.step(Command(text="x" * 200_000))
        assert caught.value.code == "too_large"
        assert caught.value.detail["limit"] == 100_000
        assert (await env.step(Command())).observation.count == 1
