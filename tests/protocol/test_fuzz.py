"""Machines that are spoken to by anybody: no message, no order, no bytes harm them.

A server machine never raises; it answers, or ends the one connection. A client machine
raises what its documentation says, and nothing else.
"""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import messages as m
from openenv_async.errors import OpenEnvError
from openenv_async.protocol import ClientProtocol, Phase
from tests.protocol.wire import CODECS, Peer, Server, examples, frame_of, key

# Few handles, numbers and names, so that messages meet.
handles = st.sampled_from([1, 1, 1, 2, 3, -1])
numbers = st.integers(-1, 6)
keys = st.sampled_from([key(1), key(2), key(3), "", "no key"])
ids = st.sampled_from(["s1", "s2", "s3", "s9", ""])
small = st.integers(0, 3)
texts = st.sampled_from(["", "echo", "other", "é", "x" * 300])
seconds = st.sampled_from([None, 0.0, 0.5, 10.0, -1.0])
floats = st.sampled_from([0.0, 0.5, 10.0, -1.0])
actions = st.sampled_from(["a", "b", "final", "fail", "large", None, {"k": [1]}, 5])
rows = st.just(
    m.SessionRow(
        session="s1",
        environment="echo",
        owner="",
        state="new",
        episode=0,
        step=0,
        reward=None,
        age=1.0,
        busy=None,
        attached=True,
        taken_over=False,
    )
)
limits = st.builds(
    m.Limits,
    frame_bytes=st.sampled_from([0, 1024, 4096]),
    chunk_bytes=st.sampled_from([256, 1024]),
    message_bytes=st.sampled_from([4096, 10_000]),
)

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "handle": handles,
    "seq": numbers,
    "key": keys,
    "session": ids,
    "id": small,
    "nonce": small,
    "stream": small,
    "final": st.booleans(),
    "hold": st.booleans(),
    "resumed": st.booleans(),
    "retryable": st.booleans(),
    "version": st.sampled_from([1, 1, 1, 2]),
    "limits": limits,
    "data": st.binary(max_size=40),
    "action": actions,
    "payload": actions,
    "request": actions,
    "options": actions,
    "detail": st.sampled_from([None, {"watch": 1}, {"sessions": 2}]),
    "code": st.sampled_from([*m.CODES, "something new"]),
    "executed": st.sampled_from(["yes", "no", "unknown"]),
    "fault": st.sampled_from(["caller", "environment", "infrastructure"]),
    "kind": st.sampled_from(["reset", "step", "state", "error", "ended"]),
    "environment": st.sampled_from([None, "echo", "other", "nobody"]),
    "environments": st.just(["echo"]),
    "rows": st.lists(rows, max_size=2),
    "row": rows,
    "queue": st.integers(-1, 3),
    "limit": st.integers(-1, 3),
    "total": small,
    "seed": st.sampled_from([None, 3]),
    "dropped": small,
    "queue_ns": small,
    "environment_ns": small,
    "encode_ns": small,
    "lease": seconds,
    "timeout": seconds,
    "retry_after": seconds,
    "fraction": seconds,
    "wait": floats,
}


