"""What is checked: one environment of a server, and how it is played."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any, Protocol

import anyio

from ..client import GenericEnv, GenericObservation, StepResult
from ..client.description import EnvironmentDescription, describe
from ..errors import InvalidAction, OpenEnvError
from ..memory import MemoryServer
from ..rollout.adapters.sampling import Sampler
from ..server.app import EnvironmentLike
from .differences import first_difference

__all__ = [
    "Playable",
    "Session",
    "Subject",
    "Trace",
    "difference_of_traces",
    "subject_of",
]


class Session(GenericEnv):
    """A session that tells how its end went."""

    async def end(self) -> OpenEnvError | None:
        """Close the session; returns what went wrong."""
        assert self._session is not None
        try:
            await self._close_session(self._session)
        except OpenEnvError as error:
            return error
        return None


class Playable(Protocol):
    """What an episode can be played on: a session, or what stands before one."""

    async def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> StepResult[Any]:
        """Begin an episode."""
        ...

    async def step(self, action: Any) -> StepResult[Any]:
        """Perform an action."""
        ...


@dataclasses.dataclass(frozen=True)
class Trace:
    """What an episode showed: its first observation, and one for each action."""

    observations: tuple[GenericObservation, ...]
    actions: tuple[Any, ...]

    @property
    def done(self) -> bool:
        """Whether the episode ended."""
        return self.observations[-1].done


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """An environment under test.

    Args:
        url: Where it is served.
        description: What its server says about it.
        token: Bearer token.
        steps: Actions of an episode that is played for a check.
        timeout: Seconds for each call.
        options: For every `reset`, where an environment cannot do without.
        script: Actions to play instead of random ones, over and over.
        ignore: Paths of observations that may differ, such as `$.elapsed`.
        server: The server, where it is in this process.
    """

    url: str
    description: EnvironmentDescription
    token: str | None = None
    steps: int = 16
    timeout: float = 30.0
    options: Mapping[str, Any] | None = None
    script: Sequence[Any] = ()
    ignore: Collection[str] = ("$.metadata",)
    server: MemoryServer | None = None

    @classmethod
    async def at(
        cls, url: str, *, environment: str | None = None, **options: Any
    ) -> Subject:
        """Ask a server what it has.

        Args:
            url: As for `EnvClient`.
            environment: Which environment; None takes the server's default.
            options: The other fields.

        Raises:
            OpenEnvError: There is no server, or it does not host the environment.
        """
        token = options.get("token")
        description = await describe(url, environment=environment, token=token)
        return cls(url=url, description=description, **options)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        """Open a session."""
        session = Session(
            self.url,
            environment=self.description.name,
            token=self.token,
            timeout=self.timeout,
            owner="conformance",
        )
        async with session:
            yield session

    def actions(self, seed: int, count: int | None = None) -> list[Any]:
        """Draw actions from the schema; the same seed draws the same.

        Raises:
            LocalProtocolError: The schema asks for what cannot be drawn.
        """
        if self.script:
            length = len(self.script)
            return [self.script[place % length] for place in range(count or self.steps)]
        sampler = Sampler(self.description.action, seed=seed)
        return [sampler.sample() for _ in range(count or self.steps)]

    async def reset(self, session: Playable, seed: int | None) -> GenericObservation:
        """Begin an episode."""
        options = None if self.options is None else dict(self.options)
        return (await session.reset(seed=seed, options=options)).observation  # type: ignore[no-any-return]  # a generic session's

    async def play(self, session: Playable, seed: int, actions: Sequence[Any]) -> Trace:
        """Play an episode to its end, or to that of the actions.

        Actions that the environment refuses are left out: no schema can rule out all
        that an environment does not want.
        """
        observations, played = [await self.reset(session, seed)], list[Any]()
        for action in actions:
            if observations[-1].done:
                break
            try:
                result = await session.step(action)
            except InvalidAction:
                continue
            observations.append(result.observation)
            played.append(action)
        return Trace(tuple(observations), tuple(played))

    async def episode(self, seed: int, actions: Sequence[Any]) -> Trace:
        """Play an episode in a session of its own."""
        async with self.session() as session:
            return await self.play(session, seed, actions)

    def difference(self, first: Trace, second: Trace) -> str | None:
        """Where two episodes differ first; None if they do not."""
        return difference_of_traces(first, second, ignore=self.ignore)


@contextlib.asynccontextmanager
async def subject_of(
    target: EnvironmentLike, *, environment: str | None = None, **options: Any
) -> AsyncGenerator[Subject, None]:
    """Serve an environment in this process, or go to where it is served.

    Args:
        target: A name, a class or a spec, or the address of a server.
        environment: Which of the server's environments; None takes its default.
        options: The fields of `Subject`.

    Raises:
        LocalProtocolError: There is no such environment.
        OpenEnvError: There is no such server.
    """
    if isinstance(target, str) and "://" in target:
        yield await Subject.at(target, environment=environment, **options)
        return
    # Finding an environment imports and reads files.
    server = await anyio.to_thread.run_sync(lambda: MemoryServer(target))
    async with server:
        yield await Subject.at(
            server.url, environment=environment, server=server, **options
        )


def difference_of_traces(
    first: Trace, second: Trace, *, ignore: Collection[str]
) -> str | None:
    """Say at which step and where two episodes differ first."""
    pairs = zip(first.observations, second.observations, strict=False)
    for step, (one, other) in enumerate(pairs):
        found = first_difference(one, other, ignore=ignore)
        if found is not None:
            return f"{_at(step)}, {found}"
    lengths = len(first.observations), len(second.observations)
    if lengths[0] != lengths[1]:
        return f"{_at(min(lengths))}: one episode is over and the other is not"
    return None


def _at(step: int) -> str:
    return "at reset" if step == 0 else f"at step {step}"
