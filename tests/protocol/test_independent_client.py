"""A client in another language: JSON and docs/protocol.md, none of our client code.

It shares nothing with the package's client: what it knows is what the specification
says (section 10.1). Where one of these tests fails, one of the two is wrong.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from openenv_async.messages import JSON
from tests.protocol.wire import Server


class IndependentClient:
    """Lists and maps in JSON; one session, handle 7."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = secrets.token_hex(16)
        self.seq = 0
        self.unanswered: list[Any] | None = None
        self.incarnation = ""
        self.connect()

    def connect(self) -> None:
        """Open a new line and greet."""
        self.line = self.server.connect(JSON)
        (welcome,) = self.exchange(["hello", 1])
        assert welcome[:2] == ["welcome", 1]
        assert not self.incarnation or welcome[3] == self.incarnation
        self.incarnation = welcome[3]

    def exchange(self, *messages: list[Any]) -> list[list[Any]]:
        """Send one frame; returns the messages that come back."""
        frame = json.dumps(messages).encode()
        self.server.take(self.line.receive(frame, self.server.now))
        return self.read()

    def read(self) -> list[list[Any]]:
        """Take what the server has to say."""
        answers: list[list[Any]] = []
        while (frame := self.line.next_frame()) is not None:
            answers += json.loads(frame.decode("utf-8"))
        return answers

    def open(self) -> list[Any]:
        """Open the session, or attach to it."""
        (opened,) = self.exchange(["open", 7, self.key])
        assert opened[:2] == ["opened", 7]
        return opened

    def request(self, tag: str, *fields: Any) -> list[Any]:
        """Send the next request and return its answer."""
        self.seq += 1
        self.unanswered = [tag, 7, self.seq, *fields]
        (answer,) = self.exchange(self.unanswered)
        assert answer[1:3] == [7, self.seq]
        self.unanswered = None
        return answer

    def send_into_the_void(self, tag: str, *fields: Any, arrives: bool) -> None:
        """Send a request over a line that breaks before or after it arrives."""
        self.seq += 1
        self.unanswered = [tag, 7, self.seq, *fields]
        if arrives:
            self.exchange(self.unanswered)
        self.line.connection_lost(self.server.now)

    def resume(self) -> list[Any]:
        """Connect again and ask again for what was not answered (section 4.3)."""
        self.connect()
        (opened,) = self.exchange(["resume", 7, self.key])
        assert opened[0] == "opened"
        assert opened[6] is True
        assert self.unanswered is not None
        assert opened[4] in (self.seq, self.seq - 1)
        (answer,) = self.exchange(self.unanswered)
        self.unanswered = None
        return answer


@pytest.fixture
def server() -> Server:
    """Sessions with a model environment."""
    return Server()


@pytest.fixture
def client(server: Server) -> IndependentClient:
    """A client whose episode has begun, with request 1."""
    client = IndependentClient(server)
    client.open()
    client.request("reset", 5)
    return client


def test_an_episode(server: Server) -> None:
    """Hello, open, reset, step, state, close (sections 3.1, 4.1 and 5.1)."""
    client = IndependentClient(server)
    assert client.open()[3:] == ["echo", 0, 60.0, False]
    reset = client.request("reset", 5)
    assert (reset[0], reset[3]["echo"], reset[3]["reward"]) == ("reply", 5, None)
    step = client.request("step", "hi")
    assert (step[3]["echo"], step[3]["reward"]) == ("hi", 1.0)
    assert [type(time) for time in step[4:]] == [int, int, int]
    assert client.request("state")[3] == {"steps": 1}
    assert client.request("close")[3] is None
    assert client.exchange(["step", 7, 5, "hi"])[0][3] == "unknown_session"


def test_fields_at_the_end_may_be_left_out_or_added(client: IndependentClient) -> None:
    """Defaults hold for what is missing; what is unknown is ignored (section 2.1)."""
    assert client.request("step", "a", 5.0, "from", ["the", "future"])[0] == "reply"
    assert client.request("step", "b")[0] == "reply"


@pytest.mark.parametrize("arrives", [True, False])
def test_a_resend_is_executed_once(
    server: Server, client: IndependentClient, *, arrives: bool
) -> None:
    """After a drop the same number runs once, whatever was lost (section 5.3)."""
    session = server.session().id
    client.send_into_the_void("step", "precious", arrives=arrives)
    assert server.executions[session, "precious"] == arrives
    answer = client.resume()
    assert answer[:3] == ["reply", 7, 2]
    assert answer[3]["echo"] == "precious"
    assert server.executions[session, "precious"] == 1
    assert client.request("step", "next")[2] == 3


def test_a_resend_attaches_to_what_runs(
    server: Server, client: IndependentClient
) -> None:
    """A repeated request in flight is answered once, where the client is now."""
    server.slow = True
    client.exchange(["step", 7, 2, "slow"])
    client.line.connection_lost(server.now)
    client.connect()
    assert client.exchange(["resume", 7, client.key])[0][4] == 2
    assert client.exchange(["step", 7, 2, "slow"]) == []
    server.finish_all()
    (answer,) = client.read()
    assert answer[:3] == ["reply", 7, 2]
    assert server.executions[server.session().id, "slow"] == 1


