"""`openenv-async rollout`: episodes of an environment, played and kept on disk."""

from __future__ import annotations

import shlex
import shutil
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
from ..rollout.runs import Rollout, RolloutPlan, count_tasks, read_tasks
from ..rollout.runs import rollout as open_rollout
from ..rollout.runs.policies import ChatSettings
from ..rollout.starts import TasksLike
from ..rollout.timing import RunStatistics
from ..scaffold import (
    importable_module,
    importable_target,
    search_path,
    source_folder,
)
from .interrupts import enforced
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
    sockets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Connections to each server, if not as many as suit the sessions.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Observations of one call of a batch policy.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Where all other seeds derive from.")] = 0,
    max_steps: Annotated[
        int,
        typer.Option(
            min=0, help="Steps after which to truncate an episode; 0 for no bound."
        ),
    ] = 1000,
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
    recovery_timeout: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds without a reachable server after which to give up; until "
            "then it is tried again, and episodes wait.",
        ),
    ] = 60.0,
    episode_format: Annotated[
        Literal["jsonl", "parquet"],
        typer.Option("--format", help="JSON lines with zstd, or Parquet."),
    ] = "jsonl",
    resume: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--resume", help="Play what is missing in the run; without one, begin it."
        ),
    ] = False,
    retry_failed: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--retry-failed",
            help="With --resume: also what failed before; that is recorded as an "
            "earlier attempt.",
        ),
    ] = False,
    salvage: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--salvage",
            help="With --resume: mend damaged files. What can't be read is played "
            "again, and a copy of each file is kept.",
        ),
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
    web: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--web",
            help="Watch it in the debug pane while it runs: at a port of this machine, "
            "which everybody on it may use.",
        ),
    ] = False,
    as_json: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--json", help="Print the result as JSON.")
    ] = False,
) -> None:
    """Play episodes with a policy, many at once, and keep them on disk.

    An episode that counts is on disk for good: after a crash or Ctrl-C, the same
    command with --resume plays what is missing. Progress goes to standard error, the
    result to standard output.

    Exit status: 0 if the run is complete and has an episode that did not fail; 1 if
    every episode of the run failed, if the rollout broke off (the result and the reason
    are printed), or if the run is damaged; 2 if the command or what it names is wrong,
    and nothing was played; 130 after Ctrl-C and 143 after SIGTERM.
    """
    for flag, given in (("--retry-failed", retry_failed), ("--salvage", salvage)):
        if given and not resume:
            raise LocalProtocolError(f"expected --resume with {flag}")
    if bool(target) is bool(image):
        raise LocalProtocolError("expected an environment or --image, and not both")
    if ":" in policy:
        # A policy is found where the command is run, whatever plays where.
        importable_module()
    found, task_count = _tasks(tasks)
    plan = RolloutPlan(
        folder=out,
        target=importable_target(target) if target else "",
        variables=search_path(target) if target else {},
        source=source_folder(target) if target else "",
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
        tasks=found,
        tasks_label=tasks,
        task_count=task_count,
        options=CollectorOptions(
            seed=seed,
            group_size=group_size,
            group_seeds=group_seeds,
            concurrency=concurrency,
            batching=Batching(max=batch),
            max_steps=max_steps or None,
            step_timeout=step_timeout,
            episode_timeout=episode_timeout,
            policy_timeout=policy_timeout,
            retries=retries,
            recovery_timeout=recovery_timeout,
        ),
        replicas=replicas,
        sockets=sockets,
        episode_format=episode_format,
        resume=resume,
        retry_failed=retry_failed,
        salvage=salvage,
        token=token,
        web=web,
    )
    with shown() as show:
        played = _Played(plan, show)
        anyio.run(played.run)
    played.report(as_json=as_json)


