"""Our clients with OpenEnv's own servers, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from openenv_async import (
    Action,
    AtCapacity,
    DeadlineExceeded,
    EnvClient,
    EnvironmentFailed,
    GenericEnv,
    InvalidAction,
    Observation,
    ReplyLost,
    ResetRequired,
    SessionLost,
    State,
    StepInterrupted,
)
from openenv_async.openenv import (
    ConnectionClosedError,
    GenericEnvClient,
    ServerError,
)
from tests.chaos.cutter import cut_off
from tests.client.dialects import line_of, started
from tests.clients import cancelled
from tests.serving import eventually

from .theirs import Theirs, serving_theirs

# The first one may have to install OpenEnv.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Count(Action):
    """What their environment takes."""

    delta: int = 1
    sleep: float = 0.0
    fail: str = ""
    size: int = 0


class Counted(Observation):
    """What their environment shows."""

    total: int
    note: str
    instance: int = 0


class CountState(State):
    """What their environment knows."""

    total: int = 0


class CountEnv(EnvClient[Count, Counted, CountState]):
    """A typed client of theirs."""


@pytest.fixture(scope="module", params=["0.10.0", "0.2.3"])
def theirs(request: pytest.FixtureRequest) -> Iterator[Theirs]:
    """A server of either version."""
    with serving_theirs(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def current() -> Iterator[Theirs]:
    """A server of the newer version."""
    with serving_theirs("0.10.0") as server:
        yield server


@pytest.fixture(scope="module")
def narrow() -> Iterator[Theirs]:
    """A server with room for one session, as OpenEnv's default has it."""
    with serving_theirs("0.10.0", sessions=1) as server:
        yield server


async def test_an_episode_is_played(theirs: Theirs) -> None:
    """Seed, id and options arrive; observations, rewards, ends and states come back."""
    async with CountEnv(theirs.url) as env:
        begun = await env.reset(seed=3, episode_id="e", options={"start": 4})
        assert (begun.observation.total, begun.observation.note) == (4, "reset")
        assert begun.reward is None
        result = await env.step(Count(delta=2))
        assert (result.observation.total, result.reward, result.done) == (6, 2.0, False)
        assert (await env.step(Count(delta=5))).terminated
        state = await env.state()
        assert (state.episode_id, state.step_count, state.total) == ("e", 2, 11)


async def test_metadata_arrives(current: Theirs) -> None:
    """Older servers drop it."""
    async with GenericEnv(current.url) as env:
        result = await env.reset(seed=3, options={"start": 1})
        assert result.info == {"seed": 3, "options": ["start"]}


async def test_errors_say_whose_fault_it_is(theirs: Theirs) -> None:
    """And whether the step was executed, as far as the server tells."""
    async with CountEnv(theirs.url) as env:
        await env.reset()
        with pytest.raises(InvalidAction) as caught:
            await env.step(Count(delta=99))
        assert caught.value.executed == "no"
        errors = caught.value.detail["errors"]
        assert isinstance(errors, list)
        assert errors[0]["loc"] == ["delta"]
        with pytest.raises(EnvironmentFailed, match="boom") as failed:
            await env.step(Count(fail="boom"))
        assert failed.value.executed == "unknown"
        assert (await env.step(Count())).observation.total == 2


async def test_a_validator_that_raises_costs_the_session(theirs: Theirs) -> None:
    """A fault of OpenEnv's: said as what it is, never as a fresh environment."""
    async with CountEnv(theirs.url) as env:
        await env.reset()
        with pytest.raises(SessionLost, match="serialize"):
            await env.step(Count(delta=7))
        with pytest.raises(SessionLost):
            await env.step(Count())


async def test_large_observations_arrive(theirs: Theirs) -> None:
    """More than a frame of our own language may hold."""
    async with CountEnv(theirs.url) as env:
        await env.reset()
        size = 6 * 1024 * 1024
        assert len((await env.step(Count(size=size))).observation.note) == size


async def test_a_full_server_is_at_capacity(narrow: Theirs) -> None:
    """The probe of the language is the first session; the second waits for it."""
    async with CountEnv(narrow.url) as env:
        await env.reset()
        with pytest.raises(AtCapacity) as caught:
            await CountEnv(narrow.url).open()
        assert caught.value.detail["max_sessions"] == 1
        second = CountEnv(narrow.url, capacity_timeout=30.0)
        opening = started(second.open())
        await asyncio.sleep(0.1)
        assert not opening.done()
    await opening
    await second.aclose()


async def test_a_batch_plays_many_sessions(theirs: Theirs) -> None:
    """One environment each; whoever is done first comes first."""
    async with CountEnv.batch(theirs.url, size=24) as envs:
        await envs.reset(options=[{"start": index % 7} for index in range(24)])
        results = await envs.step([Count(delta=1)] * 24)
        totals = [result.observation.total for result in results]  # type: ignore[union-attr]  # no failure
        assert totals == [index % 7 + 1 for index in range(24)]
        instances = {result.observation.instance for result in results}  # type: ignore[union-attr]  # no failure
        assert len(instances) == 24
        slow = [Count(sleep=0.5 if index == 0 else 0.0) for index in range(24)]
        envs.send(list(range(24)), slow)
        order: list[int] = []
        async for ready in envs.ready(min=1):
            order += ready.indices
            if len(order) == 24:
                break
        assert order[-1] == 0


