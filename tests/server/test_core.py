"""Sessions as the wire shows them: order, numbers, keys, capacity, leases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import messages as m
from tests.environments import (
    BlockingEnvironment,
    Command,
    ScriptedEnvironment,
    executions,
    gates,
    journal,
    sleeping,
)
from tests.serving import (
    Peer,
    decoded,
    dial,
    eventually,
    payload_of,
    serving,
)

KEY = "0" * 31 + "1"


def failed(message: m.ServerMessage, code: str, executed: str = "no") -> m.Failure:
    """A failure with a code, about what was or was not executed."""
    assert isinstance(message, m.Failure), message
    assert (message.code, message.executed) == (code, executed)
    return message


async def begun(peer: Peer, handle: int = 1, **options: Any) -> None:
    """Open a session and begin its episode."""
    await peer.open(handle)
    await peer.reset(handle, options=options or None)


# What does not fit the environment


@pytest.mark.parametrize(
    ("action", "names"),
    [
        ({"text": 5}, "$.text"),
        ({"size": "big"}, "$.size"),
        ({"seconds": None}, "$.seconds"),
        ({"typo": 1}, "typo"),
        ({"data": {"kind": "array", "dtype": "<f4"}}, "$.data"),
        (["count"], "object"),
        (None, "object"),
        (7, "object"),
    ],
)
@pytest.mark.parametrize("environment", [ScriptedEnvironment, BlockingEnvironment])
async def test_an_action_that_does_not_fit_names_the_field(
    environment: type[ScriptedEnvironment], action: object, names: str
) -> None:
    """A wrong action is refused before the environment sees it; the episode goes on."""
    async with serving(environment) as server, dial(server) as peer:
        await begun(peer)
        failure = failed(await peer.call(m.Step(1, 2, action)), "invalid_action")
        assert names in failure.message
        assert decoded(await peer.step(1, 3))["count"] == 1


@pytest.mark.parametrize("options", [3, ["a"], "text", {1: 2}])
async def test_options_that_are_no_map_are_refused(options: object) -> None:
    """Reset options are a map with text keys, or nothing."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        answer = await peer.call(m.Reset(1, 1, options=options))
        failed(answer, "invalid_action")


async def test_an_environment_refuses_options_and_the_episode_goes_on() -> None:
    """InvalidAction from reset leaves the episode before as it was."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        answer = await peer.call(
            m.Reset(1, 2, options={"do": "refuse", "text": "no such task"})
        )
        assert failed(answer, "invalid_action").message == "no such task"
        assert isinstance(await peer.step(1, 3), m.Reply)


# Order


async def test_a_step_needs_a_reset() -> None:
    """A step before the first reset is refused, and does not build the environment."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        failed(await peer.step(1, 1), "reset_required")
        assert journal == []


async def test_a_state_needs_no_reset() -> None:
    """The state can be read before the first reset."""
    async with serving() as server, dial(server) as peer:
        await peer.open()
        assert decoded(await peer.call(m.GetState(1, 1))) == {}


async def test_a_step_after_the_end_is_refused() -> None:
    """When the episode is over, only a reset goes on."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, length=1)
        assert decoded(await peer.step(1, 2))["terminated"]
        failed(await peer.step(1, 3), "episode_done")
        await peer.reset(seq=4)
        assert decoded(await peer.step(1, 5))["count"] == 1


async def test_truncation_ends_an_episode_too() -> None:
    """A truncated episode takes no further step."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        assert decoded(await peer.step(1, 2, do="truncate"))["truncated"]
        failed(await peer.step(1, 3), "episode_done")


