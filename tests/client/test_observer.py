"""`ServerObserver` and taking sessions over, beside their owners."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from openenv_async import (
    ConnectFailed,
    LocalProtocolError,
    OpenEnvError,
    ServerObserver,
    SessionEvent,
    SessionLost,
    TakenOver,
)
from openenv_async import messages as m
from openenv_async.client import observer as observer_module
from openenv_async.client.connection import Connection
from openenv_async.client.observer import _Inbox
from tests.clients import ScriptedEnv, asleep, connections, holding
from tests.environments import BlockingEnvironment, Command, ScriptedEnvironment
from tests.serving import Peer, Serving, dial, eventually, serving


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    """A server on which nothing may be left."""
    async with serving() as running:
        yield running
        assert connections() == 0
        assert running.sessions == 0


def _watchers(server: Serving, env: ScriptedEnv) -> int:
    return len(server.core.table.by_id[env.session_id].watchers or ())


@contextlib.asynccontextmanager
async def _watching(
    server: Serving, observer: ServerObserver, env: ScriptedEnv, *, queue: int = 256
) -> AsyncIterator[asyncio.Task[list[SessionEvent]]]:
    """Collect a session's events from now until it ends."""
    before = _watchers(server, env)

    async def collect() -> list[SessionEvent]:
        return [event async for event in observer.watch(env.session_id, queue=queue)]

    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect())
        await eventually(lambda: _watchers(server, env) > before)
        yield task


# Lists


async def test_sessions_are_listed() -> None:
    """Rows tell owner, environment, progress and reward of each session."""
    async with (
        serving(ScriptedEnvironment, BlockingEnvironment) as server,
        ScriptedEnv(server.url, owner="me") as one,
        ScriptedEnv(server.url, environment="blocking"),
        ServerObserver(server.url) as observer,
    ):
        await one.reset()
        await one.step(Command())
        await one.step(Command())
        rows = {row.environment: row for row in await observer.sessions()}
        assert rows.keys() == {"scripted", "blocking"}
        row = rows["scripted"]
        assert (row.session, row.owner) == (one.session_id, "me")
        assert (row.episode, row.step, row.reward) == (1, 2, 3.0)
        assert (row.attached, row.taken_over, row.busy) == (True, False, None)
        assert row.age > 0
        (only,) = await observer.sessions(environment="blocking")
        assert only == rows["blocking"] or only.session == rows["blocking"].session
        assert len(await observer.sessions(limit=1)) == 1
        assert await observer.sessions(environment="unknown") == []
        assert len(server.core.links) == 1


async def test_a_running_call_is_shown(server: Serving) -> None:
    """A session that is in a step tells for how long."""
    async with (
        ScriptedEnv(server.url) as env,
        ServerObserver(server.url) as observer,
        asyncio.TaskGroup() as group,
    ):
        await env.reset()
        gate = await holding("row")
        step = group.create_task(env.step(Command(do="wait", text="row")))
        await asleep("row")
        (row,) = await observer.sessions()
        assert row.busy is not None
        assert row.busy >= 0
        gate.set()
        await step


# Watching


async def test_every_kind_of_event_is_seen(server: Serving) -> None:
    """Requests and replies of the owner arrive in order, and the end is the last."""
    async with ServerObserver(server.url) as observer:
        env = ScriptedEnv(server.url)
        await env.open()
        async with _watching(server, observer, env) as watching:
            await env.reset(seed=3, options={"a": 1})
            await env.step(Command(text="hi"))
            await env.state()
            with pytest.raises(OpenEnvError):
                await env.step(Command(do="fail", text="broken"))
            await env.aclose()
        events = watching.result()
    kinds = [event.kind for event in events]
    assert kinds == ["reset", "step", "state", "error", "ended"]
    reset, step, state, error, _ = events
    assert reset.request["seed"] == 3
    assert reset.request["options"] == {"a": 1}
    assert reset.payload == {"text": "seed 3"}
    assert step.request["text"] == "hi"
    assert (step.payload["reward"], step.payload["count"]) == (1.0, 1)
    assert state.payload == {"step_count": 1}
    assert error.payload["code"] == "environment_failed"
    assert [event.seq for event in events[:4]] == [1, 2, 3, 4]
    assert {event.dropped for event in events} == {0}
    assert step.timing.environment_ns > 0
    assert step.timing.wire_ns == 0


