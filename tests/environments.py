"""Environments that do what a test tells them, for servers in and outside of tests.

`ScriptedEnvironment` is async, `BlockingEnvironment` is not. An action names a deed; a
reset does the deed that its options name. What happened is written down in `journal`
and `executions`, and for other processes in the file that the options name.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import os
import signal
import threading
import time
from collections import Counter
from typing import Any, ClassVar, Final

import anyio
import anyio.lowlevel

from openenv_async import Action, Array, Environment, InvalidAction, Observation, State
from openenv_async.environment import EnvironmentMetadata

__all__ = [
    "BlockingEnvironment",
    "Command",
    "Report",
    "ScriptedEnvironment",
    "UnbuildableEnvironment",
    "executions",
    "gates",
    "journal",
    "sleeping",
]

journal: Final[list[str]] = []
"""What happened in this process, in order: `built`, `reset NAME`, `closed NAME`."""
executions: Final[Counter[str]] = Counter()
"""How often a step with this text was executed in this process."""
gates: Final[dict[str, asyncio.Event]] = {}
"""Events that `wait` waits for, by the action's text."""
barriers: Final[dict[str, threading.Event]] = {}
"""The same for blocking environments."""
sleeping: Final[set[str]] = set()
"""Texts of the actions that wait now."""

_mark: contextvars.ContextVar[str] = contextvars.ContextVar("_mark", default="unset")


class Command(Action):
    """Tells an environment what to do."""

    do: str = "count"
    text: str = ""
    seconds: float = 0.0
    size: int = 0
    data: Array | None = None


class Report(Observation):
    """Tells what an environment did."""

    count: int = 0
    """Steps that this instance has executed in its episode."""
    text: str = ""
    data: Array | None = None


class _NoZone(datetime.tzinfo):
    """Raises what no encoder is known to raise."""

    def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta:
        raise _Unspeakable

    dst = utcoffset

    def tzname(self, dt: datetime.datetime | None) -> str:
        return "nowhere"


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class _Scripted(Environment[Command, Report, State]):
    """What both kinds have in common."""

    length: ClassVar[int] = 0
    """Steps of an episode; 0 for endless ones."""

    def __init__(self) -> None:
        journal.append("built")
        self._name: str | None = None
        self._count = 0
        self._length = self.length
        self._options: dict[str, Any] = {}

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Report:
        self._options = dict(options or {})
        self._length = self._options.get("length", self.length)
        self._name = episode_id
        self._count = 0
        journal.append(f"reset {episode_id}")
        self._write("reset")
        self._misdeed(self._options.get("do", ""), self._options.get("text", ""))
        return Report(text=f"seed {seed}")

    def _write(self, event: str) -> None:
        """Tell another process; a file is what survives this one."""
        path = self._options.get("journal")
        if path:
            with open(path, "a") as file:
                file.write(f"{event} {self._name} {os.getpid()}\n")

    def _counted(self, action: Command) -> Report:
        self._count += 1
        if action.text:
            executions[action.text] += 1
        self._write("step")
        return Report(
            count=self._count,
            text=action.text,
            reward=float(self._count),
            terminated=self._count == self._length,
        )

    def _misdeed(self, deed: str, text: str) -> None:
        """Raise what the deed names, or end the process; do nothing for others."""
        match deed:
            case "fail":
                raise ValueError(text)
            case "refuse":
                raise InvalidAction(text)
            case "cancel":
                raise asyncio.CancelledError(text)
            case "exit":
                raise SystemExit(text)
            case "interrupt":
                raise KeyboardInterrupt(text)
            case "unspeakable":
                raise _Unspeakable
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "surrogate":
                raise ValueError("\udc80")
            case "nothing" | "":
                pass

    def _odd_value(self, action: Command) -> Any:
        """Return what is no observation, or none that can be encoded."""
        match action.do:
            case "wrong":
                return "not an observation"
            case "none":
                return None
            case "unencodable":
                return Report(metadata={"object": object()})
            case "odd":
                odd = datetime.datetime(2000, 1, 1, tzinfo=_NoZone())
                return Report(metadata={"odd": odd})
            case "huge":
                return Report(metadata={"huge": 2**80})
            case "surrogates":
                return Report(text="\udc80")
            case "mistyped":
                return Report(count="many")  # type: ignore[arg-type]  # on purpose
        return None

    def state(self) -> State:
        self._misdeed(self._options.get("state", ""), "state")
        return State(episode_id=self._name, step_count=self._count)

    def _observe(self, action: Command) -> Report:
        report = self._counted(action)
        if action.do == "array":
            data = Array("|u1", (action.size,), memoryview(bytes(action.size)))
            return Report(count=self._count, data=data)
        if action.do == "reflect":
            return Report(count=self._count, data=action.data)
        if action.do == "pid":
            return Report(count=self._count, text=str(os.getpid()))
        if action.do == "truncate":
            return Report(count=self._count, truncated=True)
        if action.do == "block":
            time.sleep(action.seconds)
        if action.do == "progress":
            for part in range(1, 4):
                self.report_progress(part / 4, f"part {part}")
        if action.do == "bad_progress":
            self.report_progress(0.5, "\udc80")
        return report