async def test_a_closed_session_takes_nothing() -> None:
    """After close its handle means nothing, and its environment is closed once."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        assert isinstance(await peer.call(m.Close(1, 2)), m.Reply)
        failed(await peer.step(1, 3), "unknown_session")
        assert journal == ["built", "reset None", "closed None"]
        assert server.sessions == 0


async def test_one_request_at_a_time_on_a_session() -> None:
    """A second request is refused as busy, and its number can be used again."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        gates["busy"] = asyncio.Event()
        await peer.send(m.Step(1, 2, Command(do="wait", text="busy")))
        failure = failed(await peer.step(1, 3), "busy")
        assert failure.retryable
        gates["busy"].set()
        assert decoded(await peer.receive())["count"] == 1
        assert decoded(await peer.step(1, 3))["count"] == 2


# Numbers


async def test_a_repeated_request_gets_the_kept_reply() -> None:
    """Asking again with the same number executes nothing."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        first = await peer.step(1, 2, text="once")
        assert await peer.step(1, 2, text="once") == first
        assert executions["once"] == 1


async def test_a_repeated_request_that_runs_is_attached_to() -> None:
    """Asking again while the request runs gives one reply, and one execution."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        gates["slow"] = asyncio.Event()
        step = m.Step(1, 2, Command(do="wait", text="slow"))
        await peer.send(step)
        await peer.send(step, m.Ping(1))
        await peer.expect(m.Pong)
        gates["slow"].set()
        await peer.expect(m.Reply)
        await peer.send(m.Ping(2))
        await peer.expect(m.Pong)
        assert executions["slow"] == 1


@pytest.mark.parametrize(("seq", "executed"), [(1, "unknown"), (5, "no"), (0, "no")])
async def test_a_number_out_of_order_is_refused(seq: int, executed: str) -> None:
    """Old and skipped numbers are errors; nothing is executed."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        await peer.step(1, 2)
        failed(await peer.step(1, seq, text="never"), "bad_sequence", executed)
        assert executions["never"] == 0


async def test_an_evicted_reply_is_reported_as_lost() -> None:
    """A reply that is no longer kept is an error that says the step was executed."""
    async with serving(kept_bytes=10_000) as server, dial(server) as peer:
        await begun(peer)
        await peer.step(1, 2, do="array", size=20_000, text="big")
        failed(await peer.step(1, 2, do="array", size=20_000), "reply_lost", "yes")
        assert decoded(await peer.step(1, 3))["count"] == 2


async def test_kept_replies_are_bounded_in_bytes() -> None:
    """Many large replies never take more memory than the bound."""
    async with serving(kept_bytes=100_000) as server, dial(server) as peer:
        for handle in range(1, 21):
            await begun(peer, handle)
            await peer.step(handle, 2, do="array", size=20_000)
            assert server.core.table.kept <= 100_000


async def test_a_reply_larger_than_the_client_accepts_gives_the_numbers() -> None:
    """A client with a small limit learns size and limit instead of the reply."""
    limits = m.Limits(frame_bytes=2048, chunk_bytes=1024, message_bytes=10_000)
    async with serving() as server, dial(server, limits=limits) as peer:
        await begun(peer)
        answer = await peer.step(1, 2, do="array", size=20_000)
        detail = failed(answer, "too_large", "yes").detail
        assert detail is not None
        assert detail["limit"] == 10_000


# Keys


async def test_an_unknown_handle_is_refused() -> None:
    """A handle that was never opened gives an error with its number."""
    async with serving() as server, dial(server) as peer:
        failure = failed(await peer.step(9, 1), "unknown_session")
        assert (failure.handle, failure.seq) == (9, 1)


async def test_an_unknown_key_resumes_nothing() -> None:
    """A key that nobody opened is unknown, and creates no session."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Resume(1, "e" * 32))
        failed(await peer.receive(), "unknown_session", "unknown")
        assert server.sessions == 0


async def test_the_public_id_is_no_key() -> None:
    """What lists show about a session does not open it."""
    async with serving() as server, dial(server) as peer, dial(server) as other:
        opened = await peer.open()
        await other.send(m.Resume(1, opened.session))
        failed(await other.receive(), "protocol_error")


async def test_one_client_cannot_step_the_session_of_another() -> None:
    """A handle belongs to its connection."""
    async with serving() as server, dial(server) as peer, dial(server) as other:
        await begun(peer)
        failed(await other.step(1, 2), "unknown_session")


