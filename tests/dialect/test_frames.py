"""OpenEnv's frames: what is one, what is none, and what says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import RemoteProtocolError
from openenv_async.dialect import (
    CloseFrame,
    ErrorData,
    ErrorFrame,
    FrameProblem,
    McpFrame,
    McpReplyFrame,
    ObservationData,
    ObservationFrame,
    ResetFrame,
    StateFrame,
    StateReplyFrame,
    StepFrame,
    decode_from_client,
    decode_from_server,
    encode,
)


def problem_of(text: str | bytes) -> FrameProblem:
    """Why this is no frame of a client."""
    with pytest.raises(FrameProblem) as problem:
        decode_from_client(text)
    return problem.value


def problem_or_none(data: bytes) -> FrameProblem | None:
    """Why this is no frame, unless it is one."""
    try:
        decode_from_client(data)
    except FrameProblem as problem:
        return problem
    return None


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (ResetFrame(), '{"type":"reset","data":{}}'),
        (ResetFrame({"seed": 1}), '{"type":"reset","data":{"seed":1}}'),
        (StepFrame({"x": [1]}), '{"type":"step","data":{"x":[1]}}'),
        (StateFrame(), '{"type":"state"}'),
        (McpFrame({"id": 1}), '{"type":"mcp","data":{"id":1}}'),
        (CloseFrame(), '{"type":"close"}'),
    ],
)
def test_frame_of_a_client_survives_both_ways(frame: Any, text: str) -> None:
    """What is encoded is what OpenEnv's clients send, and is read back."""
    assert encode(frame).decode() == text
    assert encode(decode_from_client(text)).decode() == text


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (
            ObservationFrame(ObservationData({"metadata": {}}, 1.0)),
            '{"type":"observation","data":'
            '{"observation":{"metadata":{}},"reward":1.0,"done":false}}',
        ),
        (
            ObservationFrame(
                ObservationData({}, None, done=True, metadata={"a": 1}, truncated=True)
            ),
            '{"type":"observation","data":{"observation":{},"reward":null,"done":true,'
            '"metadata":{"a":1},"truncated":true}}',
        ),
        (
            StateReplyFrame({"step_count": 1}),
            '{"type":"state","data":{"step_count":1}}',
        ),
        (McpReplyFrame({"id": 1}), '{"type":"mcp","data":{"id":1}}'),
        (
            ErrorFrame(ErrorData(message="no", code="EXECUTION_ERROR")),
            '{"type":"error","data":{"message":"no","code":"EXECUTION_ERROR"}}',
        ),
    ],
)
def test_frame_of_a_server_survives_both_ways(frame: Any, text: str) -> None:
    """What is encoded is what OpenEnv's servers send, and is read back."""
    assert encode(frame).decode() == text
    assert encode(decode_from_server(text)).decode() == text


@pytest.mark.parametrize("reward", ["true", "2", "2.5", "null"])
def test_reward_keeps_its_type(reward: str) -> None:
    """A bool stays a bool and an integer an integer, as on OpenEnv's socket."""
    text = f'{{"type":"observation","data":{{"observation":{{}},"reward":{reward}}}}}'
    frame = decode_from_server(text)
    assert isinstance(frame, ObservationFrame)
    assert repr(frame.data.reward) == repr(msgspec.json.decode(reward))


def test_unknown_keys_of_a_server_are_ignored() -> None:
    """Newer servers may say more."""
    frame = decode_from_server('{"type":"error","data":{"hint":1},"id":3}')
    assert frame == ErrorFrame(ErrorData(message="Unknown error", code="UNKNOWN"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"type":"pong"}', '{"type":"state"}', "\ud800"]
)
def test_no_frame_of_a_server_is_a_protocol_error(text: str) -> None:
    """What is no frame is never taken for one."""
    with pytest.raises(RemoteProtocolError) as error:
        decode_from_server(text.encode(errors="surrogatepass"))
    assert error.value.code == "invalid_frame"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ('{"data":{}}', "UNKNOWN_TYPE", "Unknown message type: "),
        ('{"type":"x"}', "UNKNOWN_TYPE", "Unknown message type: x"),
        ('{"type":5}', "UNKNOWN_TYPE", "Unknown message type: 5"),
        ("3", "VALIDATION_ERROR", "Invalid message"),
    ],
)
def test_problem_has_openenvs_code_and_text(text: str, code: str, message: str) -> None:
    """Clients that look at the text find what they know."""
    problem = problem_of(text)
    assert (problem.code, problem.message) == (code, message)


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ('{"type":"step"}', [("missing", ["data"])]),
        ('{"type":"step","data":1}', [("dict_type", ["data"])]),
        ('{"type":"step","data":null}', [("dict_type", ["data"])]),
        ('{"type":"state","data":{}}', [("extra_forbidden", ["data"])]),
        (
            '{"type":"step","a":1,"b":2}',
            [
                ("missing", ["data"]),
                ("extra_forbidden", ["a"]),
                ("extra_forbidden", ["b"]),
            ],
        ),
        ("[1]", [("dict_type", [])]),
    ],
)
def test_validation_error_says_where(
    text: str, errors: list[tuple[str, list[str]]]
) -> None:
    """Every key that is wrong is named, in pydantic's form."""
    found = problem_of(text).errors or []
    assert [(error["type"], error["loc"]) for error in found] == errors


def test_large_wrong_value_is_not_sent_back() -> None:
    """An error stays small, whatever was sent."""
    (error,) = (
        problem_of('{"type":"state","data":"' + "x" * 100_000 + '"}').errors or []
    )
    assert error["input"] == "<str>"


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_a_frame_or_a_problem(data: bytes) -> None:
    """Nothing else can come of what a client sends."""
    problem = problem_or_none(data)
    codes = ("INVALID_JSON", "UNKNOWN_TYPE", "VALIDATION_ERROR")
    assert problem is None or problem.code in codes


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.dictionaries(st.sampled_from(["type", "data", "id"]), _json)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["reset", "step", "state", "mcp", "close"])},
        optional={"data": _json, "x": _json},
    )
)
def test_any_object_is_a_frame_or_a_problem(frame: dict[str, object]) -> None:
    """A problem is found exactly where OpenEnv finds one, and is always explained."""
    kind, keys = frame.get("type"), set(frame)
    known = {"reset": True, "step": True, "mcp": True, "state": False, "close": False}
    takes_data = isinstance(kind, str) and known.get(kind)
    is_good = (
        isinstance(kind, str)
        and kind in known
        and keys <= ({"type", "data"} if takes_data else {"type"})
        and (kind not in ("step", "mcp") or "data" in keys)
        and isinstance(frame.get("data", {}), dict)
    )
    problem = problem_or_none(msgspec.json.encode(frame))
    assert (problem is None) == is_good
    if problem is not None:
        assert problem.code != "INVALID_JSON"
        assert (problem.code == "VALIDATION_ERROR") == bool(problem.errors)
