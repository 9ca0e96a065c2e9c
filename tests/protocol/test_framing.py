"""Frames: coalescing, chunks that take turns with small messages, size limits."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import messages as m
from openenv_async.errors import LocalProtocolError, RemoteProtocolError
from openenv_async.protocol import Inbox, Outbox
from openenv_async.protocol.framing import FRAME_MESSAGES, FRAME_TARGET
from tests.protocol.wire import CODECS, frame_of

SMALL = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=4096)

both = pytest.mark.parametrize("codec", CODECS, ids=repr)


def outbox(codec: m.Codec = m.MSGPACK, limits: m.Limits = SMALL) -> Outbox:
    """An outbox whose peer has these limits."""
    box = Outbox(codec)
    box.peer = limits
    return box


def inbox(
    codec: m.Codec = m.MSGPACK, limits: m.Limits = SMALL
) -> Inbox[m.ClientMessage]:
    """The inbox of a server."""
    return Inbox(codec, limits, decoder=codec.from_client, executed="no")


def frames(box: Outbox) -> list[bytes]:
    """Everything that waits."""
    found: list[bytes] = []
    while (frame := box.frame()) is not None:
        found.append(frame)
    return found


def step(codec: m.Codec, handle: int, size: int) -> bytes:
    """An encoded step with a large action."""
    return codec.encode(m.Step(handle, 1, "x" * size))


def received(
    box: Inbox[m.ClientMessage], found: list[bytes]
) -> list[m.ClientMessage | m.Failure]:
    """What a peer makes of frames, chunks put together."""
    messages: list[m.ClientMessage | m.Failure] = []
    for frame in found:
        for message in box.messages(frame):
            if isinstance(message, m.Chunk):
                whole = box.chunk(message)
                messages += [] if whole is None else [whole]
            else:
                messages.append(message)
    return messages


def handles(messages: list[m.ClientMessage | m.Failure]) -> list[int]:
    """Whose steps came, in order."""
    return [message.handle for message in messages if isinstance(message, m.Step)]


# Coalescing


@both
def test_outbox_joins_what_waits(codec: m.Codec) -> None:
    """Everything that waits leaves in one frame, in order."""
    box = outbox(codec)
    for nonce in range(20):
        box.append(codec.encode(m.Ping(nonce)))
    assert len(box) == 20
    (frame,) = frames(box)
    assert codec.from_client.frame(frame) == [m.Ping(nonce) for nonce in range(20)]
    assert not box


def test_outbox_wakes_when_something_begins_to_wait() -> None:
    """The callback runs for the first small message, and for each large one."""
    woken: list[int] = []
    box = Outbox(m.MSGPACK, lambda: woken.append(len(box)))
    box.append(m.MSGPACK.encode(m.Ping(1)))
    box.append(m.MSGPACK.encode(m.Ping(2)))
    assert woken == [0]
    box.append(bytes(FRAME_TARGET + 1))
    assert woken == [0, 2]


def test_outbox_closes_a_frame_at_its_number_of_messages() -> None:
    """Many tiny messages leave in several frames."""
    box = outbox(limits=m.Limits())
    for nonce in range(FRAME_MESSAGES + 1):
        box.append(m.MSGPACK.encode(m.Ping(nonce)))
    assert [len(m.MSGPACK.from_client.frame(frame)) for frame in frames(box)] == [
        FRAME_MESSAGES,
        1,
    ]


@both
def test_outbox_keeps_to_the_peer_s_frame_limit(codec: m.Codec) -> None:
    """No frame is larger than the peer accepts, commas and brackets included."""
    box = outbox(codec)
    assert box.peer == SMALL
    for nonce in range(300):
        box.append(codec.encode(m.Ping(nonce)))
    box.append(step(codec, 1, 3000))
    assert max(map(len, frames(box))) <= SMALL.frame_bytes
    for count in range(1, 130):
        for nonce in range(count):
            box.append(codec.encode(m.Ping(nonce)))
        assert max(map(len, frames(box))) <= SMALL.frame_bytes


@given(
    codec=st.sampled_from(CODECS),
    frame_bytes=st.integers(1024, 5000),
    chunk_bytes=st.integers(256, 5000),
    sizes=st.lists(st.integers(0, 3500), max_size=60),
)
def test_outbox_and_inbox_agree_on_every_limit(
    codec: m.Codec, frame_bytes: int, chunk_bytes: int, sizes: list[int]
) -> None:
    """Whatever the limits, all that leaves fits, arrives, and arrives once."""
    limits = m.Limits(
        frame_bytes=frame_bytes, chunk_bytes=chunk_bytes, message_bytes=4096
    )
    box = outbox(codec, limits)
    for handle, size in enumerate(sizes):
        box.append(step(codec, handle, size))
    arrived = received(inbox(codec, limits), frames(box))
    assert sorted(handles(arrived)) == list(range(len(sizes)))
    assert box.size == 0


def test_outbox_counts_bytes_that_wait() -> None:
    """`size` is what has not left yet, of whole messages and of chunked ones."""
    box = outbox()
    large = step(m.MSGPACK, 1, 1000)
    box.append(large)
    box.append(b"\x92\xa4ping\x01")
    assert box.size == len(large) + 7
    box.frame()
    box.frame()
    assert box.size == len(large) - SMALL.chunk_bytes


def test_outbox_forgets_everything_with_its_connection() -> None:
    """After `clear`, nothing of the old connection leaves, and the rest does."""
    box = outbox()
    for _ in range(30):
        box.append(step(m.MSGPACK, 1, 900))
    box.append(m.MSGPACK.encode(m.Ping(1)))
    box.frame()
    box.frame()
    box.clear()
    assert (len(box), box.size, box.frame()) == (0, 0, None)
    for handle in (7, 8, 9):
        box.append(step(m.MSGPACK, handle, 3000))
    assert handles(received(inbox(), frames(box))) == [7, 8, 9]


# Chunks


@both
def test_large_messages_leave_in_chunks(codec: m.Codec) -> None:
    """A message above the chunk size arrives whole with its last piece."""
    box = outbox(codec)
    box.append(step(codec, 3, 2000))
    found = frames(box)
    assert len(found) > 7
    (message,) = received(inbox(codec), found)
    assert isinstance(message, m.Step)
    assert codec.generic(message.action) == "x" * 2000  # type: ignore[arg-type]  # Raw is a buffer


def test_small_messages_overtake_large_ones() -> None:
    """A small message leaves after one chunk of a large one, not after all."""
    box = outbox()
    box.append(step(m.MSGPACK, 1, 3000))
    box.append(step(m.MSGPACK, 2, 3000))
    box.frame()
    box.append(m.MSGPACK.encode(m.Ping(1)))
    second, third = box.frame(), box.frame()
    assert second is not None
    assert third is not None
    assert b"ping" in second + third
    assert b"chunk" in second + third


def test_large_messages_are_not_starved_by_small_ones() -> None:
    """While small messages keep coming, every second frame is a chunk."""
    box = outbox()
    box.append(step(m.MSGPACK, 1, 2000))
    kinds: list[bool] = []
    for nonce in range(20):
        box.append(m.MSGPACK.encode(m.Ping(nonce)))
        kinds.append(b"chunk" in (box.frame() or b""))
    assert kinds[:16] == [False, True] * 8


def test_large_messages_take_turns() -> None:
    """A short chunked message ends before a long one that was there first."""
    box = outbox()
    box.append(step(m.MSGPACK, 1, 3000))
    box.append(step(m.MSGPACK, 2, 600))
    assert handles(received(inbox(), frames(box))) == [2, 1]


@pytest.mark.parametrize(
    ("count", "size", "message_bytes"), [(3, 4000, 4096), (1500, 300, 1 << 20)]
)
def test_chunked_messages_keep_to_the_bound_of_all_together(
    count: int, size: int, message_bytes: int
) -> None:
    """More and larger messages than a peer takes at a time wait for each other."""
    limits = m.Limits(frame_bytes=1024, chunk_bytes=256, message_bytes=message_bytes)
    box = outbox(limits=limits)
    for handle in range(count):
        box.append(step(m.MSGPACK, handle, size))
    arrived = handles(received(inbox(limits=limits), frames(box)))
    assert sorted(arrived) == list(range(count))


def test_a_message_may_wait_for_the_chunks_before_it() -> None:
    """It overtakes none of those that wait already, and waits for no later ones."""
    box = outbox()
    box.append(step(m.MSGPACK, 1, 600))
    box.append(step(m.MSGPACK, 2, 900))
    box.append_behind(m.MSGPACK.encode(m.Step(3, 1, "end")))
    found = [box.frame() or b""]
    for handle in range(10, 14):
        box.append(step(m.MSGPACK, handle, 3000))
    box.append(step(m.MSGPACK, 4, 3))
    order = handles(received(inbox(), found + frames(box)))
    assert order[:4] == [4, 1, 2, 3]
    assert sorted(order[4:]) == [10, 11, 12, 13]


def test_a_message_waits_for_no_chunks_where_there_are_none() -> None:
    """Then it leaves like any other."""
    box = outbox()
    box.append_behind(m.MSGPACK.encode(m.Step(3, 1, "end")))
    assert handles(received(inbox(), frames(box))) == [3]


def test_outbox_refuses_what_the_peer_would_not_take() -> None:
    """A message above the limit is an error that names size and limit."""
    box = outbox()
    data = step(m.MSGPACK, 1, 5000)
    with pytest.raises(LocalProtocolError, match="at most 4096 bytes") as caught:
        box.append(data)
    assert caught.value.code == "too_large"
    assert caught.value.detail == {"size": len(data), "limit": 4096}
    assert not box


@pytest.mark.parametrize(("size", "whole"), [(256, True), (257, False)])
def test_takes_whole_says_what_needs_no_chunks(size: int, whole: bool) -> None:
    """The bound is the peer's chunk size."""
    assert outbox().takes_whole(size) is whole


