"""Let right and wrong solutions of HumanEval be judged, all tasks at once.

Run by `make demo-coding`. It serves the coding environment twice, with smolagents'
interpreter and with real Python: in containers where a Docker engine answers, else in
processes of this machine. Each episode is a task. First it submits solutions that are
broken in several ways, none of which may pass, then the canonical one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlencode

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coding_env import CodingAction, CodingEnv, CodingObservation, CodingState
from coding_env.tasks import Task, find_tasks
from openenv_async import (
    EnvBatch,
    Failure,
    LocalProvider,
    OpenEnvError,
    Provider,
    ProviderError,
    StepResult,
)

__all__: list[str] = []

PACKAGE: Final = Path(__file__).parents[1] / "envs" / "coding_env"
IMAGE: Final = "coding-env-humaneval:latest"
OPTIONS: Final = {"tasks": "human_eval", "max_timeout": 300}
EXPECTED: Final = {"smolagents": 160, "cpython": 164}
"""How many of the 164 canonical solutions must pass."""

Result = StepResult[CodingObservation] | Failure

# What is submitted


def _body(task: Task, body: str) -> str:
    return f"{task.prompt}\n    {body}\n"


def _changed(task: Task) -> str:
    name = task.entry_point
    return f"""{task.solution}

right = {name}

def {name}(*arguments):
    value = right(*arguments)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value + [None]
    if isinstance(value, tuple):
        return value + (None,)
    return "something else"
"""


def _always_equal(task: Task) -> str:
    return f"""class Equal(int):
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __lt__(self, other):
        return True
    def __hash__(self):
        return 0
    def __sub__(self, other):
        return self
    def __abs__(self):
        return self

def {task.entry_point}(*arguments):
    return Equal(0)
"""


def _patches(task: Task) -> str:
    return f"""def check(candidate):
    return None

def attack():
    import builtins, gc, sys
    builtins.AssertionError = KeyError
    builtins.exec = builtins.eval = builtins.compile = lambda *a, **k: None
    for module in list(sys.modules.values()):
        if "check" in dir(module):
            module.check = check
    for found in gc.get_objects():
        if type(found) is dict and "check" in found:
            found["check"] = check

def {task.entry_point}(*arguments):
    try:
        attack()
    except Exception:
        pass
"""


@dataclass(frozen=True)
class Variant:
    """A way to submit something for a task."""

    name: str
    code: Callable[[Task], str]
    timeout: float = 20.0
    is_right: bool = False


VARIANTS: Final = (
    Variant("wrong value", _changed),
    Variant("raises", lambda task: _body(task, "raise ValueError('no')")),
    Variant("exits", lambda task: _body(task, "raise SystemExit(0)")),
    Variant("only prints", lambda task: _body(task, "print('all tests passed')")),
    Variant("always equal", _always_equal),
    Variant("patches the tests", _patches),
    Variant("never ends", lambda task: _body(task, "while True: pass"), timeout=0.5),
    Variant("canonical", lambda task: task.solution or "", 240.0, is_right=True),
)
"""The last one ends the episode, because it passes."""
SLOW: Final = "HumanEval/75"
"""Its solution takes smolagents' interpreter 20 s or more: it begins with that."""


# What comes of it


@dataclass
class Score:
    """The verdicts on one interpreter's submissions.

    Args:
        interpreter: Its name.
        expected: How many submissions there will be.
    """

    interpreter: str
    expected: int
    judged: Counter[str] = field(default_factory=Counter)
    passed: defaultdict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failed: dict[str, str] = field(default_factory=dict)
    """Why a canonical solution did not pass, by task."""
    lost: list[str] = field(default_factory=list)
    """What kept a submission from being judged: never a verdict."""
    fences: Sequence[str] = ()

    @property
    def done(self) -> int:
        """Submissions that have an outcome."""
        return self.judged.total() + len(self.lost)

    def note(self, task: Task, variant: Variant, result: Result) -> None:
        """Take a verdict."""
        if isinstance(result, Failure):
            self.lost.append(f"{task.task_id}, {variant.name}: {result.error}")
            return
        observation = result.observation
        self.judged[variant.name] += 1
        if observation.passed:
            self.passed[variant.name].append(task.task_id)
        elif variant.is_right:
            why = str(observation.metadata.get("verdict"))
            if error := observation.error:
                why += f" ({error.type}: {error.message})"
            self.failed[task.task_id] = why

    def is_as_expected(self, tasks: int) -> bool:
        """Whether all that is right has passed, and nothing that is wrong."""
        broken = [one.name for one in VARIANTS if not one.is_right]
        right = sum(len(self.passed[one.name]) for one in VARIANTS if one.is_right)
        least = tasks - (164 - EXPECTED[self.interpreter])
        return (
            right >= least
            and not self.lost
            and self.done == self.expected
            and not any(self.passed[name] for name in broken)
        )


