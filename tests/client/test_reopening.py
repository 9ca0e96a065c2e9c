"""Sessions of a server that has ended are opened elsewhere, with the next reset."""

from __future__ import annotations

from collections.abc import Sequence

from openenv_async import ProviderError, ServerDied, SessionLost, State
from openenv_async.client import EnvBatch, Failure
from openenv_async.providers import Served
from tests.clients import ScriptedEnv
from tests.environments import Command, Report
from tests.serving import Serving, eventually, serving


class _Server:
    """A server that a provider would have started.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.death: ServerDied | None = None

    async def stop(self) -> None:
        """It is not ours."""

    async def diagnose(self) -> ServerDied | None:
        return self.death


class _Placer:
    """Puts sessions on the first server until that is dead, then on the other one."""

    def __init__(self, first: Serving, second: Serving) -> None:
        self.servers = [_Server(first.url), _Server(second.url)]

    async def place(self, count: int) -> Sequence[Served]:
        for server in self.servers:
            if server.death is None:
                return [server] * count
        raise ProviderError("no server is left")

    async def release(self, places: Sequence[Served]) -> None:
        """Nothing was taken."""


async def test_sessions_of_a_server_that_ends_in_order_are_opened_elsewhere() -> None:
    """It tells the sessions before it hangs up; one reset is enough all the same."""
    async with serving() as first, serving() as second:
        placer = _Placer(first, second)
        async with ScriptedEnv.batch(provider=placer, size=3) as batch:
            await batch.reset()
            await first.core.drain(timeout=1.0)
            lost = await batch.step([Command()] * 3)
            for result in lost:
                assert isinstance(result, Failure)
                assert isinstance(result.error, SessionLost)
            # Its connections are still open.
            placer.servers[0].death = ServerDied("gone", detail={"exit_code": 0})
            again = await batch.reset(seeds=7)
            assert not [each for each in again if isinstance(each, Failure)]
            await eventually(lambda: second.sessions == 3)


async def test_sessions_are_opened_elsewhere_when_their_server_hangs_up() -> None:
    """A connection that ends while they are opened again is no reason to give up."""
    async with serving() as second:
        async with serving() as first:
            placer = _Placer(first, second)
            batch = ScriptedEnv.batch(provider=placer, size=3)
            await batch.open()
            await batch.reset()
            await first.core.drain(timeout=1.0)
            await eventually(lambda: all(_has_ended(batch)))
        # The client has not seen yet that it hung up.
        placer.servers[0].death = ServerDied("gone", detail={"exit_code": 0})
        again = await batch.reset(seeds=7)
        assert not [each for each in again if isinstance(each, Failure)]
        await batch.aclose()


async def test_what_finds_no_place_is_tried_again() -> None:
    """A reset that fails because there is no server says so, and harms nothing."""
    async with serving() as first, serving() as second:
        placer = _Placer(first, second)
        async with ScriptedEnv.batch(provider=placer, size=3) as batch:
            await batch.reset()
            await first.core.drain(timeout=1.0)
            await eventually(lambda: all(_has_ended(batch)))
            for server in placer.servers:
                server.death = ServerDied("gone", detail={"exit_code": 0})
            for _ in range(2):
                results = await batch.reset(indices=[0, 1])
                for result in results:
                    assert isinstance(result, Failure)
                    assert isinstance(result.error, ProviderError)
            placer.servers[1].death = None
            again = await batch.reset()
            assert not [each for each in again if isinstance(each, Failure)]


def _has_ended(batch: EnvBatch[Command, Report, State]) -> list[bool]:
    return [slot.session.ended is not None for slot in batch._slots]
