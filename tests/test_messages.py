"""The wire: every message in both encodings, its tag, its fields and their order."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import Array
from openenv_async import messages as m

CODECS: Final = [m.MSGPACK, m.JSON]
both = pytest.mark.parametrize("codec", CODECS, ids=repr)

FIELDS: Final = {
    "hello": "version client limits token",
    "welcome": "version server incarnation limits environments",
    "ping": "nonce",
    "pong": "nonce",
    "goodbye": "reason retry_after",
    "chunk": "stream final data",
    "open": "handle key environment owner lease wait hold",
    "resume": "handle key",
    "opened": "handle session environment seq lease resumed",
    "reset": "handle seq seed episode_id options timeout",
    "step": "handle seq action timeout",
    "state": "handle seq timeout",
    "close": "handle seq timeout",
    "cancel": "handle seq",
    "reply": "handle seq payload queue_ns environment_ns encode_ns",
    "error": "handle seq code message executed retryable fault detail",
    "progress": "handle seq fraction message",
    "ended": "handle code message",
    "list": "id environment limit",
    "sessions": "id rows total",
    "watch": "id session queue",
    "watching": "id row",
    "unwatch": "id",
    "event": "id kind seq dropped request payload queue_ns environment_ns encode_ns",
    "take_over": "handle session key lease",
    "hand_back": "handle",
}
"""What is on the wire today. A change here breaks peers: only append to a row."""

DIRECTIONS: Final = {
    **dict.fromkeys(get_args(m.ClientMessage), "from_client"),
    **dict.fromkeys(get_args(m.ServerMessage), "from_server"),
}
KINDS: Final[list[type[Any]]] = list(DIRECTIONS)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if get_origin(kind) is Annotated:
        (limits,) = kind.__metadata__
        return st.integers(limits.ge, limits.le)
    if kind is msgspec.Raw or kind is object:
        return values
    if kind is int:
        return st.integers(-(2**63), 2**63 - 1)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{name: of_type(hint) for name, hint in hints.items()})
    if get_origin(kind) is list:
        return st.lists(of_type(get_args(kind)[0]), max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(), values, max_size=3)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_args(kind):
        return st.one_of([of_type(option) for option in get_args(kind)])
    return st.from_type(kind)


def decoder(codec: m.Codec, kind: type) -> m.FrameDecoder[Any]:
    """The decoder of the direction in which a message travels."""
    chosen: m.FrameDecoder[Any] = getattr(codec, DIRECTIONS[kind])
    return chosen


# The shape of messages


def test_no_message_is_forgotten() -> None:
    """Each message of both directions has a row, and each row a message."""
    tags = {str(kind.__struct_config__.tag) for kind in KINDS}
    assert tags == set(FIELDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fields_keep_their_order(kind: type[Any]) -> None:
    """Fields are positional on the wire: their order is the protocol."""
    tag = str(kind.__struct_config__.tag)
    assert " ".join(kind.__struct_fields__) == FIELDS[tag]
    assert get_type_hints(kind).keys() == set(kind.__struct_fields__)


@both
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_message_survives_the_wire(
    codec: m.Codec, kind: type[Any], data: st.DataObject
) -> None:
    """Decoding what was encoded gives the same message, with payloads undecoded."""
    message = data.draw(of_type(kind))
    encoded = codec.encode(message)
    (again,) = decoder(codec, kind).frame(codec.frame([encoded]))
    assert type(again) is kind
    assert codec.encode(again) == encoded
    for name, hint in get_type_hints(kind).items():
        value, back = getattr(message, name), getattr(again, name)
        if hint is msgspec.Raw:
            assert codec.generic(back) == value
        else:
            assert back == value


@both
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_later_versions_may_add_fields(
    codec: m.Codec, kind: type[Any], data: st.DataObject
) -> None:
    """A field that is not known yet is ignored (section 2.1)."""
    message = data.draw(of_type(kind))
    items = codec.generic(codec.encode(message))
    assert isinstance(items, list)
    longer = codec.encode([*items, {"new": True}, 5])
    assert codec.encode(decoder(codec, kind).message(longer)) == codec.encode(message)


@pytest.mark.parametrize(
    ("message", "packed", "text"),
    [
        (m.Ping(1), "92a470696e6701", '["ping",1]'),
        (
            m.Step(3, 2, {"a": 1}),
            "95a47374657003 02 81a16101 c0",
            '["step",3,2,{"a":1},null]',
        ),
        (m.Chunk(1, True, b"abc"), "94a56368756e6b01c3c403616263", None),
        (m.Chunk(1, True, b"abc"), None, '["chunk",1,true,"YWJj"]'),
        (m.Cancel(7, 0), "93a663616e63656c0700", '["cancel",7,0]'),
    ],
    ids=repr,
)
def test_bytes_on_the_wire(
    message: object, packed: str | None, text: str | None
) -> None:
    """Tag first, then the fields; bytes are base64 in JSON."""
    if packed is not None:
        assert m.MSGPACK.encode(message).hex() == packed.replace(" ", "")
    if text is not None:
        assert m.JSON.encode(message).decode() == text


@both
def test_defaults_may_be_left_out(codec: m.Codec) -> None:
    """Trailing fields with a default need not be sent."""
    short = codec.encode(["open", 1, "k"])
    assert codec.from_client.message(short) == m.Open(1, "k")


@both
@pytest.mark.parametrize(
    "item",
    [
        ["ping"],
        ["ping", "one"],
        ["ping", 1.5],
        ["ping", None],
        ["reply", 1, 2, 3],
        ["PING", 1],
        [],
        {"ping": 1},
    ],
)
def test_what_is_no_message_is_refused(codec: m.Codec, item: object) -> None:
    """Missing fields, wrong types, unknown tags and the other direction's messages."""
    with pytest.raises(msgspec.ValidationError):
        codec.from_client.message(codec.encode(item))


