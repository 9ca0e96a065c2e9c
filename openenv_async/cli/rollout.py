"""`openenv-async rollout`: episodes of an environment, played and kept on disk."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import msgspec
import typer

from ..errors import LocalProtocolError, OpenEnvError
from ..rollout.options import Batching, CollectorOptions
from ..rollout.runs import Rollout, RolloutPlan, read_tasks
from ..rollout.runs import rollout as open_rollout
from ..rollout.runs.policies import ChatSettings
from ..rollout.timing import RunStatistics
from ..scaffold import importable_target, search_path
from .progress import Seen, shown

__all__ = ["rollout"]

_POLL: Final = 0.25
"""Seconds between looks at the statistics."""


def rollout(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run directory for the episodes.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="[ENV_OR_URL]",
            help="What `serve` takes, the folder of a package, or the address of a "
            "running server. Not needed with --image.",
            show_default=False,
        ),
    ] = "",
    policy: Annotated[
        str,
        typer.Option(
            help="'random', 'scripted:FILE' (actions as JSON lines, repeated), "
            "'chat:MODEL', or 'module:object'."
        ),
    ] = "random",
    tasks: Annotated[
        str,
        typer.Option(
            metavar="N|FILE",
            help="So many tasks that differ in seed, or a file of JSON lines with "
            "id, seed, options, metadata and priority.",
        ),
    ] = "1",
    group_size: Annotated[int, typer.Option(min=1, help="Episodes of each task.")] = 1,
    group_seeds: Annotated[
        Literal["distinct", "same"],
        typer.Option(help="Whether the episodes of a task begin alike."),
    ] = "distinct",
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Episodes at a time.")
    ] = 16,
    batch: Annotated[
        int, typer.Option(min=1, help="Observations of one call of a batch policy.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Where all other seeds derive from.")] = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps after which to truncate.")
    ] = None,
    step_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a step or reset.")
    ] = None,
    episode_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of an episode.")
    ] = None,
    policy_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of a call of the policy.")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="Tries again when infrastructure fails.")
    ] = 0,
    episode_format: Annotated[
        Literal["jsonl", "parquet"],
        typer.Option("--format", help="JSON lines with zstd, or Parquet."),
    ] = "jsonl",
    resume: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--resume", help="Play what is missing in the run.")
    ] = False,
    retry_failed: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option("--retry-failed", help="With --resume: also what failed before."),
    ] = False,
    replicas: Annotated[int, typer.Option(min=1, help="Servers to start for it.")] = 1,
    image: Annotated[
        str, typer.Option(help="Container image to start.", show_default=False)
    ] = "",
    environment: Annotated[
        str | None, typer.Option(help="Which of the server's environments.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="OPENENV_ASYNC_TOKEN", help="The server's bearer token."),
    ] = None,
    base_url: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL",
            help="For chat: the model's server, such as http://localhost:8000/v1.",
        ),
    ] = "",
    api_key: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_API_KEY",
            help="For chat; better given in the variable.",
            show_default=False,
        ),
    ] = "none",
    system: Annotated[
        str,
        typer.Option(
            help="For chat: the first message, if not the environment's description "
            "and the schema of its actions.",
            show_default=False,
        ),
    ] = "",
    sampling: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="For chat: arguments such as '{\"temperature\": 0.8}'."
        ),
    ] = "{}",
    logprobs: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--logprobs", help="For chat: ask for log-probabilities.")
    ] = False,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
) -> None:
    """Play episodes with a policy, many at once, and keep them on disk.

    An episode that counts is on disk for good: after a crash or Ctrl-C, the same
    command with --resume plays what is missing. Progress goes to standard error, the
    result to standard output. Exit status 1 if every episode failed, 130 after Ctrl-C.
    """
    if retry_failed and not resume:
        raise LocalProtocolError("expected --resume with --retry-failed")
    if bool(target) is bool(image):
        raise LocalProtocolError("expected an environment or --image, and not both")
    plan = RolloutPlan(
        folder=out,
        target=importable_target(target) if target else "",
        variables=search_path(target) if target else {},
        image=image,
        environment=environment,
        policy=policy,
        chat=ChatSettings(
            base_url=base_url,
            api_key=api_key,
            system=system,
            sampling=_decoded(sampling),
            logprobs=logprobs,
        ),
        tasks=int(tasks) if tasks.isdecimal() else read_tasks(tasks),
        tasks_label=tasks,
        options=CollectorOptions(
            seed=seed,
            group_size=group_size,
            group_seeds=group_seeds,
            concurrency=concurrency,
            batching=Batching(max=batch),
            max_steps=max_steps,
            step_timeout=step_timeout,
            episode_timeout=episode_timeout,
            policy_timeout=policy_timeout,
            retries=retries,
        ),
        replicas=replicas,
        episode_format=episode_format,
        resume=resume,
        retry_failed=retry_failed,
        token=token,
    )
    with shown() as show:
        played = _Played(plan, show)
        anyio.run(played.run)
    played.report(as_json=as_json)


def _decoded(text: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise LocalProtocolError(
            f"expected a JSON object for --sampling, got {text!r}: {error}"
        ) from error


class _Played:
    """A rollout as this command runs it.

    Args:
        plan: Which.
        show: Called with where it stands.
    """

    def __init__(
        self, plan: RolloutPlan, show: Callable[[RunStatistics, Seen], None]
    ) -> None:
        self._plan = plan
        self._show = show
        self._seen = Seen()
        self._rollout: Rollout | None = None
        self._statistics: RunStatistics | None = None
        self._error: OpenEnvError | None = None
        self._signal = 0
        self._total = 0

    async def run(self) -> None:
        """Play to the end, or until a signal."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_at_signal, group.cancel_scope)
            group.start_soon(self._poll)
            try:
                await self._play()
            except OpenEnvError as error:
                # Noted, because it would leave the task group in a group of errors.
                self._error = error
            group.cancel_scope.cancel()

    async def _play(self) -> None:
        async with open_rollout(self._plan) as opened:
            self._rollout = opened
            self._seen.resumed = opened.resumed
            try:
                if not self._signal:
                    await opened.play(recorded=self._seen.add)
            finally:
                self._statistics = opened.collector.statistics()
                self._total = len(opened.writer)
                self._rollout = None

    async def _poll(self) -> None:
        while True:
            if self._rollout is not None:
                self._show(self._rollout.collector.statistics(), self._seen)
            await anyio.sleep(_POLL)

    async def _end_at_signal(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                if self._signal or self._rollout is None:
                    # Asked twice, or before there is anything to keep.
                    self._signal = number
                    scope.cancel()
                    return
                self._signal = number
                self._rollout.collector.cancel()

    def report(self, *, as_json: bool) -> None:
        """Print the result.

        Raises:
            OpenEnvError: The rollout failed.
            Exit: It was interrupted, or every episode failed.
        """
        seen = self._seen
        stopped = self._error is not None or self._signal
        if stopped and (seen.count or seen.resumed):
            print(f"go on with: {_command()}", file=sys.stderr)
        if self._error is not None:
            raise self._error
        if self._statistics is not None:
            result = _Result(
                run=str(self._plan.folder),
                recorded=seen.count,
                episodes=self._total,
                failed=seen.failed,
                interrupted=bool(self._signal),
                mean_return=seen.mean_return,
                statistics=self._statistics,
            )
            print(msgspec.json.encode(result).decode() if as_json else str(result))
        if self._signal:
            raise typer.Exit(128 + self._signal)
        if seen.count and seen.failed == seen.count:
            raise typer.Exit(1)


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    run: str
    recorded: int
    """Episodes that this command played."""
    episodes: int
    """Episodes of the run."""
    failed: int
    interrupted: bool
    mean_return: float | None
    statistics: RunStatistics

    def __str__(self) -> str:
        state = self.statistics
        lines = [
            f"recorded {self.recorded} episodes with {state.steps} steps in "
            f"{state.elapsed:.1f} s; {self.run} has {self.episodes}"
        ]
        lines += [f"  {count} {label}" for label, count in state.outcomes.items()]
        if self.mean_return is not None:
            lines.append(f"mean return {self.mean_return:.4g}")
        if state.bottleneck is not None:
            lines.append(state.bottleneck.text)
        return "\n".join(lines)


def _command() -> str:
    """This command, so that it goes on."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join(["openenv-async", *arguments, "--resume"])
