"""OpenEnv's frames at `/ws`, against what its own server answered, and beyond it."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from openenv_async import messages as m
from tests.openenv.counting import (
    BlockingCounting,
    Count,
    Counting,
    OrderedCounting,
    Unbuildable,
)
from tests.openenv.recordings import disagreement, recorded
from tests.openenv.sockets import plain
from tests.openenv.tooling import Tooling
from tests.serving import dial, eventually, serving

_EXCHANGES = recorded("websocket")


@pytest.mark.parametrize("stock", [False, True])
@pytest.mark.parametrize("environment", [Counting, BlockingCounting])
async def test_every_recorded_frame_is_answered_alike(
    environment: Any, stock: bool
) -> None:
    """A conversation with OpenEnv 0.10.0 goes the same way here, frame by frame."""
    async with serving(environment, stock=stock) as server, plain(server) as wire:
        faults = {}
        for exchange in _EXCHANGES:
            ours = await wire.ask(exchange["send"])
            if fault := disagreement(ours, exchange["receive"]):
                faults[exchange["title"]] = fault
        assert faults == {}


async def test_worker_processes_answer_alike() -> None:
    """What an environment in a worker process says has the same form."""
    async with serving(Counting, execution="process", workers=1) as server:
        async with plain(server) as wire:
            for exchange in _EXCHANGES[:15]:
                ours = await wire.ask(exchange["send"])
                assert disagreement(ours, exchange["receive"]) == ""


# What cannot be read costs nothing else


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{not json", "INVALID_JSON"),
        ("", "INVALID_JSON"),
        ('{"type":"step","data":{"delta":NaN}}', "INVALID_JSON"),
        (b'{"type":"state"}', "INVALID_JSON"),
        (b"\xff\x00", "INVALID_JSON"),
        ('"abc"', "VALIDATION_ERROR"),
        ("[1]", "VALIDATION_ERROR"),
        ("null", "VALIDATION_ERROR"),
        ('{"type":"reset","data":[1]}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"seed":"abc"}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"seed":true}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"seed":1e400}}', "VALIDATION_ERROR"),
        ('{"type":"reset","data":{"episode_id":3}}', "VALIDATION_ERROR"),
        ('{"type":"close","data":{}}', "VALIDATION_ERROR"),
        ('{"type":"mcp"}', "VALIDATION_ERROR"),
        ('{"type":["step"]}', "UNKNOWN_TYPE"),
        ("[" * 100_000, "INVALID_JSON"),
    ],
)
async def test_bad_frame_costs_only_its_answer(frame: str | bytes, code: str) -> None:
    """One error answers it; the session goes on where it was."""
    async with serving(Counting) as server, plain(server) as wire:
        await wire.reset(start=1)
        answer = await wire.ask(frame)
        assert (answer["type"], answer["data"]["code"]) == ("error", code)
        assert (await wire.step(delta=1))["observation"]["total"] == 2


async def test_binary_frame_waits_for_its_turn() -> None:
    """Its error comes after the answer to the step before it, never before."""
    async with serving(Counting) as server, plain(server) as wire:
        await wire.send({"type": "step", "data": {"delta": 1, "sleep_s": 0.02}})
        await wire.send(b"\x00")
        assert (await wire.receive())["type"] == "observation"
        assert (await wire.receive())["data"]["code"] == "INVALID_JSON"


async def test_frame_over_the_limit_closes_with_1009() -> None:
    """Nobody can fill the memory with one frame; up to the limit all is taken."""
    async with serving(Counting, openenv_bytes=100_000) as server:
        async with plain(server) as wire:
            options = {"pad": "x" * 99_000}
            assert (await wire.reset(**options))["done"] is False
            await wire.send({"type": "reset", "data": {"pad": "x" * 200_000}})
            assert await wire.closed() == 1009
        await eventually(lambda: server.sessions == 0)


async def test_frame_larger_than_our_own_limit_is_taken() -> None:
    """OpenEnv's clients send up to 16 MiB in one frame, also as their first."""
    async with serving(Counting, frame_bytes=64 * 1024) as server:
        async with plain(server) as wire:
            answer = await wire.reset(pad="x" * 600_000)
            assert answer["observation"]["note"] == "reset"


async def test_requests_without_waiting_are_answered_in_order() -> None:
    """More requests than fit the backlog are all answered, one after the other."""
    async with serving(Counting) as server, plain(server) as wire:
        await wire.reset(start=0)
        for _ in range(200):
            await wire.send({"type": "step", "data": {"delta": 1}})
        totals = [
            (await wire.receive())["data"]["observation"]["total"] for _ in range(200)
        ]
        assert totals == list(range(1, 201))