class Episodes:
    """Plays the tasks in the sessions of a batch, each task in one episode.

    Args:
        envs: The sessions.
        tasks: To be played, in this order.
        score: Takes the verdicts.
    """

    def __init__(
        self,
        envs: EnvBatch[CodingAction, CodingObservation, CodingState],
        tasks: Sequence[Task],
        score: Score,
    ) -> None:
        self._envs = envs
        self._waiting = deque(tasks)
        self._score = score
        self._playing: dict[int, tuple[Task, deque[Variant]]] = {}

    async def play(self) -> None:
        """Play all tasks."""
        for index in range(len(self._envs)):
            self._next_task(index)
        async for ready in self._envs.ready():
            for index, result in zip(ready.indices, ready.results, strict=True):
                self._take(index, result)

    def _next_task(self, index: int) -> None:
        if not self._waiting:
            return
        task = self._waiting.popleft()
        order = reversed(VARIANTS) if task.task_id == SLOW else VARIANTS
        self._playing[index] = task, deque(order)
        self._envs.send_reset([index], options={"task_id": task.task_id})

    def _take(self, index: int, result: Result) -> None:
        task, variants = self._playing[index]
        if isinstance(result, StepResult) and result.is_reset:
            self._score.fences = result.observation.metadata.get("fences", ())
            self._submit(index, task, variants[0])
            return
        self._score.note(task, variants.popleft(), result)
        if not variants:
            self._next_task(index)
        elif isinstance(result, Failure) or result.done:
            # The session has nothing to go on with; the next submission still counts.
            self._envs.send_reset([index], options={"task_id": task.task_id})
        else:
            self._submit(index, task, variants[0])

    def _submit(self, index: int, task: Task, variant: Variant) -> None:
        action = CodingAction(code=variant.code(task), timeout=variant.timeout)
        self._envs.send([index], [action])


# Where it runs


async def containers(console: Console) -> str:
    """Build the image, if it is not up to date; returns its name.

    Raises:
        ProviderError: There is no engine, or the image cannot be built.
    """
    try:
        from openenv_async.images import BuildProgress, build_image  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise ProviderError(f"expected the extra 'docker': {error}") from error
    with console.status(f"building {IMAGE}") as status:

        def show(progress: BuildProgress) -> None:
            text = Text(f"building {IMAGE}: {progress.phase}, {progress.text}")
            text.truncate(console.width - 4, overflow="ellipsis")
            status.update(text)

        await build_image(
            PACKAGE, tags=[IMAGE], extras=["server", "tasks"], progress=show
        )
    return IMAGE


async def choose(console: Console, where: str, image: str | None) -> str | None:
    """Choose an image, or None for processes of this machine."""
    if where == "local":
        return None
    try:
        return image or await containers(console)
    except ProviderError as error:
        if where == "docker":
            raise
        reason = error.message.splitlines()[0]
        console.print(f"no containers: {reason}", style="yellow", markup=False)
        return None


def provider_for(image: str | None, interpreter: str) -> Provider:
    """What serves an interpreter."""
    query = urlencode({**OPTIONS, "interpreter": interpreter})
    target = f"coding_env?{query}"
    if image is None:
        return LocalProvider(target)
    from openenv_async.providers.docker import (  # noqa: PLC0415 (an optional extra)
        DockerProvider,
    )

    return DockerProvider(image, environment={"OPENENV_ASYNC_TARGET": target})


# What the terminal shows


