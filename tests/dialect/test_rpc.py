"""JSON-RPC as OpenEnv speaks it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import RemoteProtocolError
from openenv_async.dialect import (
    RpcCode,
    RpcError,
    RpcProblem,
    RpcRequest,
    RpcResult,
    decode_rpc_reply,
    decode_rpc_request,
    encode,
    rpc_failure,
)


def test_request_is_read() -> None:
    """Method, parameters and id arrive; parameters and id may be missing."""
    data = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"},"id":"x"}'
    request = decode_rpc_request(data)
    assert request == RpcRequest("2.0", "tools/call", {"name": "a"}, "x")
    assert decode_rpc_request(b'{"jsonrpc":"2.0","method":"m"}').params == {}


@pytest.mark.parametrize(
    ("data", "code", "id"),
    [
        (b"{bad", RpcCode.PARSE_ERROR, None),
        (b"[]", RpcCode.PARSE_ERROR, None),
        (b"\xff", RpcCode.PARSE_ERROR, None),
        (b"0 {", RpcCode.PARSE_ERROR, None),
        (b'{"method":"m","id":1}', RpcCode.INVALID_REQUEST, 1),
        (b'{"jsonrpc":"1.0","method":"m","id":1}', RpcCode.INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":"a"}', RpcCode.INVALID_REQUEST, "a"),
        (b'{"jsonrpc":"2.0","method":"m","params":[]}', RpcCode.INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","method":"m","id":1.5}', RpcCode.INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","method":"m","id":true}', RpcCode.INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","method":"m","x":1}', RpcCode.INVALID_REQUEST, None),
    ],
)
def test_no_request_has_an_answer(
    data: bytes, code: RpcCode, id: str | int | None
) -> None:
    """What cannot be taken is answered with its id, if it has one."""
    with pytest.raises(RpcProblem) as problem:
        decode_rpc_request(data)
    failure = problem.value.failure
    assert (failure.error.code, failure.id) == (code, id)


def test_responses_look_like_openenvs() -> None:
    """Version first, and `data` always there in an error."""
    assert (
        encode(RpcResult(1, {"a": 2})) == b'{"jsonrpc":"2.0","id":1,"result":{"a":2}}'
    )
    assert encode(rpc_failure(None, RpcCode.INTERNAL_ERROR, "no")) == (
        b'{"jsonrpc":"2.0","id":null,'
        b'"error":{"code":-32603,"message":"no","data":null}}'
    )


def test_response_is_a_result_or_an_error() -> None:
    """A client learns which of both it is; null is a result."""
    assert bytes(decode_rpc_reply(b'{"jsonrpc":"2.0","id":1,"result":null}')) == b"null"  # type: ignore[arg-type]  # a result is Raw
    error = decode_rpc_reply(b'{"id":1,"error":{"code":-32000,"message":"full"}}')
    assert error == RpcError(-32000, "full", None)
    for data in (b"{}", b"[]", b"{", b'{"id":1,"error":3}'):
        with pytest.raises(RemoteProtocolError):
            decode_rpc_reply(data)


@given(st.binary())
def test_any_bytes_are_a_request_or_a_problem(data: bytes) -> None:
    """Nothing else can come of what a client sends."""
    with contextlib.suppress(RpcProblem):
        assert decode_rpc_request(data).jsonrpc == "2.0"