# Receiving


@both
def test_inbox_refuses_a_large_frame(codec: m.Codec) -> None:
    """A frame above the limit is an error that names size and limit."""
    frame = frame_of(codec, m.Step(1, 1, "x" * 2000))
    with pytest.raises(RemoteProtocolError, match="at most 1024 bytes") as caught:
        inbox(codec).messages(frame)
    assert caught.value.code == "invalid_frame"
    assert caught.value.detail == {"size": len(frame), "limit": 1024}


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (m.MSGPACK, b""),
        (m.MSGPACK, b"\xc1"),
        (m.MSGPACK, b"\x01"),
        (m.MSGPACK, b"\x91"),
        (m.MSGPACK, b"\x91\x92\xa4ping"),
        (m.MSGPACK, b"\x91\x92\xa4ping\x01\x00"),
        (m.MSGPACK, b"\x91" * 1000),
        (m.JSON, b""),
        (m.JSON, b"{}"),
        (m.JSON, b'[["ping",1]'),
        (m.JSON, b"\xff\xfe"),
        (m.JSON, b"[" * 1000),
    ],
)
def test_inbox_refuses_what_is_no_array(codec: m.Codec, frame: bytes) -> None:
    """A frame that is no array, or is cut off, ends the connection."""
    with pytest.raises(RemoteProtocolError, match="array of messages") as caught:
        inbox(codec).messages(frame)
    assert caught.value.code == "invalid_frame"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("item", "handle", "seq", "text"),
    [
        (["step", "one", 2, {}], None, None, "step"),
        (["step", 1], 1, None, "step"),
        (["step", 1, True, {}], 1, None, "step"),
        (["jump", 4, 5], 4, 5, "jump"),
        (["x" * 900, 4, 5], 4, 5, "xxx"),
        ([5, 4, 3], 4, 3, "'5'"),
        (["step", 1, "x" * 300, {}], 1, None, "step"),
        (["x" * 200, 1, 2], 1, 2, "xxx"),
        (["list", 4, 5], None, None, "list"),
        ([], None, None, "array"),
        ({}, None, None, "object"),
        (7, None, None, "int"),
        (None, None, None, "Expected `array`"),
        ("step", None, None, "str"),
    ],
)
@both
def test_a_bad_item_costs_only_itself(
    codec: m.Codec, item: object, handle: int | None, seq: int | None, text: str
) -> None:
    """What cannot be decoded becomes a failure with what address it has."""
    frame = frame_of(codec, m.Ping(1), item, m.Ping(2))
    first, bad, last = inbox(codec).messages(frame)
    assert (first, last) == (m.Ping(1), m.Ping(2))
    assert isinstance(bad, m.Failure)
    assert (bad.handle, bad.seq, bad.code) == (handle, seq, "protocol_error")
    assert bad.executed == "no"
    assert text in bad.message
    assert len(bad.message) < 400