async def test_arrays_are_seen_as_arrays(server: Serving) -> None:
    """Payloads are decoded like a generic client's, however large."""
    async with ServerObserver(server.url) as observer:
        env = ScriptedEnv(server.url)
        await env.open()
        async with _watching(server, observer, env) as watching:
            await env.reset()
            await env.step(Command(do="array", size=1 << 20))
            await env.aclose()
        step = watching.result()[1]
    assert step.payload["data"].nbytes == 1 << 20


async def test_watchers_do_not_disturb_each_other(server: Serving) -> None:
    """Several see the same; one that leaves takes nothing from the others."""
    async with (
        ServerObserver(server.url) as observer,
        ServerObserver(server.url, token="another socket") as other,
    ):
        env = ScriptedEnv(server.url)
        await env.open()
        async with (
            _watching(server, observer, env) as first,
            _watching(server, other, env) as second,
        ):
            async with contextlib.aclosing(observer.watch(env.session_id)) as third:
                coming = asyncio.ensure_future(anext(third))  # noqa: TID251 (awaited below)
                await eventually(lambda: _watchers(server, env) == 3)
                await env.reset()
                assert (await coming).kind == "reset"
            await eventually(lambda: _watchers(server, env) == 2)
            await env.step(Command())
            await env.aclose()
        expected = ["reset", "step", "ended"]
        assert [event.kind for event in first.result()] == expected
        assert [event.kind for event in second.result()] == expected


async def test_an_unknown_session_is_an_error(server: Serving) -> None:
    """There is nothing to watch, and the observer goes on."""
    async with ServerObserver(server.url) as observer:
        with pytest.raises(SessionLost, match="nobody") as caught:
            await anext(observer.watch("nobody"))
        assert caught.value.code == "unknown_session"
        assert await observer.sessions() == []


async def _event(peer: Peer, streams: dict[int, bytes]) -> m.Event:
    """The next event, put together from its chunks."""
    while True:
        message = await peer.receive()
        if isinstance(message, m.Chunk):
            data = streams.pop(message.stream, b"") + message.data
            if not message.final:
                streams[message.stream] = data
                continue
            message = peer.codec.from_server.message(data)
        assert isinstance(message, m.Event)
        return message


async def test_a_slow_watcher_loses_events_but_costs_nobody(server: Serving) -> None:
    """A peer that reads nothing is told how many it missed; the trainer goes on."""
    async with dial(server) as peer, ScriptedEnv(server.url) as env:
        await env.reset()
        await peer.send(m.Watch(1, env.session_id, 4))
        await peer.expect(m.Watching)
        for count in range(1, 41):
            # Nobody reads from the peer's socket: its queue on the server fills.
            async with asyncio.timeout(5):
                result = await env.step(Command(do="array", size=1 << 20))
            assert result.observation.count == count
        events: list[m.Event] = []
        streams: dict[int, bytes] = {}
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.1):
                    events.append(await _event(peer, streams))
        assert 0 < len(events) < 40
        await env.step(Command())
        events.append(await _event(peer, streams))
        assert len(events) + sum(event.dropped for event in events) == 41


def test_events_that_nobody_takes_are_counted() -> None:
    """The client's own queue is bounded, and it never loses the end."""
    inbox = _Inbox()
    payload = m.raw(b"\xc0")
    for seq in range(observer_module._BACKLOG + 5):
        inbox.deliver(m.Event(1, "step", seq, 0, payload, payload))
    inbox.deliver(m.Event(1, "ended", 0, 0, payload, payload))
    assert inbox.dropped == 5
    last = inbox.messages[-1]
    assert isinstance(last, m.Event)
    assert last.kind == "ended"


