"""Containers go with their owner, however that ends, and only with their own."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from openenv_async.providers.docker import DockerProvider, Owner
from openenv_async.providers.docker.identity import current_owner
from openenv_async.providers.docker.lifeline import Lifeline
from tests.chaos.processes import Process, is_alive, running, short_folder
from tests.providers.containers import (
    LABEL,
    containers_of,
    docker,
    socket_folders,
    started,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]

_OWNER = """
import asyncio, os, signal, sys, time
from openenv_async.providers.docker import DockerProvider

# A shell that ignores it, as under nohup, hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main(image, run, how):
    provider = DockerProvider(image, run=run)
    # So that the time to the start itself is short.
    await provider.list()
    print("begin", flush=True)
    container = await provider.start()
    if how == "fork" and not os.fork():
        time.sleep(8)
        os._exit(0)
    print("serving", container.name, flush=True)
    if how == "raise":
        raise RuntimeError("on purpose")
    if how == "stop":
        await provider.stop()
    elif how != "return":
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def run() -> Iterator[str]:
    """The label of a run of which nothing is left when the test ends."""
    run = secrets.token_hex(6)
    yield run
    left = containers_of(run)
    for name in left:
        docker("rm", "-f", name)
    assert not left


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the owners' output."""
    with short_folder() as folder:
        yield folder


def _watchers(owner: int) -> list[int]:
    """The watchers of an owner, dead or alive."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it is gone
            continue
        if any(word.endswith(b"watcher.py") for word in words) and (
            str(owner).encode() in words
        ):
            found.append(int(path.parent.name))
    return found


def _wait(condition: Callable[[], object], patience: float = 10.0) -> float:
    """Wait until something holds; returns for how long."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < patience, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - begin


def _bereave(process: Process) -> None:
    """Kill an owner, and before it the watcher of its containers."""
    (watcher,) = _watchers(process.pid)
    process.signal(signal.SIGSTOP)
    os.kill(watcher, signal.SIGKILL)
    process.kill()


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("stop", None),
        ("return", None),
        ("raise", None),
        ("sleep", signal.SIGINT),
        ("sleep", signal.SIGTERM),
        ("sleep", signal.SIGKILL),
        ("fork", signal.SIGKILL),
    ],
)
def test_container_goes_with_its_owner(
    echo_image: str,
    run: str,
    folder: Path,
    how: str,
    number: signal.Signals | None,
) -> None:
    """Soon after its owner ends, in whatever way, a container is gone."""
    with running(["-c", _OWNER, echo_image, run, how], folder) as process:
        process.line("serving ")
        watchers = _watchers(process.pid)
        if number is not None:
            process.signal(number)
        process.wait()
        _wait(lambda: not containers_of(run), patience=15.0)
        _wait(lambda: not any(map(is_alive, watchers)), patience=15.0)
        assert not socket_folders(process.pid)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3])
def test_container_goes_with_an_owner_that_was_just_starting_it(
    echo_image: str, run: str, folder: Path, delay: float
) -> None:
    """An owner that is killed while the engine works for it leaves nothing."""
    with running(["-c", _OWNER, echo_image, run, "sleep"], folder) as process:
        process.line("begin")
        time.sleep(delay)
        process.kill()
        _wait(lambda: not _watchers(process.pid), patience=20.0)
        assert not containers_of(run)
        assert not socket_folders(process.pid)


def test_start_removes_what_a_dead_owner_left(
    echo_image: str, run: str, folder: Path
) -> None:
    """What no watcher removed, the next start does; what has an owner stays."""
    arguments = ["-c", _OWNER, echo_image, run, "sleep"]
    with running(arguments, folder) as living, running(arguments, folder) as dying:
        kept = living.line("serving ")
        lost = dying.line("serving ")
        _bereave(dying)
        assert containers_of(run) == sorted([kept, lost])

        async def start() -> None:
            async with started(echo_image) as provider:
                await provider.start()
                assert await anyio.to_thread.run_sync(containers_of, run) == [kept]
                assert not await anyio.to_thread.run_sync(socket_folders, dying.pid)

        anyio.run(start)
        living.signal(signal.SIGTERM)
        _wait(lambda: not containers_of(run))


