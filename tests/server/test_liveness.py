"""Peers that fall silent, stop reading or never begin to talk."""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc

from openenv_async import messages as m
from openenv_async.protocol import ServerProtocol
from tests.environments import Command
from tests.serving import Peer, Serving, dial, eventually, serving


async def begun(peer: Peer) -> None:
    """Open a session and begin its episode."""
    await peer.open()
    await peer.reset()


def connections(server: Serving) -> int:
    """How many clients the server has."""
    return len(server.core.links)


async def test_a_client_that_never_says_hello_is_dropped() -> None:
    """A socket without a greeting is closed after one heartbeat."""
    async with serving(heartbeat=0.1) as server, dial(server, hello=False) as peer:
        await eventually(lambda: connections(server) == 1)
        assert await peer.close_code() in (1006, None)
        assert connections(server) == 0


async def test_a_silent_client_is_asked_and_then_dropped() -> None:
    """Silence brings a ping; three heartbeats of it end the connection."""
    async with serving(heartbeat=0.1, lease=0.1) as server, dial(server) as peer:
        await begun(peer)
        await peer.expect(m.Ping)
        await peer.close_code()
        await eventually(lambda: server.sessions == 0)


async def test_a_client_that_answers_pings_stays() -> None:
    """Pongs are signs of life, for as long as they come."""
    async with serving(heartbeat=0.05) as server, dial(server) as peer:
        await begun(peer)
        for _ in range(6):
            await peer.send(m.Pong((await peer.expect(m.Ping)).nonce))
        assert isinstance(await peer.step(1, 2), m.Reply)


async def test_a_client_that_pings_is_answered() -> None:
    """A ping comes back with its number."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Ping(42))
        assert await peer.expect(m.Pong) == m.Pong(42)


async def _deafen(server: Serving, size: int, sessions: int) -> socket.socket:
    """A client that has asked for much and then reads nothing more."""
    async with dial(server) as peer:
        for handle in range(1, sessions + 1):
            await peer.open(handle)
            await peer.reset(handle)
        steps = [
            m.MSGPACK.encode(m.Step(handle, 2, Command(do="array", size=size)))
            for handle in range(1, sessions + 1)
        ]
        peer.socket.transport.pause_reading()
        await peer.send_frame(m.MSGPACK.frame(steps))
        await asyncio.sleep(0.05)
        kept: socket.socket = peer.socket.transport.get_extra_info("socket")
        held = socket.socket(fileno=socket.dup(kept.fileno()))
        # So that leaving the block does not say goodbye.
        peer.socket.transport.abort()
    return held


async def test_a_reader_that_stops_is_dropped_and_disturbs_nobody() -> None:
    """Its connection ends by heartbeat while others step."""
    async with serving(heartbeat=0.1, lease=0.1) as server, dial(server) as good:
        await begun(good)
        held = await _deafen(server, 2_000_000, 5)
        try:
            seq = 2
            while connections(server) > 1:
                assert isinstance(await good.step(1, seq), m.Reply)
                seq += 1
                await asyncio.sleep(0.005)
            await eventually(lambda: server.sessions == 1)
        finally:
            held.close()


async def test_a_client_that_only_asks_does_not_fill_the_memory() -> None:
    """Who sends requests but reads no answers is not read from any more."""
    async with serving(heartbeat=60.0) as server, dial(server) as peer:
        await begun(peer)
        peer.socket.transport.pause_reading()
        link = next(iter(server.core.links))
        for seq in range(2, 300):
            await peer.send(m.Step(1, seq, Command(do="array", size=1_000_000)))
            await asyncio.sleep(0.001)
        assert isinstance(link.protocol, ServerProtocol)
        assert link.protocol.congested
        assert link.protocol.pending_bytes < 70_000_000
        assert server.core.statistics.requests < 80
        peer.socket.transport.abort()


async def test_a_slow_reader_that_reads_is_not_dropped() -> None:
    """A client that takes its answers slowly is alive."""
    async with serving(heartbeat=0.2) as server, dial(server) as peer:
        for handle in range(1, 71):
            await peer.open(handle)
            await peer.reset(handle)
        steps = [
            m.Step(handle, 2, Command(do="array", size=1_000_000))
            for handle in range(1, 71)
        ]
        await peer.send(*steps)
        taken = 0
        began = asyncio.get_running_loop().time()
        while taken < 280:
            message = await peer.receive()
            taken += isinstance(message, m.Chunk)
            if isinstance(message, m.Ping):
                await peer.send(m.Pong(message.nonce))
            await asyncio.sleep(0.005)
        assert asyncio.get_running_loop().time() - began > 1.0


async def test_idle_sessions_cost_little() -> None:
    """A thousand sessions that were reset take a few kilobytes each."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        gc.collect()
        tracemalloc.start()
        for handle in range(2, 1002):
            await peer.open(handle)
            await peer.reset(handle)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size / 1000 < 6_000