@pytest.mark.parametrize(
    ("seq", "executed"), [(1, "unknown"), (0, "no"), (-1, "no"), (4, "no")]
)
def test_old_and_skipped_numbers(
    client: IndependentClient, seq: int, executed: str
) -> None:
    """They are errors that use no number up (section 5.3)."""
    client.request("step", "hi")
    (error,) = client.exchange(["step", 7, seq, "again"])
    assert error[:4] == ["error", 7, seq, "bad_sequence"]
    assert error[5] == executed
    assert client.request("step", "hi")[:3] == ["reply", 7, 3]


def test_one_request_at_a_time(server: Server, client: IndependentClient) -> None:
    """A second one is `busy`, and its number stays free (section 5.3)."""
    server.slow = True
    (error,) = client.exchange(["step", 7, 2, "a"], ["step", 7, 3, "b"])
    assert error[:4] == ["error", 7, 3, "busy"]
    assert error[5:7] == ["no", True]
    server.finish_all()
    assert client.read()[0][:3] == ["reply", 7, 2]
    server.slow = False
    assert client.exchange(["step", 7, 3, "b"])[0][0] == "reply"


def test_cancel(server: Server, client: IndependentClient) -> None:
    """The request is answered, the cancellation is not (section 5.5)."""
    server.slow = True
    assert client.exchange(["step", 7, 2, "a"]) == []
    (error,) = client.exchange(["cancel", 7, 2])
    assert error[:4] == ["error", 7, 2, "cancelled"]
    assert error[5] == "unknown"
    server.slow = False
    client.seq = 2
    broken = client.request("step", "b")
    assert (broken[3], broken[5], broken[8]) == (
        "episode_broken",
        "no",
        {"stage": "broken"},
    )
    assert client.request("reset")[0] == "reply"


def test_cancel_overtakes_its_request(client: IndependentClient) -> None:
    """A request that was cancelled before it arrived never begins (section 5.5)."""
    (error,) = client.exchange(["cancel", 7, 2], ["step", 7, 2, "late"])
    assert error[:4] == ["error", 7, 2, "cancelled"]
    assert error[5] == "no"
    client.seq = 2
    assert client.request("step", "hi")[0] == "reply"


def test_giving_up(server: Server, client: IndependentClient) -> None:
    """`cancel` with number 0 ends the session, and nothing answers (section 5.5)."""
    assert client.exchange(["cancel", 7, 0]) == []
    assert len(server.closed) == 1
    client.connect()
    (error,) = client.exchange(["resume", 7, client.key])
    assert error[:4] == ["error", 7, None, "unknown_session"]


@pytest.mark.parametrize(
    ("message", "handle", "seq", "code", "executed"),
    [
        (["step", 8, 1, "hi"], 8, 1, "unknown_session", "no"),
        (["dance", 7, 2], 7, 2, "protocol_error", "no"),
        (["step", 7, "2", "hi"], 7, None, "protocol_error", "no"),
        (["open", 8, "short"], 8, None, "protocol_error", "no"),
        (["open", 8, "0" * 32, "chess"], 8, None, "unknown_environment", "no"),
        (["watch", 1, "nobody"], None, None, "unknown_session", "no"),
        ([], None, None, "protocol_error", "no"),
        ("step", None, None, "protocol_error", "no"),
    ],
)
def test_errors(
    client: IndependentClient,
    message: Any,
    handle: int | None,
    seq: int | None,
    code: str,
    executed: str,
) -> None:
    """A bad message gets an error of nine items, and costs only itself (section 9)."""
    (error, pong) = client.exchange(message, ["ping", 4])
    assert error[:4] == ["error", handle, seq, code]
    assert (type(error[4]), error[5]) == (str, executed)
    assert error[6] is False
    assert error[7] in ("caller", "environment", "infrastructure")
    assert error[8] is None or isinstance(error[8], dict)
    assert len(error) == 9
    assert pong == ["pong", 4]


@pytest.mark.parametrize(
    ("frame", "code", "close_code"),
    [
        (b"{", "invalid_frame", 1007),
        (b"{}", "invalid_frame", 1007),
        (b'[["hello",1]]', "protocol_error", 1002),
    ],
)
def test_what_ends_the_connection(
    client: IndependentClient, frame: bytes, code: str, close_code: int
) -> None:
    """An error without handle, then a close code (sections 2.1 and 8.4)."""
    client.line.receive(frame, 0.0)
    (error,) = client.read()
    assert error[:4] == ["error", None, None, code]
    assert client.line.close_code == close_code


def test_another_version(server: Server) -> None:
    """The server names the versions that it speaks (section 3.1)."""
    line = server.connect(JSON)
    line.receive(b'[["hello",2]]', 0.0)
    (error,) = json.loads(line.next_frame() or b"[]")
    assert (error[3], error[8]) == ("version_mismatch", {"supported": [1]})
    assert line.close_code == 1002