@pytest.mark.parametrize("stock", [False, True])
async def test_peer_that_never_waits_is_not_read_any_further(stock: bool) -> None:
    """While a step runs, only a bounded number of requests is taken from the peer."""
    async with serving(Counting, stock=stock) as server, plain(server) as wire:
        await wire.send({"type": "step", "data": {"delta": 0, "sleep_s": 0.2}})
        for _ in range(500):
            await wire.send({"type": "state"})
        (link,) = server.core.links
        assert len(link.protocol._frames) <= 65  # type: ignore[attr-defined]  # the bound is what is tested
        for _ in range(501):
            await wire.receive()


# Order of calls


async def test_our_own_environments_keep_their_order_of_calls() -> None:
    """Where the author did not allow it, a step needs a running episode."""
    async with serving(OrderedCounting) as server, plain(server) as wire:
        early = await wire.step(delta=1)
        assert (early["code"], early["error_code"]) == (
            "EXECUTION_ERROR",
            "reset_required",
        )
        assert early["executed"] == "no"
        assert (await wire.state())["step_count"] == 0
        await wire.reset()
        assert (await wire.step(delta=10))["done"] is True
        assert (await wire.step(delta=1))["error_code"] == "episode_done"
        await wire.reset()
        assert (await wire.step(delta=1, boom=True))["message"] == "kaboom in step"
        assert (await wire.step(delta=1))["error_code"] == "episode_broken"


async def test_options_arrive_with_and_without_their_name() -> None:
    """`reset(options={...})` and `reset(**options)` mean the same."""
    async with serving(OrderedCounting) as server, plain(server) as wire:
        named = await wire.reset(options={"start": 3}, seed=1)
        assert named["observation"]["total"] == 3
        assert (await wire.reset(start=4))["observation"]["total"] == 4


# Sessions


async def test_refusal_at_capacity_comes_first() -> None:
    """A full server says so before anything is asked, and closes with 1000."""
    async with serving(Counting, max_sessions=1) as server, plain(server) as first:
        await first.reset()
        async with plain(server) as second:
            told = (await second.receive())["data"]
            assert told["code"] == "CAPACITY_REACHED"
            assert (told["active_sessions"], told["max_sessions"]) == (1, 1)
            assert told["message"] == (
                "Server at capacity: 1/1 sessions active. "
                "Cannot accept new connections."
            )
            assert await second.closed() == 1000
        assert (await first.step(delta=1))["reward"] == 1.0


async def test_unbuildable_environment_is_a_factory_error() -> None:
    """The first request learns it; the connection ends with 1000."""
    async with serving(Unbuildable) as server, plain(server) as wire:
        told = (await wire.ask({"type": "reset"}))["data"]
        assert (told["code"], told["factory_name"]) == ("FACTORY_ERROR", "Unbuildable")
        assert "factory boom" in told["message"]
        assert await wire.closed() == 1000


async def test_close_frame_ends_session_and_connection() -> None:
    """It has no answer: the server closes with 1000 and the environment is gone."""
    async with serving(Counting) as server, plain(server) as wire:
        await wire.reset()
        await wire.send({"type": "close"})
        assert await wire.closed() == 1000
        await eventually(lambda: server.sessions == 0)


async def test_lost_connection_frees_its_place_in_the_middle_of_a_step() -> None:
    """A step that runs does not hold the place of a client that is gone."""
    async with serving(Counting, max_sessions=1) as server:
        async with plain(server) as wire:
            await wire.send({"type": "step", "data": {"delta": 1, "sleep_s": 60}})
            await eventually(lambda: server.core.capacity()["in_flight"] == 1)
            wire.socket.transport.abort()
        await eventually(lambda: server.sessions == 0)
        async with plain(server) as wire:
            assert (await wire.state())["step_count"] == 0


async def test_thread_that_hangs_does_not_hold_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A blocking step cannot be stopped, but its client's place is given away."""
    monkeypatch.setattr("openenv_async.server.core._STOP_PATIENCE", 0.05)
    BlockingCounting.gate.clear()
    try:
        async with serving(BlockingCounting, max_sessions=1) as server:
            async with plain(server) as wire:
                await wire.send({"type": "step", "data": {"delta": 1, "sleep_s": 60}})
                await eventually(lambda: server.core.capacity()["in_flight"] == 1)
            await eventually(lambda: server.sessions == 0)
            async with plain(server) as wire:
                assert (await wire.step(delta=1))["reward"] == 1.0
            BlockingCounting.gate.set()
    finally:
        BlockingCounting.gate.set()


async def test_sessions_do_not_wait_for_each_other() -> None:
    """A slow step of one session delays no other."""
    async with serving(Counting) as server, plain(server) as slow:
        await slow.send({"type": "step", "data": {"delta": 1, "sleep_s": 60}})
        async with plain(server) as quick:
            for _ in range(20):
                assert (await quick.step(delta=0))["reward"] == 0.0


