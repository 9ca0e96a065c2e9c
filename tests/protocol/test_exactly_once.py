"""Exactly once, whatever happens: calls, lines and servers in any order.

Two clients with several sessions each make calls that carry a token of their own.
Lines move frame by frame and are cut anywhere, environments end what they run at any
time, guests take sessions over, leases run out, servers are replaced. A model knows
which tokens were executed, and compares that with what the clients were told.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from openenv_async import messages as m
from openenv_async.errors import OpenEnvError, SessionBusy
from tests.protocol.wire import CODECS, Server, Session_, Wire, examples, key, value_of

LIMITS = m.Limits(
    frame_bytes=1024, chunk_bytes=256, message_bytes=8192, sessions=5, lease=60.0
)


class Call:
    """A call with its token, and what its caller was told."""

    def __init__(self, token: object, servers: list[Server]) -> None:
        self.token = token
        self.servers = servers
        self.outcome: m.ServerMessage | None = None

    @property
    def executions(self) -> int:
        """How often any server executed it."""
        return sum(
            count
            for server in self.servers
            for (_, token), count in server.executions.items()
            if token == self.token
        )


class Handle:
    """One client's session with its call in flight."""

    def __init__(self, wire: Wire, session: Session_, *, guest: bool = False) -> None:
        self.wire = wire
        self.session = session
        self.guest = guest
        self.call: Call | None = None
        self.opened = False