async def test_a_lost_connection_ends_a_watch(server: Serving) -> None:
    """Nobody waits for events that cannot come."""
    async with ScriptedEnv(server.url, token="trainer") as env:
        async with ServerObserver(server.url) as observer:
            coming = asyncio.ensure_future(anext(observer.watch(env.session_id)))  # noqa: TID251 (awaited below)
            await eventually(lambda: _watchers(server, env) == 1)
            (connection,) = (observer._open(),)
            assert isinstance(connection, Connection)
            assert connection._socket is not None
            connection._socket.abort()
            with pytest.raises(SessionLost, match="connection was lost"):
                await coming
            # Until it is back, there is nobody to ask.
            with pytest.raises(ConnectFailed):
                await observer.sessions()
            await eventually(lambda: connection.protocol.ready)
            assert len(await observer.sessions()) == 1


async def test_an_observer_needs_its_block(server: Serving) -> None:
    """Outside of `async with` calls are misuse."""
    observer = ServerObserver(server.url)
    with pytest.raises(LocalProtocolError, match="open observer"):
        await observer.sessions()
    async with observer:
        assert await observer.sessions() == []
    with pytest.raises(LocalProtocolError, match="open observer"):
        await anext(observer.watch("any"))


# Taking over


async def test_a_guest_drives_and_hands_back(server: Serving) -> None:
    """Meanwhile the owner's calls are `TakenOver`; afterwards the episode goes on."""
    async with (
        ScriptedEnv(server.url) as owner,
        ServerObserver(server.url) as observer,
    ):
        await owner.reset()
        await owner.step(Command())
        async with ScriptedEnv(server.url, take_over=owner.session_id) as guest:
            (row,) = await observer.sessions()
            assert row.taken_over
            assert (await guest.step(Command())).observation.count == 2
            with pytest.raises(TakenOver) as caught:
                await owner.step(Command())
            assert (caught.value.executed, caught.value.retryable) == ("no", True)
        assert (await owner.step(Command())).observation.count == 3
        (row,) = await observer.sessions()
        assert not row.taken_over


async def test_an_owner_that_holds_waits(server: Serving) -> None:
    """With `hold` the owner's step runs when the session has been handed back."""
    async with ScriptedEnv(server.url, hold=True) as owner:
        await owner.reset()
        async with asyncio.TaskGroup() as group:
            async with ScriptedEnv(server.url, take_over=owner.session_id) as guest:
                step = group.create_task(owner.step(Command()))
                for count in range(1, 4):
                    assert (await guest.step(Command())).observation.count == count
                assert not step.done()
        assert step.result().observation.count == 4


async def test_a_guest_that_vanishes_is_forgotten_after_its_lease(
    server: Serving,
) -> None:
    """A socket that drops does not keep a session from its owner for long."""
    async with ScriptedEnv(server.url, hold=True) as owner:
        await owner.reset()
        async with asyncio.TaskGroup() as group:
            async with dial(server) as peer:
                await peer.send(m.TakeOver(1, owner.session_id, "ab" * 16, 0.05))
                await peer.expect(m.Opened)
                step = group.create_task(owner.step(Command()))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await asyncio.shield(step)
            # The guest is gone now, and its lease runs.
        assert step.result().observation.count == 1


async def test_a_session_that_nobody_has_cannot_be_taken_over(server: Serving) -> None:
    """An unknown id and a session that has a guest already are typed errors."""
    with pytest.raises(SessionLost):
        await ScriptedEnv(server.url, take_over="nobody").open()
    async with (
        ScriptedEnv(server.url) as owner,
        ScriptedEnv(server.url, take_over=owner.session_id),
    ):
        with pytest.raises(OpenEnvError):
            await ScriptedEnv(server.url, take_over=owner.session_id).open()