# Codecs


def test_subprotocols_name_version_and_encoding() -> None:
    """Both sides agree on them before the first frame (section 2.2)."""
    assert m.MSGPACK.subprotocol == "openenv.v1.msgpack"
    assert m.JSON.subprotocol == "openenv.v1.json"
    assert (repr(m.JSON), m.JSON.is_text, m.MSGPACK.is_text) == (
        "Codec('json')",
        True,
        False,
    )


@both
@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_a_frame_is_an_array_of_messages(codec: m.Codec, count: int) -> None:
    """Joining encoded messages is the same as encoding the list."""
    message = codec.encode(m.Ping(1))
    frame = codec.frame([message] * count)
    assert frame == codec.encode([m.Ping(1)] * count)
    assert len(codec.from_client.frame(frame)) == count


@both
def test_a_payload_is_included_as_it_is(codec: m.Codec) -> None:
    """What is encoded already is not encoded again."""
    payload = codec.encode({"a": [1, 2]})
    assert codec.encode(m.Step(1, 2, m.raw(payload))) == codec.encode(
        m.Step(1, 2, {"a": [1, 2]})
    )


@both
def test_numpy_s_values_are_payloads(codec: m.Codec) -> None:
    """Scalars travel as numbers, arrays as `Array`; other objects do not."""
    value = {"n": np.int64(3), "x": np.float32(0.5), "a": np.arange(3, dtype="<i2")}
    back = codec.decoder(dict[str, int | float | Array])(codec.encode(value))
    assert isinstance(back, dict)
    assert (back["n"], back["x"]) == (3, 0.5)
    assert back["a"] == Array.of(value["a"])
    with pytest.raises(TypeError, match="'object' have no encoding"):
        codec.encode(object())


@given(value=values)
def test_a_payload_is_turned_into_the_other_encoding(value: object) -> None:
    """The value stays the same; the same encoding is left alone."""
    for codec in CODECS:
        for into in CODECS:
            data = codec.transcode(codec.encode(value), into)
            assert into.generic(data) == value


def test_a_decoder_knows_its_type() -> None:
    """Payloads are decoded by decoders that are built once."""
    decode = m.JSON.decoder(list[int])
    assert decode(b"[1,2]") == [1, 2]
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        decode(b'["a"]')


# Failures


@pytest.mark.parametrize("code", m.CODES)
def test_a_failure_has_its_code_s_attributes(code: str) -> None:
    """`failure` fills in what the table says."""
    row = m.CODES[code]
    built = m.failure(1, 2, code, "text")
    assert (built.executed, built.retryable, built.fault) == (
        row.executed,
        row.retryable,
        row.fault,
    )
    assert row.meaning


def test_a_failure_may_be_more_precise() -> None:
    """What is known beats the table."""
    built = m.failure(
        None, None, "busy", "", executed="yes", retryable=False, detail={"a": 1}
    )
    assert (built.executed, built.retryable, built.detail) == ("yes", False, {"a": 1})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_are_frozen(kind: type[Any]) -> None:
    """What was said stays said."""
    assert kind.__struct_config__.frozen
    assert kind.__struct_config__.array_like
