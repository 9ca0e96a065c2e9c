"""Containers that are ours, by their labels, and those whose owner is gone."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from ...errors import ProviderError
from .client import EngineClient
from .engine import Engine, explaining
from .identity import Owner, current_owner
from .posture import remove_folder

__all__ = [
    "Found",
    "Removal",
    "Terms",
    "find_containers",
    "labels_of",
    "plan_removals",
    "remove_orphans",
]

_PREFIX: Final = "org.openenv-async.container."
_RUN: Final = f"{_PREFIX}run"
"""Every container of ours has it."""
_AT_ONCE: Final = 8
"""Containers that are removed at a time."""
_GRACE: Final = 60.0
"""Seconds beyond its lease that an ended container of another host is kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What the containers of one provider have in common.

    Args:
        owner: Label to find them by.
        run: Label of what belongs together.
        lease: Seconds after which a server without clients ends itself; 0 never.
    """

    owner: str
    run: str
    lease: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A container of ours, or of somebody else who uses this package.

    Args:
        name: Its name; unique in its engine.
        image: The image, as it was named.
        state: The engine's word: "created", "running", "exited", "dead" ...
        created: When it was created, in seconds since the epoch.
        owner: The label of its owner.
        run: The label of its run.
        process: The process that started it.
        lease: Seconds after which its server ends without clients; 0 never.
        folder: The folder of its socket on its owner's machine; may be empty.
    """

    name: str
    image: str
    state: str
    created: float
    owner: str
    run: str
    process: Owner
    lease: float
    folder: str

    @property
    def is_running(self) -> bool:
        """Whether its server may still serve."""
        return self.state in ("running", "paused", "restarting")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """A container that is removed, or would be, and why.

    Args:
        container: What is removed.
        reason: Why, in a few words.
        is_removed: Whether it is gone; false in a dry run.
        error: Why it could not be removed; else empty.
    """

    container: Found
    reason: str
    is_removed: bool = False
    error: str = ""


def labels_of(terms: Terms, name: str, folder: str) -> Mapping[str, str]:
    """The labels of a container that this process starts; reads small files.

    Args:
        terms: What it has in common with others.
        name: Its name.
        folder: The folder of its socket; may be empty.
    """
    process = current_owner()
    values = {
        "name": name,
        "owner": terms.owner,
        "run": terms.run,
        "lease": f"{terms.lease:g}",
        "host": process.host,
        "boot": process.boot,
        "pid": str(process.pid),
        "start": process.start,
        "folder": folder,
    }
    return {f"{_PREFIX}{name}": value for name, value in values.items()}


async def find_containers(client: EngineClient) -> Sequence[Found]:
    """All containers that this package started, oldest first, whoever owns them."""
    rows = await client.find(_RUN)
    found = [one for one in map(_found, rows) if one is not None]
    return sorted(found, key=lambda one: (one.created, one.name))


def _found(row: Mapping[str, Any]) -> Found | None:
    """Read a row of the engine's list; None if the container is not ours."""
    # Only ours: an image may well have a label `pid` of its own.
    labels: dict[str, str] = {
        name.removeprefix(_PREFIX): text
        for name, text in row["Labels"].items()
        if name.startswith(_PREFIX)
    }
    name = str(row["Names"][0]).lstrip("/") if row["Names"] else str(row["Id"])
    # `docker commit` keeps a container's labels in the image, and so does whatever is
    # started from that: it is somebody else's, and so is what was given another name.
    if labels.get("name") != name:
        return None
    return Found(
        name=name,
        image=str(row["Image"]),
        state=str(row["State"]),
        created=float(row["Created"]),
        owner=labels.get("owner", ""),
        run=labels["run"],
        process=Owner(
            host=labels.get("host", ""),
            boot=labels.get("boot", ""),
            pid=int(_number(labels.get("pid"))),
            start=labels.get("start", ""),
        ),
        lease=_number(labels.get("lease")),
        folder=labels.get("folder", ""),
    )


def _number(text: str | None) -> float:
    """The number in a label; 0 for what somebody else may have written there."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


async def plan_removals(client: EngineClient) -> Sequence[Removal]:
    """The containers whose owner is gone, with the reasons."""
    found = await find_containers(client)
    alive = await anyio.to_thread.run_sync(
        lambda: [container.process.is_alive() for container in found]
    )
    removals: list[Removal] = []
    for container, is_alive in zip(found, alive, strict=True):
        if is_alive is False:
            reason = f"its owner, process {container.process.pid}, is gone"
        elif is_alive is None and await _is_over(client, container):
            reason = f"it has ended, and its owner on {_host_of(container)} let it lie"
        else:
            continue
        removals.append(Removal(container=container, reason=reason))
    return removals


def _host_of(container: Found) -> str:
    return container.process.host.partition("/")[0] or "an unknown host"


async def _is_over(client: EngineClient, container: Found) -> bool:
    """Whether a container of another host ended longer ago than its lease.

    Its owner cannot be asked. But its server ends by itself when nobody has been
    connected for that long, so one that runs has an owner, or will end.
    """
    if container.is_running or not container.lease:
        return False
    found = await client.inspect(container.name)
    if found is None:  # somebody else has removed it just now
        return False
    ended = max(container.created, _seconds(str(found["State"]["FinishedAt"])))
    return time.time() > ended + container.lease + _GRACE


def _seconds(moment: str) -> float:
    """The engine's `2024-05-06T07:08:09.123456789Z` in seconds since the epoch."""
    parsed = datetime.datetime.fromisoformat(moment[:19] + "+00:00")
    # The year 1 stands for never.
    return parsed.timestamp() if parsed.year > 1 else 0.0


async def remove_orphans(
    engine: Engine, *, all_of: str | None = None, dry_run: bool = False
) -> Sequence[Removal]:
    """Remove the containers whose owner is gone, and no others.

    Cancelling it leaves some for the next time.

    Args:
        engine: Where.
        all_of: Remove all with this owner's label too, whether they are in use or not.
        dry_run: Only say what would be removed.

    Returns:
        What was removed, or could not be, and why.

    Raises:
        ProviderError: The engine did not answer.
    """
    url = (await engine.facts()).url
    async with engine.connect() as client:
        removals = list(await plan_removals(client))
        if all_of is not None:
            planned = {removal.container.name for removal in removals}
            removals += [
                Removal(container=found, reason=f"all of {all_of!r} are to go")
                for found in await find_containers(client)
                if found.owner == all_of and found.name not in planned
            ]
        if dry_run:
            return removals
        slots = anyio.CapacityLimiter(_AT_ONCE)
        async with anyio.create_task_group() as group:
            for place in range(len(removals)):
                group.start_soon(_carry_out, client, url, slots, removals, place)
        if removals:
            await client.remove_network()
    return removals


async def _carry_out(
    client: EngineClient,
    url: str,
    slots: anyio.CapacityLimiter,
    removals: list[Removal],
    place: int,
) -> None:
    removal = removals[place]
    async with slots:
        try:
            with explaining(url):
                await client.remove(removal.container.name)
        except ProviderError as error:
            removals[place] = dataclasses.replace(removal, error=str(error))
            return
        await anyio.to_thread.run_sync(_remove_folder_of, removal.container)
        removals[place] = dataclasses.replace(removal, is_removed=True)


def _remove_folder_of(container: Found) -> None:
    """Remove the folder of its socket, if it is on this machine."""
    if container.folder and container.process.host == current_owner().host:
        remove_folder(container.folder)