@pytest.mark.parametrize(
    "item",
    [
        b"\x92\xa4jump\xa1\xff",  # no UTF-8
        b"\x92\xa4jump\x81\x90\x01",  # a map with an array as key
        b"\x81\xa4jump\x01",  # no array
        b"\x92\xa4jump\xd6\xff\xff\xff\xff\xff"[:-1] + b"\xff",  # a time
    ],
)
def test_a_bad_item_may_have_no_readable_value(item: bytes) -> None:
    """An item that cannot even be decoded without a type has no address."""
    (bad,) = inbox().messages(m.MSGPACK.frame([item]))
    assert isinstance(bad, m.Failure)
    assert bad.handle is None


@both
def test_inbox_ignores_what_later_versions_add(codec: m.Codec) -> None:
    """Trailing fields that this version does not know are ignored (2.1)."""
    frame = frame_of(codec, ["ping", 5, "new", {"more": 1}])
    assert list(inbox(codec).messages(frame)) == [m.Ping(5)]


def test_inbox_bounds_the_messages_in_chunks() -> None:
    """Unfinished messages together are bounded by the message limit."""
    box = inbox()
    for stream in range(4):
        assert box.chunk(m.Chunk(stream, False, bytes(1000))) is None
    with pytest.raises(RemoteProtocolError, match="at most 4096") as caught:
        box.chunk(m.Chunk(9, False, bytes(1000)))
    assert caught.value.detail == {"size": 5000, "limit": 4096}