async def test_cleanup_removes_only_orphans(
    echo_image: str, run: str, folder: Path
) -> None:
    """cleanup() says what it would remove, and removes that and nothing else."""

    def bereaved() -> str:
        with running(["-c", _OWNER, echo_image, run, "sleep"], folder) as process:
            name = process.line("serving ")
            _bereave(process)
            return name

    async with started(echo_image) as provider:
        mine = await provider.start()
        lost = await anyio.to_thread.run_sync(bereaved)
        for dry_run in (True, False):
            removals = await provider.cleanup(dry_run=dry_run)
            (removal,) = [one for one in removals if one.container.run == run]
            assert removal.container.name == lost
            assert removal.is_removed is not dry_run
            assert "is gone" in removal.reason
        assert mine.name in [found.name for found in await provider.list()]
        assert await mine.diagnose() is None


_ELSEWHERE = {"host": "elsewhere/1/2", "boot": "x", "pid": "1", "start": "1"}


@pytest.mark.parametrize(
    ("labels", "is_removed"),
    [
        # Its process number is ours now, but it is not ours.
        ({"start": "1"}, True),
        ({"pid": "4194305"}, True),
        ({}, False),
        # A lease counts from its end, plus a minute.
        (_ELSEWHERE | {"lease": "-59"}, True),
        (_ELSEWHERE | {"lease": "600"}, False),
        (_ELSEWHERE | {"lease": "0"}, False),
        (_ELSEWHERE | {"lease": "nonsense", "pid": "nonsense"}, False),
        ({"boot": "before", "lease": "-59"}, True),
        ({"boot": "before", "lease": "600"}, False),
    ],
)
async def test_cleanup_tells_owners_apart(
    echo_image: str, run: str, labels: dict[str, str], is_removed: bool
) -> None:
    """An owner is gone when its process is; elsewhere, when its lease is over."""
    here = await anyio.to_thread.run_sync(current_owner)
    stamped = {
        "name": run,
        "run": run,
        "host": here.host,
        "boot": here.boot,
        "pid": str(here.pid),
        "start": here.start,
        **labels,
    }
    flags = [f"--label={LABEL}.{name}={text}" for name, text in stamped.items()]

    def make() -> None:
        docker("run", "-d", "--name", run, *flags, "--entrypoint=true", echo_image)
        docker("wait", run)
        time.sleep(1.1)

    await anyio.to_thread.run_sync(make)
    try:
        removals = await DockerProvider(echo_image).cleanup()
        gone = [one.container.run for one in removals if one.is_removed]
        assert (run in gone) is is_removed
        assert (await anyio.to_thread.run_sync(containers_of, run) == []) is is_removed
    finally:
        await anyio.to_thread.run_sync(lambda: docker("rm", "-f", run, check=False))


async def test_cleanup_keeps_what_is_made_of_a_container(
    echo_image: str, run: str
) -> None:
    """An image committed from a container has its labels, but is somebody else's."""
    image, name = f"openenv-test-{run}", f"other-{run}"

    def make(container: str) -> None:
        docker("commit", "--change", f"LABEL {LABEL}.pid=4194305", container, image)
        docker("run", "-d", "--name", name, "--entrypoint=sleep", image, "60")

    async with started(echo_image) as provider:
        try:
            container = await provider.start()
            await anyio.to_thread.run_sync(make, container.name)
            removals = await provider.cleanup()
            assert provider.run not in [one.container.run for one in removals]
            names = [found.name for found in await provider.list()]
            assert container.name in names
            assert name not in names
        finally:
            for what in (("rm", "-f", name), ("rmi", "-f", image)):
                await anyio.to_thread.run_sync(partial(docker, *what, check=False))