async def test_a_session_is_resumed_by_its_key() -> None:
    """After its connection is gone, a session goes on where it was."""
    async with serving() as server:
        async with dial(server) as peer:
            await peer.open(1, KEY)
            await peer.reset()
            await peer.step(1, 2)
        async with dial(server) as peer:
            await peer.send(m.Resume(7, KEY))
            opened = await peer.expect(m.Opened)
            assert (opened.seq, opened.resumed) == (2, True)
            assert decoded(await peer.step(7, 3))["count"] == 2


async def test_a_resumed_session_keeps_its_last_reply() -> None:
    """The reply that got lost with its connection comes when asked again."""
    async with serving() as server:
        async with dial(server) as peer:
            await peer.open(1, KEY)
            await peer.reset()
            await peer.send(m.Step(1, 2, Command(text="lost")))
        await eventually(lambda: executions["lost"])
        async with dial(server) as peer:
            await peer.send(m.Resume(7, KEY))
            await peer.expect(m.Opened)
            reply = await peer.step(7, 2, text="lost")
            assert decoded(reply)["count"] == 1
            assert executions["lost"] == 1


async def test_resuming_elsewhere_takes_the_session_along() -> None:
    """Whoever shows the key last has the session; the other one is told."""
    async with serving() as server, dial(server) as old, dial(server) as new:
        await old.open(1, KEY)
        await new.send(m.Resume(4, KEY))
        await new.expect(m.Opened)
        assert (await old.expect(m.Ended)).code == "session_closed"
        await new.reset(4)


# Leases


async def test_a_lease_ends_with_close() -> None:
    """When nobody comes back, the environment is closed and the place is free."""
    async with serving(lease=0.05) as server:
        async with dial(server) as peer:
            await begun(peer)
        await eventually(lambda: server.sessions == 0)
        assert journal[-1] == "closed None"


async def test_a_lease_stops_what_runs() -> None:
    """A step of a client that is gone for good is cancelled before the close."""
    async with serving(lease=0.05) as server:
        gates["left"] = asyncio.Event()
        async with dial(server) as peer:
            await begun(peer)
            await peer.send(m.Step(1, 2, Command(do="wait", text="left")))
            await eventually(lambda: "left" in sleeping)
        await eventually(lambda: server.sessions == 0)
        assert executions["left"] == 0
        assert journal[-1] == "closed None"


async def test_a_client_may_ask_for_a_shorter_lease_only() -> None:
    """The server's lease is the most that a client gets."""
    async with serving(lease=5.0) as server, dial(server) as peer:
        assert (await peer.open(1)).lease == 5.0
        assert (await peer.open(2, lease=1.5)).lease == 1.5
        assert (await peer.open(3, lease=60.0)).lease == 5.0


async def test_a_session_that_was_never_reset_is_closed_without_a_word() -> None:
    """Without a reset there is no environment, and nothing to close."""
    async with serving(lease=0.0) as server:
        async with dial(server) as peer:
            await peer.open()
        await eventually(lambda: server.sessions == 0)
        assert journal == []