class Display:
    """Live bars in a terminal, a line every few seconds elsewhere.

    Args:
        console: Where to.
        scores: What to show.
    """

    def __init__(self, console: Console, scores: Sequence[Score]) -> None:
        self._console = console
        self._scores = scores
        self._started = monotonic()

    async def show(self) -> None:
        """Show the scores until cancelled."""
        if not self._console.is_terminal:
            while True:
                await anyio.sleep(5)
                self._console.print(self._line(), highlight=False)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._bars(), refresh=True)
                await anyio.sleep(0.1)

    def _line(self) -> str:
        parts = [
            f"{one.interpreter} {one.done} of {one.expected} judged, "
            f"{sum(map(len, one.passed.values()))} passed"
            for one in self._scores
        ]
        return f"{monotonic() - self._started:.0f} s: {'; '.join(parts)}"

    def _bars(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for one in self._scores:
            passed = sum(map(len, one.passed.values()))
            seconds = max(monotonic() - self._started, 0.001)
            table.add_row(
                one.interpreter,
                ProgressBar(one.expected, one.done, width=40),
                f"{one.done} of {one.expected} judged, {one.done / seconds:.0f}/s",
                f"[green]{passed} passed[/]",
                f"[red]{len(one.lost)} lost[/]" if one.lost else "",
            )
        return Group(table)


def summary(scores: Sequence[Score]) -> Table:
    """Pass rates by kind of submission and interpreter."""
    table = Table(title="passed the hidden tests", title_justify="left")
    table.add_column("submission")
    for score in scores:
        table.add_column(score.interpreter, justify="right")
    for variant in VARIANTS:
        cells = []
        for score in scores:
            passed, judged = len(score.passed[variant.name]), score.judged[variant.name]
            color = "green" if bool(passed) is variant.is_right else "bold red"
            cells.append(f"[{color}]{passed} of {judged}[/]")
        name = f"[bold]{variant.name}[/]" if variant.is_right else variant.name
        table.add_row(name, *cells)
    return table


def details(console: Console, score: Score) -> None:
    """Name what is not as it should be."""
    for task, why in score.failed.items():
        console.print(f"{score.interpreter}: {task} did not pass: {why}", markup=False)
    for variant in VARIANTS:
        if not variant.is_right and (passed := score.passed[variant.name]):
            text = f"{score.interpreter}: {variant.name!r} passed {', '.join(passed)}"
            console.print(text, style="bold red", markup=False)
    for text in score.lost:
        console.print(f"{score.interpreter}: lost {text}", style="red", markup=False)
    fences = ", ".join(score.fences) or "none"
    console.print(f"{score.interpreter}: fences in force: {fences}", style="dim")


# The run


async def judge(
    image: str | None, tasks: Sequence[Task], sessions: int, score: Score
) -> None:
    """Serve one interpreter and have everything judged."""
    provider = provider_for(image, score.interpreter)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(provider.stop)
        served = await provider.start()
        envs = await stack.enter_async_context(
            CodingEnv.batch(served.url, size=min(sessions, len(tasks)))
        )
        await Episodes(envs, tasks, score).play()


async def run(console: Console, chosen: argparse.Namespace, scores: list[Score]) -> str:
    """Judge with all interpreters at once; returns how long it took, and where."""
    image = await choose(console, chosen.where, chosen.image)
    tasks = pick(chosen.tasks)
    started = monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(Display(console, scores).show)
        async with anyio.create_task_group() as judges:
            for score in scores:
                judges.start_soon(judge, image, tasks, chosen.sessions, score)
        group.cancel_scope.cancel()
    where = f"containers of {image}" if image else "processes of this machine"
    return f"in {monotonic() - started:.1f} s, in {where}"


def pick(count: int) -> list[Task]:
    """The first so many tasks, the slow one in front."""
    known = find_tasks("human_eval")
    tasks = [known.choose(seed=seed) for seed in range(min(count, 164))]
    tasks.sort(key=lambda task: task.task_id != SLOW)
    return tasks


def main() -> int:
    """Judge, and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--where", choices=["auto", "docker", "local"], default="auto")
    parser.add_argument("--image", help="that serves the environment; else it is built")
    parser.add_argument("--sessions", type=int, default=32, help="of each interpreter")
    parser.add_argument("--tasks", type=int, default=164, help="the first so many")
    chosen = parser.parse_args()
    console = Console()
    expected = min(chosen.tasks, 164) * len(VARIANTS)
    scores = [Score(interpreter, expected) for interpreter in EXPECTED]
    try:
        where = asyncio.run(run(console, chosen, scores))
    except* (KeyboardInterrupt, OpenEnvError) as group:
        where = "before it stopped"
        for error in group.exceptions:
            why = str(error) or "interrupted"
            console.print(f"stopped early: {why}", style="bold red", markup=False)
    console.print(summary(scores))
    for score in scores:
        details(console, score)
    judged = sum(score.judged.total() for score in scores)
    console.print(f"{judged:,} submissions judged {where}")
    good = all(score.is_as_expected(min(chosen.tasks, 164)) for score in scores)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