async def test_cleanup_heeds_only_labels_of_ours(run: str, echo_image: str) -> None:
    """What an image calls its `pid`, `start` and `run` names no owner."""
    image = f"openenv-test-{run}"
    change = "LABEL pid=4194305 start=1 run=other owner=other host=other"

    def make() -> None:
        name = docker("create", echo_image)
        docker("commit", "--change", change, name, image)
        docker("rm", name)

    await anyio.to_thread.run_sync(make)
    try:
        async with started(image) as provider:
            container = await provider.start()
            (found,) = [one for one in await provider.list() if one.run == provider.run]
            assert found.process == await anyio.to_thread.run_sync(current_owner)
            removals = await provider.cleanup()
            assert container.name not in [one.container.name for one in removals]
    finally:
        await anyio.to_thread.run_sync(partial(docker, "rmi", image, check=False))


async def test_cleanup_keeps_what_runs_elsewhere(echo_image: str, run: str) -> None:
    """A container of another host that still runs has an owner, or ends by itself."""
    stamped = {"name": run, "run": run, **_ELSEWHERE, "lease": "-1000"}
    flags = [f"--label={LABEL}.{name}={text}" for name, text in stamped.items()]
    named = ["--name", run, *flags, "--entrypoint=sleep", echo_image, "60"]
    await anyio.to_thread.run_sync(lambda: docker("run", "-d", *named))
    try:
        removals = await DockerProvider(echo_image).cleanup()
        assert run not in [removal.container.run for removal in removals]
        assert run in [found.run for found in await DockerProvider(echo_image).list()]
    finally:
        await anyio.to_thread.run_sync(lambda: docker("rm", "-f", run))


# The watcher


async def test_watcher_is_there_while_containers_are(echo_image: str) -> None:
    """One watcher serves all containers of a process, and ends with the last one."""
    async with started(echo_image) as provider:
        first = await provider.start()
        (watcher,) = await anyio.to_thread.run_sync(_watchers, os.getpid())
        second = await provider.start()
        await first.stop()
        assert await anyio.to_thread.run_sync(_watchers, os.getpid()) == [watcher]
        await second.stop()
        assert not await anyio.to_thread.run_sync(_watchers, os.getpid())


async def test_watcher_is_replaced(echo_image: str) -> None:
    """A watcher that somebody killed is replaced by one that knows all containers."""
    async with started(echo_image) as provider:
        await provider.start()
        (watcher,) = await anyio.to_thread.run_sync(_watchers, os.getpid())
        os.kill(watcher, signal.SIGKILL)
        await provider.start()
        found = await anyio.to_thread.run_sync(_watchers, os.getpid())
        living = await anyio.to_thread.run_sync(lambda: list(filter(is_alive, found)))
        assert len(living) == 1
        assert living != [watcher]


def test_lifeline_of_a_fork_is_its_own() -> None:
    """A forked process has no containers of its parent's, and no hold on them."""
    lifeline = Lifeline("unix:///nowhere")
    lifeline.expect("a", None)
    child = os.fork()
    if not child:
        try:
            lifeline.expect("b", None)
            lifeline.confirm("a")
            lifeline.release("b")
            os._exit(lifeline.pid is not None)
        finally:
            os._exit(9)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert lifeline.pid is not None
    lifeline.release("a")
    lifeline.release("a")
    assert lifeline.pid is None


# Who an owner is


def test_owner_is_this_process() -> None:
    """This process is alive; the same number at another time is not."""
    owner = current_owner()
    assert owner.is_alive()
    values = vars(owner)
    assert not Owner(**{**values, "start": "1"}).is_alive()
    assert not Owner(**{**values, "pid": 2**22 + 1}).is_alive()
    assert Owner(**{**values, "host": "elsewhere"}).is_alive() is None
    assert Owner(**{**values, "boot": "before"}).is_alive() is None


def test_owner_that_nobody_waited_for_is_gone() -> None:
    """A process that has ended is gone, although its parent keeps its number."""
    child = os.fork()
    if not child:
        os._exit(0)
    owner = current_owner()
    stat = Path(f"/proc/{child}/stat")
    _wait(lambda: ") Z " in stat.read_text())
    assert Owner(host=owner.host, boot=owner.boot, pid=child, start="").is_alive() is (
        False
    )
    os.waitpid(child, 0)