async def test_a_close_that_raises_frees_the_place_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody is there to get the error of an abandoned close; it is logged."""
    async with serving(lease=0.0) as server:
        async with dial(server) as peer:
            await begun(peer, close="fail")
        await eventually(lambda: server.sessions == 0)
    assert "raised ValueError in close" in caplog.text


# Capacity


async def test_a_full_server_says_how_full() -> None:
    """Over capacity the error carries both numbers, and may be retried."""
    async with serving(max_sessions=2) as server, dial(server) as peer:
        await peer.open(1)
        await peer.open(2)
        await peer.send(m.Open(3, "3" * 32))
        failure = failed(await peer.receive(), "at_capacity")
        assert failure.detail == {"sessions": 2, "max_sessions": 2}
        assert failure.retryable


async def test_an_open_waits_for_room() -> None:
    """With a wait, the session opens as soon as another one closes."""
    async with serving(max_sessions=1) as server, dial(server) as peer:
        await peer.open(1)
        await peer.send(m.Open(2, "2" * 32, wait=5.0))
        await peer.send(m.Close(1, 1))
        await peer.expect(m.Reply)
        assert (await peer.expect(m.Opened)).handle == 2


async def test_room_made_by_a_lease_serves_who_waits() -> None:
    """A session that expires makes room like one that is closed."""
    async with serving(max_sessions=1, lease=0.05) as server:
        async with dial(server) as gone:
            await begun(gone)
        async with dial(server) as peer:
            await peer.open(wait=5.0)


async def test_waiting_for_room_ends_in_time() -> None:
    """When no room is made, the wait ends with the numbers, and not much too late."""
    async with serving(max_sessions=1) as server, dial(server) as peer:
        await peer.open(1)
        began = asyncio.get_running_loop().time()
        await peer.send(m.Open(2, "2" * 32, wait=0.1))
        failed(await peer.receive(), "at_capacity")
        assert 0.1 <= asyncio.get_running_loop().time() - began < 0.6


async def test_who_leaves_waits_no_more() -> None:
    """A connection that is gone does not get the place that it waited for."""
    async with serving(max_sessions=1) as server, dial(server) as peer:
        await peer.open(1)
        async with dial(server) as other:
            await other.send(m.Open(1, "2" * 32, wait=5.0), m.Ping(1))
            await other.expect(m.Pong)
        await eventually(lambda: len(server.core.links) == 1)
        await peer.call(m.Close(1, 1))
        assert server.sessions == 0


async def test_a_withdrawn_open_leaves_no_session() -> None:
    """A client may give up an open that waits; the place stays free."""
    async with serving(max_sessions=1) as server, dial(server) as peer:
        await peer.open(1)
        await peer.send(m.Open(2, "2" * 32, wait=5.0), m.Cancel(2, 0))
        await peer.call(m.Close(1, 1))
        assert server.sessions == 0


# Several sessions on one connection


async def test_sessions_interleave() -> None:
    """A session that waits does not hold up the others of its connection."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await begun(peer, 2)
        gates["first"] = asyncio.Event()
        await peer.send(m.Step(1, 2, Command(do="wait", text="first")))
        for seq in range(2, 6):
            assert decoded(await peer.step(2, seq))["count"] == seq - 1
        gates["first"].set()
        assert (await peer.expect(m.Reply)).handle == 1


async def test_a_large_reply_lets_small_ones_overtake() -> None:
    """A large observation leaves in chunks, between which others find room."""
    async with serving() as server, dial(server) as peer:
        await begun(peer, 1)
        await begun(peer, 2)
        await peer.send(
            m.Step(1, 2, Command(do="array", size=4_000_000)), m.Step(2, 2, Command())
        )
        kinds = [type(await peer.receive()) for _ in range(8)]
        assert m.Reply in kinds
        assert kinds.count(m.Chunk) == 7


# Progress, lists, watching


async def test_progress_is_reported_in_order() -> None:
    """What a long step reports comes before its reply."""
    async with serving(BlockingEnvironment) as server, dial(server) as peer:
        await begun(peer)
        await peer.send(m.Step(1, 2, Command(do="progress")))
        parts = [await peer.expect(m.Progress) for _ in range(3)]
        assert [part.fraction for part in parts] == [0.25, 0.5, 0.75]
        assert {(part.handle, part.seq) for part in parts} == {(1, 2)}
        await peer.expect(m.Reply)


async def test_progress_that_cannot_be_sent_harms_nothing() -> None:
    """A report with text that no encoding knows is cleaned."""
    async with serving() as server, dial(server) as peer:
        await begun(peer)
        await peer.send(m.Step(1, 2, Command(do="bad_progress")))
        assert "udc80" in (await peer.expect(m.Progress)).message
        await peer.expect(m.Reply)