class Lines(RuleBasedStateMachine):
    """Everything that can happen between clients and servers."""

    handles: Bundle[Handle] = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.servers: list[Server] = []
        self.wires: list[Wire] = []
        self.known: list[Handle] = []
        self.calls: list[Call] = []
        self.tokens = 0
        self.keys = 0
        self._serve()

    def _serve(self) -> Server:
        server = Server(
            limits=LIMITS,
            kept_bytes=5000,
            incarnation=f"life {len(self.servers)}",
        )
        server.large = 2000
        server.slow = True
        self.servers.append(server)
        return server

    @property
    def server(self) -> Server:
        """The server that lives now."""
        return self.servers[-1]

    @initialize(
        target=handles,
        codecs=st.tuples(st.sampled_from(CODECS), st.sampled_from(CODECS)),
    )
    def connect_all(self, codecs: tuple[m.Codec, m.Codec]) -> MultipleResults[Handle]:
        """Two clients, each on a line of its own and with an episode that runs."""
        for codec in codecs:
            self.wires.append(Wire(self.server, codec=codec, limits=LIMITS))
        return multiple(self._begin(0), self._begin(1))

    # Sessions

    def _begin(self, wire: int, *, wait: float = 0.0, hold: bool = False) -> Handle:
        self.keys += 1
        line = self.wires[wire]
        session = line.client.open(key(self.keys), wait=wait, hold=hold)
        handle = Handle(line, session)
        self.known.append(handle)
        self._call(handle, "reset")
        line.pump()
        self.server.finish_all()
        line.pump()
        self._note()
        return handle

    @rule(
        target=handles,
        wire=st.integers(0, 1),
        wait=st.sampled_from([0.0, 30.0]),
        hold=st.booleans(),
    )
    def open(self, wire: int, wait: float, hold: bool) -> Handle:
        """Begin a session and its first episode, connected or not."""
        return self._begin(wire, wait=wait, hold=hold)

    @rule(target=handles, wire=st.integers(0, 1), of=handles)
    def take_over(self, wire: int, of: Handle) -> Handle:
        """Take over a session, perhaps one's own, perhaps one that is gone."""
        self.keys += 1
        line = self.wires[wire]
        session = line.client.take_over(
            key(self.keys), of.session.id or "s9", lease=30.0
        )
        handle = Handle(line, session, guest=True)
        self.known.append(handle)
        return handle

    @rule(handle=handles)
    def hand_back(self, handle: Handle) -> None:
        """End a take-over; an owner has nothing to hand back."""
        if handle.guest:
            handle.wire.client.hand_back(handle.session)

    @precondition(lambda self: len(self.known) > 3)
    @rule(handle=consumes(handles))
    def abandon(self, handle: Handle) -> None:
        """Give a session up, with whatever is in flight on it."""
        handle.wire.client.abandon(handle.session)
        handle.call = None

    @rule(handle=handles)
    def cancel(self, handle: Handle) -> None:
        """Cancel the call in flight, if there is one."""
        handle.wire.client.cancel(handle.session)

    @rule(
        handle=handles,
        size=st.sampled_from([0, 0, 700, 700, 9000]),
        timeout=st.sampled_from([None, 20.0]),
    )
    def step(self, handle: Handle, size: int, timeout: float | None) -> None:
        """Perform an action, small, in chunks, or larger than allowed."""
        self.tokens += 1
        self._call(handle, f"token {self.tokens} " + "." * size, timeout)

    @rule(handles=st.lists(handles, min_size=2, max_size=4))
    def steps(self, handles: list[Handle]) -> None:
        """Perform an action on several sessions, and let all of it begin."""
        for handle in handles:
            self.step(handle, 0, None)
        for wire in self.wires:
            wire.to_server()

    @rule(handle=handles, what=st.sampled_from(["reset", "reset", "state", "close"]))
    def ask(self, handle: Handle, what: str) -> None:
        """Reset, read the state, or, less often, close."""
        if what != "close" or len(self.known) > 3:
            self._call(handle, what)

    def _call(self, handle: Handle, token: str, timeout: float | None = None) -> None:
        client, session = handle.wire.client, handle.session
        try:
            match token:
                case "reset":
                    client.reset(session)
                case "state":
                    client.state(session)
                case "close":
                    client.close(session)
                case _:
                    client.step(session, token, timeout)
        except SessionBusy:
            refusal = "busy"
        except OpenEnvError as error:
            refusal = error.executed
        else:
            refusal = ""
        assert (handle.call is not None) is (refusal == "busy")
        assert refusal in ("", "busy", "no")
        if not refusal:
            handle.call = Call(token, self.servers)
            self.calls.append(handle.call)

    # Lines and time

    @rule(
        wire=st.integers(0, 1),
        moves=st.lists(
            st.sampled_from(["send_up", "arrive_up", "send_down", "arrive_down"]),
            min_size=1,
            max_size=6,
        ),
    )
    def move(self, wire: int, moves: list[str]) -> None:
        """Let frames leave and arrive."""
        line = self.wires[wire]
        for move in moves:
            getattr(line, move)()
        self._note()

    @rule()
    def pump(self) -> None:
        """Let everything arrive."""
        for wire in self.wires:
            wire.pump()
        self._note()

    @rule(wire=st.integers(0, 1), at_once=st.booleans())
    def drop(self, wire: int, at_once: bool) -> None:
        """Cut a line, so that what is on it is lost, and perhaps put it up again."""
        self.wires[wire].drop()
        if at_once:
            self.wires[wire].connect(self.server)

    @precondition(lambda self: not all(wire.far for wire in self.wires))
    @rule()
    def connect(self) -> None:
        """Put cut lines up again."""
        for wire in self.wires:
            if wire.far is None:
                wire.connect(self.server)

    @rule()
    def finish(self) -> None:
        """Let the oldest request end that runs."""
        if self.server.running:
            self.server.finish(next(iter(self.server.running)))
        self._note()

    @rule(seconds=st.sampled_from([1.0, 1.0, 31.0, 61.0]))
    def tick(self, seconds: float) -> None:
        """Let time pass: leases and patience end."""
        self.server.tick(seconds)
        self._note()

    @rule()
    def evict(self) -> None:
        """Forget every kept reply, as if memory were short."""
        for channel in self.server.table.by_key.values():
            channel.evict()

    @precondition(lambda self: len(self.servers) < 3)
    @rule(percent=st.integers(0, 99), gracefully=st.booleans())
    def replace(self, percent: int, gracefully: bool) -> None:
        """Now and then the server ends, and another one takes its place."""
        if percent > 9:
            return
        if gracefully:
            for wire in self.wires:
                if wire.far is not None:
                    wire.far.goodbye("update")
            self.server.shut_down()
            for wire in self.wires:
                wire.to_client()
            self._note()
        for wire in self.wires:
            wire.drop()
        self._serve()

    @rule()
    def finish_all(self) -> None:
        """Let everything end that runs."""
        self.server.finish_all()

    # What has to hold

    def _note(self) -> None:
        """Give what arrived to the calls that wait for it."""
        for wire in self.wires:
            events, wire.events = wire.events, []
            for session, message in events:
                for handle in self.known:
                    if handle.session is session and handle.wire is wire:
                        self._told(handle, message)

    def _told(self, handle: Handle, message: m.ServerMessage) -> None:
        if isinstance(message, m.Opened | m.Progress):
            handle.opened = True
            return
        call, handle.call = handle.call, None
        if call is None:
            # The end of a session, or of its opening; never a second answer.
            assert handle.session.ended is not None
            assert not isinstance(message, m.Reply)
            return
        assert call.outcome is None
        call.outcome = message
        self._is_truth(handle, call)

    def _is_truth(self, handle: Handle, call: Call) -> None:
        message = call.outcome
        if call.token in ("reset", "state", "close"):
            return
        if isinstance(message, m.Reply):
            assert call.executions == 1
            echo = value_of(handle.wire.codec, message.payload)["echo"]
            assert echo == call.token
        elif isinstance(message, m.Failure):
            expected = {"yes": {1}, "no": {0}, "unknown": {0, 1}}[message.executed]
            assert call.executions in expected, message

    @invariant()
    def nothing_runs_twice(self) -> None:
        """Each token is executed at most once, on all servers together."""
        total = Counter[object]()
        for server in self.servers:
            for (_, token), count in server.executions.items():
                if token != "reset":
                    total[token] += count
        assert set(total.values()) <= {1}

    @invariant()
    def servers_are_sound(self) -> None:
        """Tables, channels and connections agree with each other."""
        self.server.check()

    def _settle(self) -> None:
        """Let everything come to its end that can."""
        # Guests leave for good, so that owners who wait for them can go on.
        for handle in self.known:
            if handle.guest:
                handle.wire.client.abandon(handle.session)
                handle.call = None
        for seconds in (0.0, 0.0, 0.0, 31.0, 0.0):
            self.connect()
            self.pump()
            self.server.finish_all()
            self.server.tick(seconds)
        self.pump()

    def teardown(self) -> None:
        """In the end every call has an outcome, and none was a lie."""
        if not self.wires:
            return
        self._settle()
        for handle in self.known:
            assert handle.call is None, "a call waits for ever"
            assert handle.session.ended is not None or handle.session.opened
        # "No" stays true: nothing is executed after all.
        for call in self.calls:
            if isinstance(call.outcome, m.Failure) and call.outcome.executed == "no":
                assert call.token in ("reset", "state", "close") or not call.executions
        for wire in self.wires:
            wire.drop()
        self.server.tick(61.0)
        assert len(self.server.table) == 0
        assert self.server.table.kept == 0


def test_nothing_is_lost_or_repeated_in_any_order() -> None:
    """Each call is executed at most once and answered once, truthfully."""
    run_state_machine_as_test(Lines, settings=examples(200))
