"""Frames that cannot be read, and messages that do not belong there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from openenv_async import messages as m
from openenv_async.environment import EnvironmentSpec
from tests.environments import BlockingEnvironment, Command, ScriptedEnvironment
from tests.serving import Peer, decoded, dial, eventually, serving

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: openenv.v1.msgpack\r\n\r\n"
)
GARBAGE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\xc1", id="reserved byte"),
    pytest.param(b"hello", id="text"),
    pytest.param(b"\x82\x01", id="map"),
    pytest.param(m.MSGPACK.encode({"a": 1}), id="a map"),
    pytest.param(b"\xdd\xff\xff\xff\xff", id="promises four billion messages"),
    pytest.param(b"\x91" * 20_000, id="nested without end"),
    pytest.param(b"\x91\xc4\xff\xff", id="binary without its bytes"),
]


@pytest.mark.parametrize("frame", GARBAGE)
async def test_garbage_ends_the_connection_with_a_reason(frame: bytes) -> None:
    """A frame that is no array of messages is answered, then the connection ends."""
    async with serving() as server, dial(server) as peer:
        await peer.send_frame(frame)
        failure = await peer.expect(m.Failure)
        assert (failure.handle, failure.code) == (None, "invalid_frame")
        assert await peer.close_code() == 1007


async def test_garbage_disturbs_no_other_connection() -> None:
    """Sessions of other clients do not notice a frame that cannot be read."""
    async with serving() as server, dial(server) as good, dial(server) as bad:
        await good.open()
        await good.reset()
        await bad.send_frame(b"\xc1")
        assert await bad.close_code() == 1007
        assert isinstance(await good.step(1, 2), m.Reply)


async def test_truncated_frames_never_raise_in_the_server() -> None:
    """Every prefix of a good frame is either understood or refused, never a crash."""
    messages = [m.Open(1, "0" * 32), m.Reset(1, 1), m.Step(1, 2, {"do": "count"})]
    whole = m.MSGPACK.frame([m.MSGPACK.encode(message) for message in messages])
    async with serving() as server:
        for length in range(1, len(whole), 7):
            async with dial(server) as peer:
                await peer.send_frame(whole[:length])
                assert (await peer.expect(m.Failure)).code == "invalid_frame"


async def test_random_bytes_never_raise_in_the_server() -> None:
    """Whatever bytes a message consists of, the server goes on."""
    async with serving() as server:
        for _ in range(40):
            async with dial(server) as peer:
                await peer.send_frame(b"\x91" + os.urandom(40))
                await peer.receive()
        async with dial(server) as peer:
            await peer.open()


async def test_a_frame_above_the_limit_is_named_with_its_size() -> None:
    """An oversized frame is refused with both numbers."""
    async with serving(frame_bytes=4096) as server, dial(server) as peer:
        await peer.send_frame(bytes(5000))
        failure = await peer.expect(m.Failure)
        assert failure.detail == {"size": 5000, "limit": 4096}
        assert await peer.close_code() == 1007


async def test_a_frame_far_above_the_limit_is_not_even_read() -> None:
    """What exceeds the limit by far ends the connection before it is in memory."""
    async with serving(frame_bytes=4096) as server, dial(server) as peer:
        with contextlib.suppress(ConnectionClosed):
            await peer.socket.send(bytes(1_000_000))
        assert await peer.close_code() == 1009


async def test_chunks_above_the_message_limit_end_the_connection() -> None:
    """Chunks that add up to more than a message may have are refused."""
    async with serving(message_bytes=10_000) as server, dial(server) as peer:
        for _ in range(11):
            await peer.send(m.Chunk(1, False, bytes(1000)))
        failure = await peer.expect(m.Failure)
        assert failure.code == "invalid_frame"
        assert failure.detail == {"size": 11_000, "limit": 10_000}


@pytest.mark.parametrize(
    ("message", "handle", "seq"),
    [
        (["dance", 1, 1], 1, 1),
        (["step", 1, "two", {}], 1, None),
        (["step", 1], 1, None),
        ([17, 1, 1], 1, 1),
        ([], None, None),
        ("step", None, None),
        (["reset", 1, 1, "a seed"], 1, 1),
    ],
)
async def test_a_malformed_message_costs_only_itself(
    message: object, handle: int | None, seq: int | None
) -> None:
    """An unknown tag or a wrong field is an error in its place; the rest is served."""
    async with serving() as server, dial(server) as peer:
        frame = [message, m.Ping(7)]
        await peer.send_frame(m.MSGPACK.encode(frame))
        failure = await peer.expect(m.Failure)
        assert failure.code == "protocol_error"
        assert (failure.handle, failure.seq) == (handle, seq)
        assert await peer.expect(m.Pong) == m.Pong(7)


async def test_a_malformed_request_counts_and_can_be_repeated() -> None:
    """The number of a request that cannot be read is used up, with a kept answer."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        for _ in range(2):
            await peer.send_frame(m.MSGPACK.encode([["reset", 1, 1, "a seed"]]))
            assert (await peer.expect(m.Failure)).seq == 1
        await peer.reset(seq=2)


