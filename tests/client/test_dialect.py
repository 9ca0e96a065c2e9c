"""Our client with servers that speak OpenEnv's dialect: the same calls and results."""

from __future__ import annotations

import asyncio

import pytest

from openenv_async import (
    AtCapacity,
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentFailed,
    GenericEnv,
    InvalidAction,
    LocalProtocolError,
    OpenEnvError,
    RemoteProtocolError,
    ReplyLost,
    ResetRequired,
    ServerObserver,
    SessionBusy,
    SessionClosed,
    SessionLost,
    StepInterrupted,
    Unauthorized,
)
from openenv_async.client.connection import ConnectionOptions
from openenv_async.client.dialect import DialectLink
from openenv_async.client.dialect_http import create_session
from openenv_async.client.endpoint import Endpoint
from openenv_async.client.pool import pool_of
from openenv_async.providers import FixedServer
from tests.chaos.cutter import Cutter, cut_off
from tests.client.dialects import (
    OWN_ID,
    CountEnv,
    DialectEnv,
    error,
    in_dialect,
    line_of,
    observation,
    scripted,
    started,
)
from tests.clients import asleep, cancelled, holding
from tests.environments import Command, ScriptedEnvironment, executions
from tests.fakes import answering
from tests.openenv.counting import Count, Counting
from tests.serving import eventually, serving

# Noticing it


async def test_a_server_without_our_subprotocol_is_spoken_to_in_the_dialect() -> None:
    """It costs no connection more: the first socket carries the first session."""
    async with scripted({}) as (url, frames), GenericEnv(url) as env:
        assert isinstance(env._connection, DialectLink)
        assert env.session_id == OWN_ID
        await env.reset(seed=3, options={"level": 2})
        await env.step({"move": 1})
    kinds = [frame["type"] for frame in frames]
    assert kinds == ["mcp", "reset", "step", "close"]
    assert frames[1]["data"] == {"seed": 3, "level": 2}
    assert frames[2]["data"] == {"move": 1}


async def test_the_endpoint_is_remembered_while_it_is_used() -> None:
    """Later sessions share the link, and open plain sockets."""
    async with scripted({}) as (url, _), GenericEnv(url) as first:
        async with GenericEnv(url) as second:
            assert second._connection is first._connection
        pool = pool_of(FixedServer(url), ConnectionOptions())
        assert pool._connections == [first._connection]


async def test_a_server_of_ours_is_spoken_to_in_our_own_language() -> None:
    """The dialect is for those who know nothing better."""
    async with serving(Counting) as server, GenericEnv(server.url) as env:
        assert not isinstance(env._connection, DialectLink)


async def test_what_refuses_right_after_the_handshake_is_heard() -> None:
    """The refusal of the very first socket is the session's."""
    refusal = error("CAPACITY_REACHED", active_sessions=2, max_sessions=2)
    async with scripted({"accept": refusal}) as (url, _):
        with pytest.raises(AtCapacity) as caught:
            await GenericEnv(url).open()
    assert caught.value.detail["sessions"] == 2
    assert caught.value.detail["max_sessions"] == 2
    assert caught.value.detail["dialect_code"] == "CAPACITY_REACHED"
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("code", "kind"),
    [("FACTORY_ERROR", EnvironmentFailed), ("SESSION_ERROR", SessionLost)],
)
async def test_open_says_why_it_was_refused(
    code: str, kind: type[OpenEnvError]
) -> None:
    """Each code has its own class."""
    async with scripted({"accept": error(code)}) as (url, _):
        with pytest.raises(kind, match="it says"):
            await GenericEnv(url).open()


async def test_open_waits_for_a_place_as_long_as_it_was_told() -> None:
    """A full server is asked again, until `capacity_timeout`."""
    async with serving(Counting, max_sessions=1) as server:
        first = CountEnv(server.url)
        await first.open()
        second = started(CountEnv(server.url, capacity_timeout=8.0).open())
        await asyncio.sleep(0.1)
        assert not second.done()
        await first.aclose()
        await second


async def test_open_says_that_nobody_is_there() -> None:
    """A server that went away between two sessions is a failed connection."""
    async with scripted({}) as (url, _):
        pass
    env = DialectEnv(url)
    with pytest.raises(ConnectFailed, match="expected a server"):
        await env.open()