async def test_a_deadline_ends_the_episode(theirs: Theirs) -> None:
    """The late reply is thrown away, and the reset gets its own."""
    async with CountEnv(theirs.url) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step(Count(delta=5, sleep=0.4), timeout=0.1)
        with pytest.raises(ResetRequired):
            await env.step(Count())
        assert (await env.reset(options={"start": 1})).observation.total == 1


async def test_a_cancelled_step_is_told_of(theirs: Theirs) -> None:
    """It was executed, and its result is there."""
    async with CountEnv(theirs.url) as env:
        await env.reset()
        task = started(env.step(Count(delta=5, sleep=0.3)))
        await asyncio.sleep(0.1)
        await cancelled(task)
        with pytest.raises(StepInterrupted) as caught:
            await env.step(Count())
        assert caught.value.executed == "yes"
        assert (await env.state()).total == 5


async def test_a_cut_connection_is_a_lost_session(theirs: Theirs) -> None:
    """Never a fresh environment: that is what OpenEnv's own client goes on with."""
    async with cut_off(theirs) as proxy, CountEnv(proxy.url) as env:
        await env.reset(options={"start": 3})
        task = started(env.step(Count(sleep=0.3)))
        await asyncio.sleep(0.1)
        proxy.cut()
        with pytest.raises(SessionLost) as caught:
            await task
        assert caught.value.executed == "unknown"
        with pytest.raises(SessionLost):
            await env.step(Count())


async def test_a_leased_session_is_attached_to_again(current: Theirs) -> None:
    """The step whose reply was cut off was executed, as the count proves."""
    async with cut_off(current) as proxy, CountEnv(proxy.url, lease=20.0) as env:
        await env.reset(options={"start": 3})
        instance = (await env.step(Count())).observation.instance
        task = started(env.step(Count(delta=2, sleep=1.0)))
        await asyncio.sleep(0.2)
        proxy.cut()
        with pytest.raises(ReplyLost, match="from 1 to 2") as caught:
            await task
        assert caught.value.executed == "yes"
        after = await env.step(Count())
        assert (after.observation.total, after.observation.instance) == (7, instance)
        proxy.cut()
        await eventually(lambda: line_of(env).socket is None)
        assert (await env.step(Count(delta=-7))).observation.total == 0


async def test_an_environment_that_does_not_count_proves_nothing(
    current: Theirs,
) -> None:
    """Then nobody knows, whatever was executed."""
    async with cut_off(current) as proxy, CountEnv(proxy.url, lease=20.0) as env:
        await env.reset(options={"counts": False})
        task = started(env.step(Count(delta=2, sleep=0.5)))
        await asyncio.sleep(0.2)
        proxy.cut()
        with pytest.raises(ReplyLost, match="nobody has seen") as caught:
            await task
        assert caught.value.executed == "unknown"
        assert (await env.state()).total == 2


async def test_a_leased_session_is_ended_with_its_client(narrow: Theirs) -> None:
    """Its only place is free again."""
    for _ in range(2):
        async with CountEnv(narrow.url, lease=20.0, capacity_timeout=5.0) as env:
            await env.reset()


async def test_an_old_server_cannot_be_attached_to(
    theirs: Theirs, caplog: pytest.LogCaptureFixture
) -> None:
    """It ignores the id; that is noticed, and the session goes with its socket."""
    with caplog.at_level(logging.WARNING):
        async with cut_off(theirs) as proxy, CountEnv(proxy.url, lease=20.0) as env:
            await env.reset()
            is_lasting = bool(line_of(env).attach_id)
            proxy.cut()
            await eventually(lambda: _is_cut(env))
            if is_lasting:
                await env.step(Count())
            else:
                with pytest.raises(SessionLost):
                    await env.step(Count())
    assert is_lasting is not ("cannot attach" in caplog.text)


def _is_cut(env: CountEnv) -> bool:
    """Whether the client has noticed."""
    return not env.is_open or line_of(env).socket is None


# The drop-in


def test_trainers_call_it_plainly(theirs: Theirs) -> None:
    """The frames are the server's own, word for word."""
    client = GenericEnvClient(base_url=theirs.url)
    result = client.reset(start=2)
    assert result.observation["total"] == 2
    result = client.step({"delta": 3, "reward": True})
    assert result.reward is True
    assert result.observation["total"] == 5
    assert not result.done
    assert client.state()["step_count"] == 1
    with pytest.raises(RuntimeError, match=r"boom \(code: EXECUTION_ERROR\)"):
        client.step({"fail": "boom"})
    with pytest.raises(RuntimeError, match=r"Invalid message \(code: VALIDATION_ERROR"):
        client.step({"delta": 99})
    client.close()


async def test_trainers_await_it(theirs: Theirs) -> None:
    """And a cut connection is never a fresh environment."""
    async with cut_off(theirs) as proxy:
        async with GenericEnvClient(base_url=proxy.url) as env:
            await env.step({"delta": 1})
            await env.reset(start=1)
            proxy.cut()
            with pytest.raises(ConnectionClosedError):
                await env.step({"delta": 1})
            with pytest.raises(ConnectionClosedError, match="reset first"):
                await env.step({"delta": 1})
            assert (await env.reset()).observation["total"] == 0


def test_capacity_is_named_by_its_code(narrow: Theirs) -> None:
    """As miles looks for it."""
    with GenericEnvClient(base_url=narrow.url) as first:
        first.reset()
        second = GenericEnvClient(base_url=narrow.url).sync()
        with pytest.raises(ServerError, match="CAPACITY_REACHED"):
            second.reset()
        second.close()