async def test_fields_of_a_later_version_are_ignored() -> None:
    """A message with more fields than we know is understood."""
    async with serving() as server, dial(server) as peer:
        await peer.send_frame(m.MSGPACK.encode([["ping", 3, "new", {"in": 2}]]))
        assert await peer.expect(m.Pong) == m.Pong(3)


async def test_text_on_msgpack_is_refused() -> None:
    """A text frame does not belong on a binary encoding."""
    async with serving() as server, dial(server) as peer:
        await peer.socket.send("[]")
        assert "binary" in (await peer.expect(m.Failure)).message
        assert await peer.close_code() == 1007


async def test_binary_on_json_is_refused() -> None:
    """A binary frame does not belong on a text encoding."""
    async with serving() as server, dial(server, codec=m.JSON) as peer:
        await peer.socket.send(b"[]")
        assert "text" in (await peer.expect(m.Failure)).message
        assert await peer.close_code() == 1007


async def test_json_speaks_the_same_protocol() -> None:
    """A JSON client opens, resets and steps like any other."""
    async with serving() as server, dial(server, codec=m.JSON) as peer:
        await peer.open()
        await peer.reset()
        reply = await peer.step(1, 2, text="hi")
        assert decoded(reply, m.JSON)["text"] == "hi"


@pytest.mark.parametrize("text", ['["\\ud800"]', '[["hello",1,"x",{},"\\udcff"]]', "{"])
async def test_odd_json_never_raises_in_the_server(text: str) -> None:
    """Lone surrogates and broken JSON are refused like other garbage."""
    async with serving(token="secret") as server:
        async with dial(server, codec=m.JSON, hello=False) as peer:
            await peer.socket.send(text)
            assert isinstance(await peer.receive(), m.Failure)


async def test_text_that_is_no_text_is_refused() -> None:
    """Bytes in a text frame that are not UTF-8 are an error, and crash nothing."""
    async with serving() as server, dial(server, codec=m.JSON) as peer:
        await peer.socket.send(b'["\xff\xfe"]', text=True)
        assert (await peer.expect(m.Failure)).code == "protocol_error"


async def test_a_message_may_come_in_fragments() -> None:
    """WebSocket's own fragments are put together before they are read."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        frame = m.MSGPACK.frame([m.MSGPACK.encode(m.Reset(1, 1))])
        await peer.socket.send([frame[:3], frame[3:5], frame[5:]])
        await peer.expect(m.Reply)


@pytest.mark.parametrize("size", [1, 3, 40, 180])
async def test_a_socket_that_ends_in_the_middle_disturbs_nobody(size: int) -> None:
    """A handshake or a frame that breaks off leaves nothing behind."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        _, writer = await asyncio.open_unix_connection(str(server.path))
        writer.write(HANDSHAKE[:size])
        await writer.drain()
        writer.transport.abort()
        _, writer = await asyncio.open_unix_connection(str(server.path))
        # A frame of a megabyte, which breaks off.
        writer.write(
            HANDSHAKE + b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00" + b"x" * size
        )
        await writer.drain()
        writer.transport.abort()
        await peer.reset()
        await eventually(lambda: len(server.core.links) == 1)