class ScriptedEnvironment(_Scripted):
    """An async environment that does what it is told."""

    name = "scripted"
    execution = "inline"

    async def step(self, action: Command) -> Report:
        if action.do in _ODD:
            self._counted(action)
            return self._odd_value(action)  # type: ignore[no-any-return]  # on purpose
        if action.do.endswith("_later"):
            await asyncio.sleep(0)
        self._misdeed(action.do.removesuffix("_later"), action.text)
        deed = getattr(self, f"_do_{action.do}", None)
        if deed is not None:
            found: Report = await deed(action)
            return found
        return self._observe(action)

    async def close(self) -> None:
        if self._options.get("close") == "hang":
            await asyncio.sleep(60)
        await asyncio.sleep(0)
        self._misdeed(self._options.get("close", ""), "close")
        journal.append(f"closed {self._name}")
        self._write("closed")

    async def _do_sleep(self, action: Command) -> Report:
        await asyncio.sleep(action.seconds)
        return self._counted(action)

    async def _do_wait(self, action: Command) -> Report:
        """Wait for the gate; what is cancelled meanwhile has not counted."""
        sleeping.add(action.text)
        try:
            await gates[action.text].wait()
        finally:
            sleeping.discard(action.text)
        return self._counted(action)

    async def _do_swallow(self, action: Command) -> Report:
        """Wait for the gate, whoever cancels."""
        sleeping.add(action.text)
        while not gates[action.text].is_set():
            try:
                await gates[action.text].wait()
            except asyncio.CancelledError:
                continue
        sleeping.discard(action.text)
        return self._counted(action)

    async def _do_fail_cancelled(self, action: Command) -> Report:
        """Wait for the gate; when cancelled, fail."""
        sleeping.add(action.text)
        try:
            await gates[action.text].wait()
        except asyncio.CancelledError:
            raise ValueError(action.text) from None
        finally:
            sleeping.discard(action.text)
        return self._counted(action)

    async def _do_finish_cancelled(self, action: Command) -> Report:
        """Wait for the gate; when cancelled, finish the work and say so."""
        sleeping.add(action.text)
        try:
            await gates[action.text].wait()
        except asyncio.CancelledError:
            return self._counted(action)
        finally:
            sleeping.discard(action.text)
        return self._counted(action)

    async def _do_block_later(self, action: Command) -> Report:
        await asyncio.sleep(0)
        time.sleep(action.seconds)  # noqa: ASYNC251 (blocks on purpose)
        return self._counted(action)

    async def _do_timeout(self, action: Command) -> Report:
        try:
            async with asyncio.timeout(action.seconds):
                await asyncio.sleep(60)
        except TimeoutError:
            return Report(count=self._counted(action).count, text="timed out")
        raise AssertionError("the timeout did not fire")

    async def _do_group(self, action: Command) -> Report:
        seen: list[int] = []

        async def child(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(child(number))
        return Report(count=self._counted(action).count, text=str(sum(seen)))

    async def _do_failing_group(self, action: Command) -> Report:
        async def child() -> None:
            await asyncio.sleep(0)
            raise ValueError("a child failed")

        text = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.sleep(60)
        except* ValueError as errors:
            text = str(errors.exceptions[0])
        return Report(count=self._counted(action).count, text=text)

    async def _do_scope(self, action: Command) -> Report:
        with anyio.move_on_after(action.seconds) as scope:
            await anyio.sleep(60)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        await anyio.lowlevel.checkpoint()
        caught = str(scope.cancelled_caught)
        return Report(count=self._counted(action).count, text=caught)

    async def _do_task(self, action: Command) -> Report:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        same = asyncio.current_task() is before and before is not None
        return Report(count=self._counted(action).count, text=str(same))

    async def _do_context(self, action: Command) -> Report:
        """Tell what the context variable was, then set it."""
        before = _mark.get()
        _mark.set(action.text)
        await asyncio.sleep(0)
        assert _mark.get() == action.text
        return Report(count=self._counted(action).count, text=before)


_ODD = frozenset(
    ("wrong", "none", "unencodable", "odd", "huge", "surrogates", "mistyped")
)


class BlockingEnvironment(_Scripted):
    """The same without `async`."""

    name = "blocking"

    def step(self, action: Command) -> Report:
        if action.do in _ODD:
            self._counted(action)
            return self._odd_value(action)  # type: ignore[no-any-return]  # on purpose
        self._misdeed(action.do, action.text)
        if action.do == "sleep":
            time.sleep(action.seconds)
        elif action.do == "wait":
            sleeping.add(action.text)
            assert barriers[action.text].wait(60)
            sleeping.discard(action.text)
        elif action.do == "spin":
            _spin(action.seconds)
        elif action.do == "context":
            before = _mark.get()
            _mark.set(action.text)
            return Report(count=self._counted(action).count, text=before)
        return self._observe(action)

    def close(self) -> None:
        self._misdeed(self._options.get("close", ""), "close")
        journal.append(f"closed {self._name}")
        self._write("closed")


def _spin(seconds: float) -> None:
    """Compute without ever giving way, as a worker that nobody can talk to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class UnbuildableEnvironment(ScriptedEnvironment):
    """Cannot be constructed."""

    name = "unbuildable"

    def __init__(self) -> None:
        raise RuntimeError("no parts")

    @classmethod
    def metadata(cls) -> EnvironmentMetadata:
        return EnvironmentMetadata(name=cls.name, description="never runs")
