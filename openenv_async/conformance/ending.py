"""Checks of the end: sessions close in order and leave nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio

from ..client.description import server_health
from ..environment import AnyEnvironment, EnvironmentSpec
from ..memory import MemoryServer
from .subject import Subject
from .verdicts import Broken

__all__ = ["check_clean_close", "check_no_leak", "resources"]

_SEED: Final = 7
_SESSIONS: Final = 8
_ROUNDS: Final = 3
_PATIENCE: Final = 3.0
"""Seconds in which what was closed has to be gone."""
_POOLS: Final = ("asyncio_", "AnyIO worker thread")
"""Names of the threads of event loops."""


async def check_clean_close(subject: Subject) -> str:
    """close() succeeds: before a reset, in an episode, and after its end."""
    actions = subject.actions(_SEED)
    for text, play in (("before a reset", 0), ("in an episode", len(actions))):
        async with subject.session() as session:
            if play:
                await subject.play(session, _SEED, actions)
            error = await session.end()
            if error is not None:
                raise Broken(f"expected close() to succeed {text}, got {error}")
    return "closed before a reset and in an episode"


async def check_no_leak(subject: Subject) -> str:
    """What sessions leave behind does not grow: sessions, instances, threads, files.

    Of a server in another process only the sessions can be counted.
    """
    if subject.server is None:
        return await _check_sessions(subject)
    specs = list(subject.server.core.specs.values())
    # The first round opens what stays open, such as the loop's own threads.
    await _play_in_server_of_its_own(subject, specs)
    before = await _held()
    for _ in range(_ROUNDS):
        await _play_in_server_of_its_own(subject, specs)
    left = await _held() - before
    with anyio.move_on_after(_PATIENCE):
        while left:
            await anyio.sleep(0.05)
            left = await _held() - before
    if left:
        listed = ", ".join(f"{count} more {key}" for key, count in left.items())
        sessions = _ROUNDS * _SESSIONS
        raise Broken(f"expected nothing left of {sessions} sessions, got {listed}")
    return f"{_ROUNDS} servers with {_SESSIONS} sessions each left nothing"


async def _held() -> Counter[str]:
    tasks = len(asyncio.all_tasks())
    # Reads /proc, which blocks.
    return await anyio.to_thread.run_sync(resources) + Counter(tasks=tasks)


async def _check_sessions(subject: Subject) -> str:
    # Others may use the server meanwhile: only what stays is ours to explain.
    before = (await server_health(subject.url))["sessions"]
    await _play_many(subject)
    with anyio.move_on_after(_PATIENCE):
        # Nothing tells when a server forgets a session.
        while (await server_health(subject.url))["sessions"] > before:  # noqa: ASYNC110 (see above)
            await anyio.sleep(0.05)
    after = (await server_health(subject.url))["sessions"]
    if after > before:
        raise Broken(f"expected {before} sessions after closing ours, got {after}")
    return f"{_SESSIONS} sessions came and went; nothing else can be seen from here"


async def _play_in_server_of_its_own(
    subject: Subject, specs: list[EnvironmentSpec]
) -> None:
    living = weakref.WeakSet[AnyEnvironment]()
    watched = [_watched(spec, living) for spec in specs]
    server = await anyio.to_thread.run_sync(lambda: MemoryServer(watched))
    async with server:
        await _play_many(dataclasses.replace(subject, url=server.url, server=server))
        if server.sessions:
            raise Broken(f"expected no session left, got {server.sessions}")
    with anyio.move_on_after(_PATIENCE):
        while living:
            # Cycles are no leak.
            gc.collect()
            await anyio.sleep(0.01)
    if living:
        raise Broken(
            f"expected no environment left after close(), got {len(living)} that "
            "something still refers to"
        )


def _watched(
    spec: EnvironmentSpec, living: weakref.WeakSet[AnyEnvironment]
) -> EnvironmentSpec:
    """The same environment, but its instances are counted."""
    if spec.execution in ("process", "isolated"):
        return spec
    factory: Callable[[], AnyEnvironment] = spec.factory

    def build() -> AnyEnvironment:
        environment = factory()
        living.add(environment)
        return environment

    return dataclasses.replace(spec, factory=build)


async def _play_many(subject: Subject) -> None:
    async with anyio.create_task_group() as group:
        for seed in range(_SESSIONS):
            group.start_soon(subject.episode, seed, subject.actions(seed))


def resources() -> Counter[str]:
    """Count what this process holds: threads, open files, child processes.

    The loop's own pools of threads are left out: they grow with what runs at the same
    time, and stay for what comes next. Where there is no `/proc`, only threads are
    counted. It blocks for a moment.
    """
    names = [thread.name for thread in threading.enumerate()]
    counts = Counter[str](threads=sum(not name.startswith(_POOLS) for name in names))
    descriptors = Path("/proc/self/fd")
    if descriptors.is_dir():
        counts["open files"] = len(os.listdir(descriptors))
        for listing in Path("/proc/self/task").glob("*/children"):
            try:
                counts["child processes"] += len(listing.read_text().split())
            except OSError:
                continue  # the thread is gone
    return counts
