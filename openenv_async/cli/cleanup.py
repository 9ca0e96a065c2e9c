"""`openenv-async cleanup`: containers that nobody will remove any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import anyio
import typer

from ..errors import OpenEnvError
from ..providers.docker import Engine, Removal, default_name, remove_orphans

__all__ = ["cleanup"]


def cleanup(
    dry_run: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool, typer.Option("--dry-run", help="Only say what would be removed, and why.")
    ] = False,
    all_mine: Annotated[  # noqa: FBT002 (typer's way to declare a flag)
        bool,
        typer.Option(
            "--all-mine", help="Remove all of yours too, even those that are in use."
        ),
    ] = False,
    owner: Annotated[
        str | None,
        typer.Option(help="Whose containers are yours; by default the user's name."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Address of the engine, if not the `docker` command's."),
    ] = None,
) -> None:
    """Remove containers whose owner is gone, with their sockets, and no others.

    An owner is a process; it is gone when this machine does not run it any more. Of
    owners on other machines, only what has ended and was left for long is removed.
    """
    everything = (owner or default_name()) if all_mine else None

    async def run() -> Sequence[Removal]:
        return await remove_orphans(Engine(engine), all_of=everything, dry_run=dry_run)

    removals = anyio.run(run)
    for removal in removals:
        print(_line(removal, dry_run=dry_run))
    failed = [removal for removal in removals if removal.error]
    if not removals:
        print("nothing to remove")
    elif failed:
        raise OpenEnvError(
            f"expected to remove {len(removals)} containers, could not remove "
            f"{len(failed)}"
        )


def _line(removal: Removal, *, dry_run: bool) -> str:
    container = removal.container
    if removal.error:
        return f"could not remove {container.name}: {removal.error}"
    verb = "would remove" if dry_run else "removed"
    return (
        f"{verb} {container.name} ({container.image}, {container.state}, of "
        f"{container.owner}): {removal.reason}"
    )