def a(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Messages of one kind, whose fields are of the right type at least."""
    fields = {name: BY_NAME.get(name, texts) for name in kind.__struct_fields__}
    if kind is m.TakeOver:
        fields["lease"] = floats
    if kind is m.Opened:
        fields |= {"environment": texts, "lease": floats}
    return st.builds(kind, **fields)


def union(of: object, codec: m.Codec) -> st.SearchStrategy[bytes]:
    """Encoded messages of one direction, some of them in chunks, some damaged."""
    kinds = [a(kind) for kind in get_args(of)]
    whole = st.one_of(kinds).map(codec.encode)
    chunked = whole.map(lambda data: codec.encode(m.Chunk(7, True, data)))
    damaged = st.tuples(whole, st.integers(0, 200), st.integers(0, 255)).map(_damage)
    junk: list[object] = [None, 7, [], {}, ["jump", 1, 2], ["step", 1]]
    values = st.sampled_from(junk).map(codec.encode)
    return st.one_of(whole, whole, chunked, damaged, values)


def _damage(parts: tuple[bytes, int, int]) -> bytes:
    data, position, byte = parts
    position %= len(data)
    return data[:position] + bytes([byte]) + data[position + 1 :]


FROM_CLIENT = {codec.encoding: union(m.ClientMessage, codec) for codec in CODECS}
FROM_SERVER = {codec.encoding: union(m.ServerMessage, codec) for codec in CODECS}


class Stranger(Peer):
    """A peer that comes back whenever the server ends the connection."""

    def frame(self, frame: bytes) -> None:
        """Send a frame, read the answers, reconnect if need be."""
        answers = self.send_frame(frame)
        assert all(isinstance(answer, msgspec.Struct) for answer in answers)
        self.server.check()
        if self.protocol.close_code is not None:
            self.drop()
            self.protocol = self.server.connect(self.codec)
            self.send(m.Hello(m.VERSION))


@examples(150)
@given(data=st.data())
def test_a_server_survives_any_messages(data: st.DataObject) -> None:
    """Two clients say anything in any order; a third one is not disturbed."""
    server = Server(limits=m.Limits(sessions=4), kept_bytes=10_000)
    server.slow = data.draw(st.booleans())
    honest = Peer(server)
    honest.open(1, key(9))
    server.slow, slow = False, server.slow
    honest.send(m.Reset(1, 1))
    server.slow = slow
    strangers = [Stranger(server, codec=codec) for codec in CODECS]
    for _ in range(data.draw(st.integers(1, 8))):
        stranger = data.draw(st.sampled_from(strangers))
        messages = data.draw(
            st.lists(FROM_CLIENT[stranger.codec.encoding], max_size=12)
        )
        stranger.frame(stranger.codec.frame(messages))
        if data.draw(st.booleans()):
            server.finish_all()
            server.check()
        if data.draw(st.integers(0, 4)) == 0:
            server.tick(data.draw(st.sampled_from([1.0, 30.0, 61.0])))
            server.check()
    # Whoever had taken the honest session over leaves, and its lease ends.
    for stranger in strangers:
        stranger.drop()
    server.finish_all()
    server.slow = False
    server.tick(61.0)
    server.finish_all()
    honest.read()
    (reply,) = honest.send(m.Reset(1, 2))
    assert isinstance(reply, m.Reply)
    assert len(server.table) == 1


@examples(300)
@given(data=st.binary(max_size=200))
def test_a_server_survives_any_bytes(data: bytes) -> None:
    """Before and after the greeting, bytes are answered or end the connection."""
    for codec in CODECS:
        for greet in (True, False):
            server = Server()
            peer = Peer(server, codec=codec, greet=greet)
            peer.send_frame(data)
            peer.send_frame(data)
            server.check()


def test_a_server_survives_deep_values() -> None:
    """A value nested beyond what can be read ends its own connection."""
    for codec, deep in ((m.MSGPACK, b"\x91" * 10**5), (m.JSON, b"[" * 10**5)):
        peer = Peer(Server(), codec=codec)
        peer.send_frame(deep)
        assert peer.protocol.close_code == 1007


@examples(200)
@given(data=st.data(), greeted=st.booleans())
def test_a_client_survives_any_messages(data: st.DataObject, greeted: bool) -> None:
    """Whatever a server says, it is told, ignored, or a documented error."""
    codec = data.draw(st.sampled_from(CODECS))
    client: ClientProtocol[object] = ClientProtocol(codec=codec)
    sessions = [client.open(key(number)) for number in range(3)]
    client.connection_made(0.0)
    if greeted:
        welcome = m.Welcome(1, "odd", "one", m.Limits(), ["echo"])
        client.receive(frame_of(codec, welcome), 0.0)
    for _ in range(data.draw(st.integers(1, 6))):
        for session in sessions:
            if session.ended is None and session.pending is None:
                client.reset(session)
        messages = data.draw(st.lists(FROM_SERVER[codec.encoding], max_size=8))
        before = {session: session.ended for session in sessions}
        try:
            told = client.receive(codec.frame(messages), 0.0)
        except OpenEnvError:
            break
        for owner, message in told:
            assert owner is None or before[owner] is None
            assert isinstance(message, msgspec.Struct)
    for session in sessions:
        assert session.ended is None or session.pending is None
    # What it has to say can be read by a server, unless the end came first.
    while (frame := client.next_frame()) is not None:
        codec.from_client.frame(frame)


@examples(300)
@given(data=st.binary(max_size=200), greeted=st.booleans())
def test_a_client_survives_any_bytes(data: bytes, greeted: bool) -> None:
    """Bytes are messages or a documented error; the next connection is fresh."""
    for codec in CODECS:
        client: ClientProtocol[object] = ClientProtocol(codec=codec)
        client.connection_made(0.0)
        welcome = frame_of(codec, m.Welcome(1, "odd", "one", m.Limits(), ["echo"]))
        if greeted:
            client.receive(welcome, 0.0)
        with contextlib.suppress(OpenEnvError):
            client.receive(data, 0.0)
        client.connection_lost()
        client.connection_made(1.0)
        client.receive(welcome, 1.0)
        assert client.phase is Phase.READY