async def test_open_gives_up_on_a_server_that_says_nothing() -> None:
    """Whatever takes a WebSocket and never answers is no OpenEnv server."""
    async with scripted({"mcp": ""}) as (url, _):
        with pytest.raises(ConnectFailed, match=r"within 0\.1 s"):
            await GenericEnv(url, connect_timeout=0.1).open()


async def test_open_takes_any_answer_as_a_session() -> None:
    """A server that does not know the question has made the session all the same."""
    async with scripted({"mcp": error("UNKNOWN_TYPE")}) as (url, _):
        async with GenericEnv(url) as env:
            assert env.session_id == "dialect-1"


async def test_a_token_travels_with_the_handshake() -> None:
    """A server of ours refuses the dialect without it, too."""
    async with serving(Counting, token="secret") as server:
        async with CountEnv(server.url, token="secret") as env:
            await env.reset()
        with pytest.raises(Unauthorized):
            await CountEnv(server.url, token="wrong").open()


async def test_cancelling_open_leaves_nothing() -> None:
    """Neither a task, nor a socket, nor a session."""
    async with scripted({"mcp": ""}) as (url, frames):
        task = started(GenericEnv(url).open())
        await eventually(lambda: frames)
        await cancelled(task)


# What it does not have


async def test_sessions_cannot_be_taken_over() -> None:
    """It is said, not tried."""
    async with serving(Counting) as server:
        with pytest.raises(LocalProtocolError, match="sessions to take over"):
            await CountEnv(server.url, take_over="somebody").open()


async def test_there_is_nothing_to_watch() -> None:
    """An observer is told that the server has no lists."""
    async with scripted({}) as (url, _), ServerObserver(url) as observer:
        with pytest.raises(LocalProtocolError, match="lists and watches"):
            await observer.sessions()