async def test_environments_of_every_kind_share_a_connection() -> None:
    """On the loop, in a thread and in a process, side by side, each at its own pace."""
    served = [
        EnvironmentSpec.of(ScriptedEnvironment, name="loop"),
        EnvironmentSpec.of(BlockingEnvironment, name="thread"),
        EnvironmentSpec.of(BlockingEnvironment, name="process", execution="process"),
    ]
    async with serving(*served) as server, dial(server) as peer:
        for handle, spec in enumerate(served, 1):
            await peer.open(handle, environment=spec.name)
            await peer.reset(handle)
        slow = Command(do="sleep", seconds=0.1)
        await peer.send(m.Step(3, 2, slow), m.Step(2, 2, slow), m.Step(1, 2, slow))
        before = time.perf_counter()
        handles = {(await peer.expect(m.Reply)).handle for _ in range(3)}
        assert handles == {1, 2, 3}
        assert time.perf_counter() - before < 0.25


@pytest.mark.parametrize("subprotocols", [["mqtt"], ["openenv.v9.msgpack"]])
async def test_an_unknown_subprotocol_is_refused(subprotocols: list[str]) -> None:
    """Who offers none that we speak gets no connection, and a reason."""
    async with serving() as server:
        with pytest.raises(InvalidStatus) as caught:
            async with dial(server, subprotocols=subprotocols, hello=False):
                pass
        assert caught.value.response.status_code == 400
        assert b"openenv.v1.msgpack" in (caught.value.response.body or b"")


async def test_another_version_is_refused_with_the_supported_one() -> None:
    """A hello of another version is answered with what would be understood."""
    async with serving() as server, dial(server, hello=False) as peer:
        await peer.send(m.Hello(99))
        failure = await peer.expect(m.Failure)
        assert failure.code == "version_mismatch"
        assert failure.detail == {"supported": [m.VERSION]}
        assert await peer.close_code() == 1002


@pytest.mark.parametrize("message", [m.Ping(1), m.Open(1, "0" * 32), m.Pong(1)])
async def test_nothing_goes_before_hello(message: m.ClientMessage) -> None:
    """A message before the greeting ends the connection."""
    async with serving() as server, dial(server, hello=False) as peer:
        await peer.send(message)
        assert (await peer.expect(m.Failure)).code == "protocol_error"
        assert await peer.close_code() == 1002


async def test_a_second_hello_ends_the_connection() -> None:
    """Greeting twice is against the rules."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Hello(m.VERSION))
        assert (await peer.expect(m.Failure)).code == "protocol_error"
        assert await peer.close_code() == 1002


async def test_goodbye_closes_politely() -> None:
    """A client that says goodbye gets a clean close."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Goodbye())
        assert await peer.close_code() == 1000


@pytest.mark.parametrize("key", ["", "short", "Z" * 32, "0" * 31, "0" * 129])
async def test_a_weak_key_opens_nothing(key: str) -> None:
    """A key that could be guessed is refused, and its session does not exist."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Open(1, key))
        assert (await peer.expect(m.Failure)).code == "protocol_error"
        assert server.sessions == 0


async def test_a_handle_in_use_cannot_be_opened_again() -> None:
    """A handle means one session at a time."""
    async with serving() as server, dial(server) as peer:
        await peer.open(1)
        await peer.send(m.Open(1, "f" * 32))
        assert (await peer.expect(m.Failure)).code == "protocol_error"
        assert isinstance(await peer.call(m.Reset(1, 1)), m.Reply)


async def _opened(peer: Peer) -> None:
    await peer.open()
    await peer.reset()


async def test_a_large_action_arrives_in_chunks() -> None:
    """A message in chunks is the same as one in a piece."""
    async with serving(ScriptedEnvironment) as server, dial(server) as peer:
        await _opened(peer)
        step = m.MSGPACK.encode(m.Step(1, 2, {"text": "x" * 100_000}))
        half = len(step) // 2
        await peer.send(m.Chunk(5, False, step[:half]), m.Ping(1))
        await peer.expect(m.Pong)
        await peer.send(m.Chunk(5, True, step[half:]))
        assert isinstance(await peer.receive(), m.Reply)