def test_inbox_bounds_the_number_of_messages_in_chunks() -> None:
    """A peer cannot begin messages without end."""
    box = inbox()
    for stream in range(1024):
        box.chunk(m.Chunk(stream, False, b""))
    with pytest.raises(RemoteProtocolError, match="at most 1024 chunked"):
        box.chunk(m.Chunk(5000, False, b""))


def test_inbox_takes_a_stream_s_number_again() -> None:
    """With its last piece a message is done, and its number free."""
    box = inbox()
    for handle in (1, 2):
        data = step(m.MSGPACK, handle, 10)
        assert box.chunk(m.Chunk(1, False, data[:5])) is None
        message = box.chunk(m.Chunk(1, True, data[5:]))
        assert isinstance(message, m.Step)
        assert message.handle == handle


def test_a_bad_message_in_chunks_costs_only_itself() -> None:
    """Chunks that make no message are answered like any other bad message."""
    message = inbox().chunk(m.Chunk(1, True, m.MSGPACK.encode(["jump", 1, 2])))
    assert isinstance(message, m.Failure)
    assert (message.handle, message.seq) == (1, 2)


@given(data=st.binary(max_size=300))
def test_inbox_survives_any_bytes_in_msgpack(data: bytes) -> None:
    """Arbitrary bytes are messages, failures, or a documented error."""
    _survives(m.MSGPACK, data)


@given(
    items=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_inbox_survives_any_value(items: list[object]) -> None:
    """Arbitrary values are messages, failures, or a documented error."""
    for codec in CODECS:
        try:
            encoded = [codec.encode(item) for item in items]
        except (OverflowError, msgspec.EncodeError):
            continue
        _survives(codec, codec.frame(encoded))


def _survives(codec: m.Codec, data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        messages = inbox(codec).messages(data)
        assert all(isinstance(message, msgspec.Struct) for message in messages)


# Holding


def _listened() -> tuple[Outbox, list[str]]:
    woken: list[str] = []
    outbox = Outbox(m.JSON, lambda: woken.append("now"), lambda: woken.append("later"))
    return outbox, woken


def test_held_messages_leave_together() -> None:
    """The first asks for a frame in a moment; what comes until then goes with it."""
    outbox, woken = _listened()
    outbox.hold(b"1")
    outbox.hold(b"2")
    assert woken == ["later"]
    assert (len(outbox), outbox.size) == (2, 2)
    assert outbox.frame() == b"[1,2]"
    assert outbox.frame() is None
    outbox.hold(b"3")
    assert woken == ["later", "later"]


def test_many_held_messages_wait_no_longer() -> None:
    """A burst leaves at once, in pieces, without waiting for the moment."""
    outbox, woken = _listened()
    for number in range(100):
        outbox.hold(b"%d" % number)
    assert woken == ["later", "now"]
    assert outbox.frame() == b"[" + b",".join(b"%d" % n for n in range(100)) + b"]"


def test_held_messages_go_with_the_next_frame() -> None:
    """What makes a frame takes them along; `release` puts them in front of it."""
    outbox, woken = _listened()
    outbox.hold(b"1")
    outbox.append(b"2")
    assert outbox.frame() == b"[2,1]"
    outbox.hold(b"3")
    outbox.release()
    outbox.append_behind(b"4")
    assert outbox.frame() == b"[3,4]"
    assert woken == ["later", "now", "later", "now"]


def test_a_large_message_is_not_held() -> None:
    """It leaves in chunks, as any other does."""
    outbox, woken = _listened()
    outbox.hold(b'"%s"' % (b"x" * 300_000))
    assert woken == ["now"]
    assert (outbox.frame() or b"").startswith(b'[["chunk",1,false,')