async def test_a_named_environment_is_not_checked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The dialect has no names; that is said once."""
    async with scripted({}) as (url, _):
        async with GenericEnv(url, environment="chess") as env:
            await env.reset()
    assert "'chess' was not checked" in caplog.text


# Calls


async def test_results_are_typed() -> None:
    """Observation, reward, end, metadata and state are what our own server sends."""
    async with serving(Counting) as server, CountEnv(server.url) as env:
        begun = await env.reset(seed=3, episode_id="e", options={"start": 2, "x": 1})
        assert begun.observation.total == 2
        assert begun.info == {"seed": 3, "kw": ["x"]}
        assert begun.reward is None
        result = await env.step(Count(delta=2))
        assert (result.observation.total, result.reward, result.done) == (4, 2.0, False)
        result = await env.step(Count(delta=8))
        assert (result.terminated, result.truncated) == (True, False)
        state = await env.state()
        assert (state.episode_id, state.step_count, state.total) == ("e", 2, 12)


@pytest.mark.parametrize("kind", ["int", "bool"])
async def test_every_reward_is_a_number(kind: str) -> None:
    """`true` is a reward in OpenEnv, and 1.0 here."""
    async with serving(Counting) as server, CountEnv(server.url) as env:
        await env.reset()
        result = await env.step(Count(delta=1, reward_kind=kind))  # type: ignore[arg-type]  # one of them
        assert result.reward == 1


async def test_a_refused_action_was_not_executed() -> None:
    """The session goes on after it."""
    async with serving(Counting) as server, GenericEnv(server.url) as env:
        await env.reset()
    async with scripted({"step": [error("VALIDATION_ERROR"), observation(x=1)]}) as (
        url,
        _,
    ):
        async with GenericEnv(url) as env:
            with pytest.raises(InvalidAction) as caught:
                await env.step({"delta": 99})
            assert caught.value.executed == "no"
            assert (await env.step({"delta": 1})).observation["x"] == 1


async def test_what_an_environment_raises_may_have_been_executed() -> None:
    """OpenEnv does not tell, so nobody knows; the session goes on."""
    async with serving(Counting) as server, CountEnv(server.url) as env:
        await env.reset()
    async with scripted({"step": error("EXECUTION_ERROR", "boom")}) as (url, _):
        async with GenericEnv(url) as env:
            with pytest.raises(EnvironmentFailed, match="boom") as caught:
                await env.step({})
            assert caught.value.executed == "unknown"
            assert (await env.reset()).observation == {"reward": None, "metadata": {}}


@pytest.mark.parametrize("action", [7, [1], "text", {"x": object()}])
async def test_only_objects_are_actions(action: object) -> None:
    """What the dialect cannot say is refused here, and the session goes on."""
    async with scripted({}) as (url, frames), GenericEnv(url) as env:
        with pytest.raises(LocalProtocolError) as caught:
            await env.step(action)
        assert caught.value.code == "invalid_action"
        await env.step({})
    assert [frame["type"] for frame in frames] == ["mcp", "step", "close"]


@pytest.mark.parametrize("seed", ["one", 2**63])
async def test_a_seed_is_an_integer(seed: int) -> None:
    """OpenEnv takes anything; we do not send it."""
    async with scripted({}) as (url, _), GenericEnv(url) as env:
        with pytest.raises(LocalProtocolError, match="64 bits"):
            await env.reset(seed=seed)


async def test_two_calls_at_once_are_refused() -> None:
    """The second is told; the first is not disturbed."""
    async with serving() as server, DialectEnv(server.url) as env:
        await env.reset()
        gate = await holding("busy")
        first = started(env.step(Command(do="wait", text="busy")))
        await asleep("busy")
        with pytest.raises(SessionBusy):
            await env.state()
        gate.set()
        assert (await first).observation.count == 1


async def test_a_session_that_was_closed_takes_no_calls() -> None:
    """As with our own server."""
    async with scripted({}) as (url, _):
        env = GenericEnv(url)
        await env.open()
        await env.aclose()
        with pytest.raises(LocalProtocolError, match="open session"):
            await env.step({})


# Time


async def test_a_call_that_takes_too_long_ends_the_episode() -> None:
    """Its late reply is thrown away; a reset is answered by its own."""
    async with serving() as server, DialectEnv(server.url) as env:
        await env.reset()
        gate = await holding("late")
        with pytest.raises(DeadlineExceeded, match="cannot stop") as caught:
            await env.step(Command(do="wait", text="late"), timeout=0.05)
        assert caught.value.executed == "unknown"
        with pytest.raises(ResetRequired, match="broken by an earlier request"):
            await env.step(Command())
        gate.set()
        assert (await env.reset(episode_id="next")).observation.count == 0
        assert (await env.step(Command())).observation.count == 1
    assert executions["late"] == 1


async def test_a_state_that_comes_late_breaks_nothing() -> None:
    """It changed nothing, so the episode goes on."""
    answers = {"state": ["", {"type": "state", "data": {"step_count": 4}}]}
    async with scripted(answers) as (url, _), GenericEnv(url) as env:
        with pytest.raises(DeadlineExceeded):
            await env.state(timeout=0.05)
        with pytest.raises(LocalProtocolError, match="positive number"):
            await env.state(timeout=0)


async def test_a_cancelled_step_is_told_of_by_the_next_one() -> None:
    """Nothing stops it, so it is executed, and its result is there."""
    async with serving() as server, DialectEnv(server.url) as env:
        await env.reset()
        gate = await holding("gone")
        task = started(env.step(Command(do="wait", text="gone")))
        await asleep("gone")
        await cancelled(task)
        gate.set()
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Command())
        assert caught.value.executed == "yes"
        assert caught.value.result.observation.count == 1  # type: ignore[attr-defined]  # a result
        assert (await env.step(Command())).observation.count == 2


# Cut connections


async def test_a_cut_connection_is_a_lost_session() -> None:
    """Nobody knows whether the step was executed; nothing goes on in a new session."""
    async with serving() as server, cut_off(server) as proxy:
        async with DialectEnv(proxy.url) as env:
            await env.reset()
            await holding("cut")
            task = started(env.step(Command(do="wait", text="cut")))
            await asleep("cut")
            proxy.cut()
            with pytest.raises(SessionLost) as caught:
                await task
            assert caught.value.executed == "unknown"
            assert not env.is_open
            for call in (env.reset(), env.step(Command()), env.state()):
                with pytest.raises(SessionLost) as caught:
                    await call
                assert caught.value.executed == "no"
        assert proxy.accepted == 1


async def test_a_connection_cut_between_calls_loses_no_call() -> None:
    """The next call is told that it was not executed."""
    async with serving() as server, cut_off(server) as proxy:
        async with DialectEnv(proxy.url) as env:
            await env.reset()
            proxy.cut()
            await eventually(lambda: not env.is_open)
            with pytest.raises(SessionLost) as caught:
                await env.step(Command(text="never"))
            assert caught.value.executed == "no"
    assert executions["never"] == 0


async def test_a_session_error_ends_the_session() -> None:
    """OpenEnv hangs up after it."""
    async with scripted({"step": error("SESSION_ERROR", "not serialisable")}) as (
        url,
        _,
    ):
        async with GenericEnv(url) as env:
            with pytest.raises(SessionLost, match="not serialisable") as caught:
                await env.step({})
            assert caught.value.executed == "unknown"
            with pytest.raises(SessionClosed):
                await env.reset()


@pytest.mark.parametrize(
    ("answer", "executed"),
    [
        ("{", "unknown"),
        ({"type": "state", "data": {}}, "unknown"),
        ({"type": "observation", "data": {"observation": [1]}}, "yes"),
    ],
)
async def test_an_answer_that_cannot_be_read_ends_the_session(
    answer: object, executed: str
) -> None:
    """Later answers would belong to nobody knows what."""
    async with scripted({"step": answer}) as (url, _), GenericEnv(url) as env:
        with pytest.raises(SessionLost, match="expected") as caught:
            await env.step({})
        assert caught.value.executed == executed


async def test_a_request_that_is_too_large_was_not_executed() -> None:
    """The server hangs up with the reason, before it has read all."""
    async with scripted({}) as (url, _), GenericEnv(url) as env:
        with pytest.raises(SessionLost, match="too large for it") as caught:
            await env.step({"text": "x" * (1 << 21)})
        assert caught.value.executed == "no"


# A session that outlives its socket


@pytest.fixture
async def proxy_and_env():  # type: ignore[no-untyped-def]  # of a fixture
    """A session with a lease, behind something that cuts."""
    async with serving(Counting) as server, cut_off(server) as proxy:
        async with CountEnv(proxy.url, lease=20.0) as env:
            assert line_of(env).attach_id == env.session_id
            yield proxy, env
        # Its end is over HTTP.
        await eventually(lambda: server.sessions == 0)


async def test_a_leased_session_survives_its_socket(
    proxy_and_env: tuple[Cutter, CountEnv],
) -> None:
    """Nothing was in flight, so nothing is lost."""
    proxy, env = proxy_and_env
    await env.reset(options={"start": 5})
    proxy.cut()
    await eventually(lambda: line_of(env).socket is None)
    assert (await env.step(Count(delta=1))).observation.total == 6
    assert (await env.state()).step_count == 1


async def test_a_counted_step_was_executed(
    proxy_and_env: tuple[Cutter, CountEnv],
) -> None:
    """Its reply is lost, and `step_count` proves that the step is not."""
    proxy, env = proxy_and_env
    await env.reset()
    await env.step(Count(delta=1))
    task = started(env.step(Count(delta=2, sleep_s=0.2)))
    await asyncio.sleep(0.05)
    proxy.cut()
    with pytest.raises(ReplyLost, match="from 1 to 2") as caught:
        await task
    assert caught.value.executed == "yes"
    assert caught.value.detail == {"step_count": 2, "expected_before": 1}
    assert (await env.state()).total == 3


async def test_an_uncounted_step_is_not_repeated(
    proxy_and_env: tuple[Cutter, CountEnv],
) -> None:
    """It may have failed before it was counted: that is for the caller to decide."""
    proxy, env = proxy_and_env
    await env.reset()
    await env.step(Count(delta=1))
    proxy.stall("up")
    task = started(env.step(Count(delta=2)))
    await asyncio.sleep(0.05)
    proxy.cut()
    proxy.resume()
    with pytest.raises(ReplyLost, match="still 1") as caught:
        await task
    assert caught.value.executed == "unknown"
    assert (await env.step(Count(delta=2))).observation.total == 3


async def test_a_reset_in_flight_is_not_guessed(
    proxy_and_env: tuple[Cutter, CountEnv],
) -> None:
    """Steps wait for another one."""
    proxy, env = proxy_and_env
    proxy.stall("up")
    task = started(env.reset())
    await asyncio.sleep(0.05)
    proxy.cut()
    proxy.resume()
    with pytest.raises(ReplyLost, match="'reset'") as caught:
        await task
    assert caught.value.executed == "unknown"
    with pytest.raises(ResetRequired):
        await env.step(Count(delta=1))
    await env.reset()


async def test_a_state_in_flight_is_asked_again(
    proxy_and_env: tuple[Cutter, CountEnv],
) -> None:
    """It changes nothing."""
    proxy, env = proxy_and_env
    await env.reset()
    proxy.stall("up")
    task = started(env.state())
    await asyncio.sleep(0.05)
    proxy.cut()
    proxy.resume()
    assert (await task).step_count == 0


async def test_a_lease_ends() -> None:
    """When nobody answers for that long, the session is lost."""
    async with serving(Counting) as server, cut_off(server) as proxy:
        async with CountEnv(proxy.url, lease=0.3) as env:
            await env.reset()
            proxy.refuse()
            proxy.cut()
            await eventually(lambda: line_of(env).socket is None)
            with pytest.raises(SessionLost, match="attaching again failed") as caught:
                await env.step(Count(delta=1))
            assert caught.value.executed == "no"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("404 Not Found", None),
        ('200 OK|{"id":1,"error":{"code":-32601,"message":"no"}}', None),
        ('200 OK|{"id":1,"result":{"session_id":"s"}}', "s"),
    ],
)
async def test_create_session_tells_whether_there_are_lasting_ones(
    answer: str, expected: str | None
) -> None:
    """A server without them is no error: its sessions go with their sockets."""
    status, _, body = answer.partition("|")
    async with answering(f"HTTP/1.0 {status}\r\n\r\n{body}".encode()) as url:
        created = await create_session(Endpoint.parse(url), ConnectionOptions())
    assert created == expected


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("401 Unauthorized", Unauthorized),
        ("500 Oh", RemoteProtocolError),
        ("200 OK|[]", RemoteProtocolError),
        (
            '200 OK|{"error":{"code":-32000,"message":"","data":{"max_sessions":1}}}',
            AtCapacity,
        ),
        ('200 OK|{"error":{"code":-32000,"message":"factory"}}', EnvironmentFailed),
    ],
)
async def test_create_session_says_why_there_is_none(
    answer: str, kind: type[OpenEnvError]
) -> None:
    """Each reason has its own class, and nothing was executed."""
    status, _, body = answer.partition("|")
    async with answering(f"HTTP/1.0 {status}\r\n\r\n{body}".encode()) as url:
        with pytest.raises(kind):
            await create_session(Endpoint.parse(url), ConnectionOptions())


# Many sessions


async def test_a_batch_has_a_socket_for_each_session() -> None:
    """Results are in order, and one lost session disturbs no other."""
    async with serving(Counting) as server:
        batch = in_dialect(CountEnv.batch(server.url, size=70))
        async with batch as envs:
            assert server.sessions == 70
            begun = await envs.reset(seeds=range(70))
            seeds = [result.info["seed"] for result in begun]  # type: ignore[union-attr]  # no failure
            assert seeds == list(range(70))
            results = await envs.step([Count(delta=index % 3) for index in range(70)])
            totals = [result.observation.total for result in results]  # type: ignore[union-attr]  # no failure
            assert totals == [index % 3 for index in range(70)]
        await eventually(lambda: server.sessions == 0)


async def test_a_batch_opens_lost_sessions_anew_at_a_reset() -> None:
    """A failed row says so; the others go on."""
    async with serving(Counting) as server:
        async with in_dialect(CountEnv.batch(server.url, size=3)) as envs:
            await envs.reset()
            link = envs._connections[0]
            assert isinstance(link, DialectLink)
            slot = envs._slots[1]
            socket = link._lines[slot.session.handle].socket
            assert socket is not None
            socket.abort()
            await eventually(lambda: slot.session.ended is not None)
            first, lost, last = await envs.step([Count(delta=1)] * 3)
            assert isinstance(lost.error, SessionLost)  # type: ignore[union-attr]  # a failure
            assert first.observation.total == last.observation.total == 1  # type: ignore[union-attr]  # no failures
            again = await envs.reset()
            assert all(result.is_reset for result in again)  # type: ignore[union-attr]  # no failures


async def test_a_batch_yields_whoever_is_done_first() -> None:
    """A slow session keeps nobody waiting."""
    async with serving(ScriptedEnvironment) as server:
        async with in_dialect(DialectEnv.batch(server.url, size=4)) as envs:
            await envs.reset()
            gate = await holding("slow")
            slow = Command(do="wait", text="slow")
            envs.send([0, 1, 2, 3], [slow, Command(), Command(), Command()])
            seen: set[int] = set()
            async for ready in envs.ready(min=1):
                seen.update(ready.indices)
                if seen == {1, 2, 3}:
                    gate.set()
                if len(seen) == 4:
                    break
