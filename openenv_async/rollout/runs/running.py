"""A whole rollout to disk: servers, sessions, a policy, a collector and a run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import anyio.to_thread
import msgspec

from ...client import EnvBatch, GenericEnv
from ...client.description import describe
from ...errors import LocalProtocolError
from ...providers import LocalProvider, Provider
from ...providers.docker import DockerProvider
from ...providers.fleet import Fleet
from ..collector import Collector
from ..episodes import (
    EnvironmentFailure,
    Episode,
    InfrastructureFailure,
    PolicyFailure,
)
from ..options import CollectorOptions
from ..policies import AnyPolicy
from ..starts import TasksLike, check_tasks
from .manifest import (
    EnvironmentRecord,
    EpisodeFormat,
    Manifest,
    check_new,
    read_manifest,
)
from .policies import ChatSettings, policy_from_spec
from .recording import record_episodes
from .writer import RunWriter

__all__ = ["Rollout", "RolloutPlan", "rollout"]


class RolloutPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to play, with what, and where the episodes go."""

    folder: Path
    """The run directory."""
    target: str = ""
    """The address of a server, or what `openenv-async serve` takes."""
    source: str = ""
    """The folder with the target's package, where that need not be installed; the
    manifest keeps it for `replay`."""
    image: str = ""
    """A container image to start instead of a target on this machine."""
    environment: str | None = None
    """Which of the server's environments; None takes its default."""
    policy: str = "random"
    """See `policy_from_spec`."""
    chat: ChatSettings = ChatSettings()
    tasks: TasksLike = 1
    tasks_label: str = ""
    """What the manifest says about the tasks."""
    task_count: int | None = None
    """How many there are, where that is known."""
    options: CollectorOptions = CollectorOptions()
    """How; `concurrency` is the number of sessions."""
    replicas: int = 1
    """Servers to start."""
    sockets: int | None = None
    """Connections to each server; None takes as many as suit the sessions."""
    episode_format: EpisodeFormat = "jsonl"
    resume: bool = False
    retry_failed: bool = False
    """On resuming, play again what failed, whyever; what became of it is recorded in
    the new episode."""
    salvage: bool = False
    """On resuming, mend files that are damaged; see `RunWriter`."""
    token: str | None = None
    variables: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Environment variables for servers that are started."""
    web: bool = False
    """Whether servers that are started on this machine have the debug pane."""

    @property
    def episodes(self) -> int | None:
        """How many the whole run has; None where that is not known."""
        count = self.tasks if isinstance(self.tasks, int) else self.task_count
        return None if count is None else count * self.options.group_size

    @property
    def is_remote(self) -> bool:
        """Whether the server runs already."""
        return "://" in self.target


_SLACK: Final = 5.0
"""Seconds that a connection is tried for longer than the run waits for one."""
_FAILED: Final = tuple(
    str(kind.__struct_config__.tag)
    for kind in (EnvironmentFailure, PolicyFailure, InfrastructureFailure)
)


@final
class Rollout:
    """A rollout that is ready to begin; made by `rollout`.

    Args:
        collector: Plays, and is open.
        writer: The run that it is for; open, too.
        found: Whether there was a run already.
        panes: Addresses of the debug panes of the servers that were started.
    """

    def __init__(
        self,
        collector: Collector[Any, Any],
        writer: RunWriter,
        *,
        found: bool,
        panes: Sequence[str],
    ) -> None:
        self.collector = collector
        self.writer = writer
        self.resumed = len(writer)
        """Episodes that the run had before."""
        self.failed_before = writer.failed
        """How many of those have failed."""
        self.salvaged = writer.salvaged
        """What was damaged, and is mended."""
        self.is_new = not found
        """Whether the run was begun now."""
        self.panes = tuple(panes)
        """Addresses of the debug panes of the servers that were started."""

    async def play(
        self, *, recorded: Callable[[Episode[Any, Any]], None] | None = None
    ) -> int:
        """Play what is missing; returns how many episodes were recorded.

        `collector.cancel()` ends it early, with all finished episodes recorded.

        Args:
            recorded: Called with each episode that is there to stay.

        Raises:
            StorageFull: No room is left; what was recorded is intact.
            OpenEnvError: No session is left and none can be opened.
        """
        return await record_episodes(self.collector, self.writer, recorded=recorded)


@contextlib.asynccontextmanager
async def rollout(plan: RolloutPlan) -> AsyncGenerator[Rollout, None]:
    """Start servers, open sessions and the run; everything ends with the context.

    Raises:
        RunError: There is a run already and it is not to be resumed, or another reason
            of `RunWriter`.
        OpenEnvError: The environment cannot be reached or started.
        LocalProtocolError: The policy's name is none, or two tasks have the same id.
    """
    if plan.replicas > (plan.options.concurrency or 1) or (
        plan.replicas > 1 and plan.is_remote
    ):
        raise LocalProtocolError(
            "expected no more replicas than episodes at a time, and one for a server "
            f"that runs already, got {plan.replicas}"
        )
    if plan.web and (plan.is_remote or plan.image):
        raise LocalProtocolError(
            "expected the debug pane for servers that are started on this machine, got "
            f"{plan.target or plan.image!r}"
        )
    check_tasks(plan.tasks)
    found = await anyio.to_thread.run_sync(read_manifest, plan.folder)
    if not plan.resume:
        # Before servers are started for nothing.
        await anyio.to_thread.run_sync(check_new, found, plan.folder)
    async with contextlib.AsyncExitStack() as stack:
        provider = None if plan.is_remote else _provider(plan)
        batch = await _open_batch(plan, provider, stack)
        record = await _record(plan, batch)
        # In a thread, because it may read files.
        policy = await anyio.to_thread.run_sync(
            lambda: policy_from_spec(plan.policy, record, chat=plan.chat)
        )
        await _enter(stack, policy)
        writer = RunWriter(
            plan.folder,
            _manifest(plan, record),
            resume=plan.resume,
            forget=_FAILED if plan.retry_failed else (),
            salvage=plan.salvage,
        )
        options = msgspec.structs.replace(
            plan.options,
            skip=writer.__contains__,
            failed=writer.has_failed,
            earlier=writer.earlier,
        )
        collector = Collector(batch, policy, plan.tasks, options)
        # Not before the policy is accepted: the corrected command finds no run then.
        await stack.enter_async_context(writer)
        await stack.enter_async_context(collector)
        servers = provider.servers if isinstance(provider, LocalProvider) else ()
        panes = [server.pane_url for server in servers if server.pane_url]
        yield Rollout(collector, writer, found=found is not None, panes=panes)


def _provider(plan: RolloutPlan) -> Provider:
    if plan.image:
        return DockerProvider(plan.image)
    return LocalProvider(plan.target, environment=plan.variables, web=plan.web)


async def _open_batch(
    plan: RolloutPlan, provider: Provider | None, stack: contextlib.AsyncExitStack
) -> EnvBatch[Any, Any, Any]:
    size = plan.options.concurrency or 1
    place: dict[str, Any] = {"url": plan.target}
    if provider is not None:
        place = {"provider": provider}
        if plan.replicas > 1:
            fleet = Fleet(
                provider,
                replicas=plan.replicas,
                sessions_per_replica=-(-size // plan.replicas),
            )
            place = {"provider": await stack.enter_async_context(fleet)}
    batch = GenericEnv.batch(
        size=size,
        sockets=plan.sockets,
        environment=plan.environment,
        token=plan.token,
        owner="rollout",
        # Whoever takes a session over in the debug pane has it for a while; the episode
        # goes on when it is handed back.
        hold=True,
        # The run gives up first: then episodes that waited are not failures.
        reconnect_timeout=plan.options.recovery_timeout + _SLACK,
        **place,
    )
    return await stack.enter_async_context(batch)


async def _record(
    plan: RolloutPlan, batch: EnvBatch[Any, Any, Any]
) -> EnvironmentRecord:
    description = await describe(
        batch.servers[0].url, environment=batch.environment, token=plan.token
    )
    return EnvironmentRecord.of(
        description, target=plan.target, image=plan.image, source=plan.source
    )


async def _enter(stack: contextlib.AsyncExitStack, policy: AnyPolicy[Any, Any]) -> None:
    """Open a policy that is a context manager, as those with connections are."""
    if isinstance(policy, contextlib.AbstractAsyncContextManager):
        await stack.enter_async_context(policy)


def _manifest(plan: RolloutPlan, record: EnvironmentRecord) -> Manifest:
    options = plan.options
    config: Mapping[str, object] = {
        "policy": plan.policy,
        "group_size": options.group_size,
        "group_seeds": options.group_seeds,
        "max_steps": options.max_steps,
    }
    if plan.policy.startswith("chat:"):
        chat = msgspec.to_builtins(plan.chat)
        # A secret, and an address that may change, decide nothing.
        del chat["api_key"], chat["base_url"]
        config = {**config, "chat": chat}
    runtime: dict[str, object] = {
        "tasks": plan.tasks_label or str(plan.tasks),
        "episodes": plan.episodes,
        "concurrency": options.concurrency,
        "replicas": plan.replicas,
        "step_timeout": options.step_timeout,
        "episode_timeout": options.episode_timeout,
        "policy_timeout": options.policy_timeout,
        "retries": options.retries,
    }
    return Manifest(
        environment=record,
        seed=options.seed,
        config=dict(config),
        runtime=runtime,
        episode_format=plan.episode_format,
    )