def _tasks(text: str) -> tuple[TasksLike, int]:
    """The tasks that --tasks names, and how many there are."""
    if text.isdecimal() and int(text):
        return int(text), int(text)
    try:
        float(text)
    except ValueError:
        pass
    else:
        # No name of a file that anybody means.
        raise LocalProtocolError(
            "expected a whole number above 0 for --tasks, or a file of JSON lines, got "
            f"{text!r}"
        )
    return read_tasks(text), count_tasks(text)


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
        self._failed_before = 0

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
            self._began(opened)
            try:
                if not self._signal:
                    await opened.play(recorded=self._seen.add)
            finally:
                self._statistics = opened.collector.statistics()
                self._total = len(opened.writer)
                self._rollout = None

    def _began(self, opened: Rollout) -> None:
        self._seen.resumed = opened.resumed
        self._failed_before = opened.failed_before
        if self._plan.resume and opened.is_new:
            # Whoever mistyped the name of a run should see it.
            print(f"no run at {self._plan.folder} yet: begun anew", file=sys.stderr)
        for address in opened.panes:
            print(f"debug pane while it runs: {address}", file=sys.stderr)
        for mended in opened.salvaged:
            print(str(mended), file=sys.stderr)

    async def _poll(self) -> None:
        while True:
            if self._rollout is not None:
                self._show(self._rollout.collector.statistics(), self._seen)
            await anyio.sleep(_POLL)

    async def _end_at_signal(self, scope: anyio.CancelScope) -> None:
        numbers = signal.SIGINT, signal.SIGTERM
        with (
            anyio.open_signal_receiver(*numbers) as received,
            enforced(*numbers) as interrupts,
        ):
            async for number in received:
                interrupts.taken()
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
        if self._statistics is not None:
            result = _Result(
                run=str(self._plan.folder),
                recorded=seen.count,
                episodes=self._total,
                expected=self._plan.episodes,
                failed=seen.failed,
                failed_before=self._failed_before,
                interrupted=bool(self._signal),
                error=None if self._error is None else self._error.message,
                mean_return=seen.mean_return,
                not_finite=seen.not_finite,
                steps=seen.steps,
                outcomes=dict(seen.outcomes),
                messages=seen.messages,
                statistics=self._statistics,
            )
            print(msgspec.json.encode(result).decode() if as_json else str(result))
            show = shlex.join([_program(), "show", str(self._plan.folder)])
            print(f"look at it with: {show}   (--web: in a browser)", file=sys.stderr)
        stopped = self._error is not None or self._signal
        is_there = seen.count or seen.resumed or self._signal
        if stopped and self._statistics is not None and is_there:
            # Not where it was refused: the same command would be so again.
            print(f"go on with: {_command()}", file=sys.stderr)
        if self._error is not None:
            raise self._error
        if self._signal:
            raise typer.Exit(128 + self._signal)
        if self._total and self._failed_before + seen.failed >= self._total:
            raise typer.Exit(1)


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    run: str
    recorded: int
    """Episodes that this command played."""
    episodes: int
    """Episodes of the run."""
    expected: int | None
    """Episodes that it has when it is complete; null where that is not known."""
    failed: int
    """Of those that this command played."""
    failed_before: int
    """Of those that the run had before."""
    interrupted: bool
    error: str | None
    """Why it broke off."""
    mean_return: float | None
    """Of the episodes that have a return."""
    not_finite: int
    """Episodes whose return is NaN or infinite, which counts as none."""
    steps: int
    """Of the recorded episodes, as everything above."""
    outcomes: dict[str, int]
    messages: dict[str, str]
    """What the first failure of each kind said."""
    statistics: RunStatistics
    """Of all that was played, also of what is not recorded."""

    def __str__(self) -> str:
        state = self.statistics
        of = f" of {self.expected}" if self.expected is not None else ""
        lines = [
            f"recorded {self.recorded} episodes with {self.steps} steps in "
            f"{state.elapsed:.1f} s; {self.run} has {self.episodes}{of}"
        ]
        for label, count in self.outcomes.items():
            lines.append(f"  {count} {label}")
            if label in self.messages:
                lines.append(f"      the first one: {self.messages[label]}")
        if self.failed_before:
            lines.append(
                f"  {self.failed_before} failed before (--retry-failed plays them)"
            )
        if given_up := state.outcomes.get("truncated: cancelled"):
            lines.append(f"  {given_up} given up when it was interrupted, not recorded")
        if self.not_finite:
            lines.append(f"  {self.not_finite} count for no return: it is not finite")
        if self.mean_return is not None:
            lines.append(f"mean return {self.mean_return:.4g}")
        if state.bottleneck is not None:
            lines.append(state.bottleneck.text)
        return "\n".join(lines)


def _program() -> str:
    """This program: by its path where a shell would not find its name."""
    name, started = "openenv-async", Path(sys.argv[0])
    return str(started) if started.name == name and not shutil.which(name) else name


def _command() -> str:
    """This command, so that it goes on."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    return shlex.join([_program(), *arguments, "--resume"])