async def test_environment_is_chosen_by_the_query() -> None:
    """`?environment=` names one of several; an unknown one is refused."""
    async with serving(Counting, Tooling) as server:
        async with plain(server, "/ws?environment=tooling") as wire:
            assert (await wire.step(type="list_tools"))["observation"]["tools"]
        async with plain(server, "/ws?environment=chess") as wire:
            told = (await wire.receive())["data"]
            assert told["code"] == "SESSION_ERROR"
            assert "chess" in told["message"]
            assert await wire.closed() == 1000


async def test_shutdown_closes_with_1001_after_the_answer() -> None:
    """What is in flight is still answered when the server ends."""
    async with serving(Counting, drain=5.0) as server, plain(server) as wire:
        await wire.send({"type": "step", "data": {"delta": 1, "sleep_s": 0.05}})
        await eventually(lambda: server.core.capacity()["in_flight"] == 1)
        await server.core.drain(timeout=5.0)
        assert (await wire.receive())["type"] == "observation"
        assert await wire.closed() == 1001


async def test_handshake_offers_no_compression_and_picks_no_subprotocol() -> None:
    """The socket is as plain as OpenEnv's clients expect it."""
    async with serving(Counting) as server, plain(server) as wire:
        assert wire.socket.subprotocol is None
        assert wire.socket.protocol.extensions == []


# Watching


async def test_observer_sees_a_dialect_session_in_our_form() -> None:
    """A session of OpenEnv's client is listed and watched like any other."""
    async with serving(Counting) as server, plain(server) as wire, dial(server) as peer:
        await wire.reset(start=2)
        await peer.send(m.ListSessions(1))
        (row,) = (await peer.expect(m.Sessions)).rows
        assert (row.environment, row.owner, row.attached) == (
            "count_env",
            "openenv",
            True,
        )
        await peer.send(m.Watch(2, row.session))
        await peer.expect(m.Watching)
        assert (await wire.step(delta=3))["observation"]["total"] == 5
        event = await peer.expect(m.Event)
        assert event.kind == "step"
        assert m.MSGPACK.generic(event.request) == {"delta": 3}  # type: ignore[arg-type]  # decoded payloads are Raw
        seen: Any = m.MSGPACK.generic(event.payload)  # type: ignore[arg-type]  # decoded payloads are Raw
        assert (seen["total"], seen["reward"]) == (5, 3.0)


async def test_step_waits_while_somebody_else_drives() -> None:
    """OpenEnv knows no takeover: its client's step waits until it is handed back."""
    async with serving(Counting) as server, plain(server) as wire, dial(server) as peer:
        await wire.reset()
        (session,) = server.core.table.by_id
        await peer.send(m.TakeOver(1, session, "ab" * 16))
        await peer.expect(m.Opened)
        await wire.send({"type": "step", "data": {"delta": 1}})
        answer = await peer.call(m.Step(1, 1, Count(delta=5)))
        assert isinstance(answer, m.Reply)
        await peer.send(m.HandBack(1))
        assert (await wire.receive())["data"]["observation"]["total"] == 6


# Who may come in


async def test_foreign_origin_is_refused() -> None:
    """A page of another site cannot reach the dialect either."""
    async with serving(Counting, tcp=True) as server:
        for path in ("/ws", "/mcp"):
            with pytest.raises(InvalidStatus) as refusal:
                async with plain(server, path, origin="https://evil.example"):
                    pass
            assert refusal.value.response.status_code == 403


async def test_token_is_needed_in_the_handshake() -> None:
    """Without a frame that could carry it, the token has to come as a header."""
    async with serving(Counting, token="secret") as server:
        with pytest.raises(InvalidStatus) as refusal:
            async with plain(server):
                pass
        assert refusal.value.response.status_code == 401
        header = {"Authorization": "Bearer secret"}
        async with plain(server, additional_headers=header) as wire:
            assert (await wire.reset())["done"] is False


async def test_unknown_subprotocol_is_no_dialect() -> None:
    """Who asks for another protocol does not get OpenEnv's by accident."""
    async with serving(Counting) as server:
        with pytest.raises(InvalidStatus) as refusal:
            async with plain(server, subprotocols=["openenv.v99.msgpack"]):
                pass
        assert refusal.value.response.status_code == 400


async def test_silent_peer_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose machine is gone is noticed by pings, and its session ends."""
    monkeypatch.setattr("openenv_async.server.app._KEEPALIVE", 0.05)
    async with serving(Counting) as server:
        async with plain(server) as wire:
            await wire.reset()
            # It answers no ping any more.
            wire.socket.transport.pause_reading()
            await eventually(lambda: server.sessions == 0)