async def test_a_list_describes_the_sessions() -> None:
    """A list has a row for each session, with what it does."""
    async with serving() as server, dial(server) as peer, dial(server) as other:
        await begun(peer, 1)
        await peer.step(1, 2)
        await peer.open(2, owner="mine")
        await other.send(m.ListSessions(5))
        listed = await other.expect(m.Sessions)
        assert (listed.id, listed.total) == (5, 2)
        first, second = listed.rows
        assert (first.state, first.episode, first.step, first.reward) == (
            "running",
            1,
            1,
            1.0,
        )
        assert (second.state, second.owner, second.attached) == ("new", "mine", True)


async def test_a_list_can_be_narrowed() -> None:
    """A list of one environment, or of a few rows, says how many there are."""
    async with serving(ScriptedEnvironment, BlockingEnvironment) as server:
        async with dial(server) as peer:
            await peer.open(1)
            await peer.open(2)
            await peer.open(3, environment="blocking")
            await peer.send(m.ListSessions(1, "scripted", limit=1))
            listed = await peer.expect(m.Sessions)
            assert (len(listed.rows), listed.total) == (1, 2)


async def test_a_watcher_sees_requests_and_replies() -> None:
    """Events carry action and observation, in the watcher's own encoding."""
    async with serving() as server, dial(server) as peer:
        async with dial(server, codec=m.JSON) as watcher:
            opened = await peer.open()
            await watcher.send(m.Watch(9, opened.session))
            assert (await watcher.expect(m.Watching)).row.state == "new"
            await peer.reset(options={"length": 1})
            await peer.step(1, 2, text="seen")
            await peer.step(1, 3)
            first = await watcher.expect(m.Event)
            event = await watcher.expect(m.Event)
            assert (first.id, first.kind, first.seq) == (9, "reset", 1)
            assert (event.id, event.kind, event.seq) == (9, "step", 2)
            asked = payload_of(event.request, m.JSON)
            seen = payload_of(event.payload, m.JSON)
            assert asked["text"] == "seen"
            assert seen["terminated"]


async def test_watching_an_unknown_session_is_refused() -> None:
    """A watch names the session that it looked for."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Watch(1, "s77"))
        failure = failed(await peer.receive(), "unknown_session")
        assert failure.detail == {"watch": 1}


async def test_a_slow_watcher_loses_events_and_is_told() -> None:
    """A watcher that does not read costs nobody a step."""
    async with serving() as server, dial(server) as peer, dial(server) as watcher:
        opened = await peer.open()
        await peer.reset()
        await watcher.send(m.Watch(1, opened.session, queue=2))
        await watcher.expect(m.Watching)
        # Large enough that the kernel's buffers do not swallow them all.
        watcher.socket.transport.pause_reading()
        for seq in range(2, 42):
            await peer.step(1, seq, text="x" * 60_000)
        watcher.socket.transport.resume_reading()
        seen = dropped = 0
        while seen + dropped < 40:
            await peer.step(1, 42 + seen)
            event = await watcher.expect(m.Event)
            seen += 1
            dropped += event.dropped
        assert dropped > 0


async def test_a_guest_drives_and_hands_back() -> None:
    """A session that is taken over refuses its owner until it is handed back."""
    async with serving() as server, dial(server) as owner, dial(server) as guest:
        opened = await owner.open()
        await owner.reset()
        await guest.send(m.TakeOver(1, opened.session, "a" * 32))
        await guest.expect(m.Opened)
        failed(await owner.step(1, 2), "taken_over")
        assert decoded(await guest.step(1, 1))["count"] == 1
        await guest.send(m.HandBack(1))
        await guest.expect(m.Ended)
        assert decoded(await owner.step(1, 3))["count"] == 2


async def test_an_unknown_environment_is_refused_with_the_known_ones() -> None:
    """Opening what is not hosted names what is."""
    async with serving() as server, dial(server) as peer:
        await peer.send(m.Open(1, KEY, "chess"))
        assert "scripted" in failed(await peer.receive(), "unknown_environment").message
